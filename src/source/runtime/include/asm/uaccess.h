/* The process's memory is reached through the modelled host mm. */
#ifndef RACEWALK_ASM_UACCESS_H
#define RACEWALK_ASM_UACCESS_H
#define raw_copy_from_user rw_patched_raw_copy_from_user
#define raw_copy_to_user rw_patched_raw_copy_to_user
#include_next <asm/uaccess.h>
#undef raw_copy_from_user
#undef raw_copy_to_user

unsigned long rw_copy_from_user(void *to, const void *from, unsigned long bytes);
unsigned long rw_copy_to_user(void *to, const void *from, unsigned long bytes);
/* 0 when it was exchanged, 1 when something else was there (left in *old), -EFAULT. */
int rw_cmpxchg_user(void *at, void *old, void *new, int bytes);

static inline unsigned long raw_copy_from_user(void *to, const void __user *from, unsigned long bytes)
{
	return rw_copy_from_user(to, (const void *)from, bytes);
}
static inline unsigned long raw_copy_to_user(void __user *to, const void *from, unsigned long bytes)
{
	return rw_copy_to_user((void *)to, from, bytes);
}

#undef __get_user
#undef get_user
#undef __put_user
#undef put_user
#undef __try_cmpxchg_user
#define __get_user(x, ptr)                                                              \
	({                                                                              \
		__typeof__(*(ptr)) __rw_value = 0;                                      \
		int __rw_error = rw_copy_from_user(&__rw_value, (const void *)(ptr), sizeof(__rw_value)) ? -EFAULT : 0; \
		(x) = (__typeof__(x))__rw_value;                                        \
		__rw_error;                                                             \
	})
#define __put_user(x, ptr)                                                              \
	({                                                                              \
		__typeof__(*(ptr)) __rw_value = (x);                                    \
		rw_copy_to_user((void *)(ptr), &__rw_value, sizeof(__rw_value)) ? -EFAULT : 0; \
	})
#define get_user __get_user
#define put_user __put_user
#define __try_cmpxchg_user(ptr, old, new, label)                                        \
	({                                                                              \
		__typeof__(*(ptr)) __rw_new = (new);                                    \
		rw_cmpxchg_user((void *)(ptr), (void *)(old), &__rw_new, sizeof(*(ptr))); \
	})
#endif
