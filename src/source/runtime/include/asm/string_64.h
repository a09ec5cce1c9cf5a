/* Filling memory word by word, in C. */
#ifndef RACEWALK_ASM_STRING_64_H
#define RACEWALK_ASM_STRING_64_H
#define memset16 rw_patched_memset16
#define memset32 rw_patched_memset32
#define memset64 rw_patched_memset64
#include_next <asm/string_64.h>
#undef memset16
#undef memset32
#undef memset64
#define RW_FILL(name, type)                                                    \
	static inline void *name(type *s, type v, __kernel_size_t n)           \
	{                                                                      \
		for (__kernel_size_t i = 0; i < n; i++)                        \
			s[i] = v;                                              \
		return s;                                                      \
	}
RW_FILL(memset16, __u16)
RW_FILL(memset32, __u32)
void rw_memset64(__u64 *s, __u64 v, __kernel_size_t n);
static inline void *memset64(__u64 *s, __u64 v, __kernel_size_t n)
{
	rw_memset64(s, v, n);
	return s;
}
#endif
