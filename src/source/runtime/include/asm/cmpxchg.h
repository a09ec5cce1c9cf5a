/* xchg() and cmpxchg() as compiler builtins. */
#ifndef RACEWALK_ASM_CMPXCHG_H
#define RACEWALK_ASM_CMPXCHG_H

#include <linux/compiler.h>

#define RW_SC __ATOMIC_SEQ_CST

/* Of any type of a word's size: some page-table entries are structures. */
#define arch_xchg(ptr, v)                                                                                     \
	({                                                                                                    \
		__typeof__(ptr) __rw_p = (ptr);                                                               \
		__typeof__(*__rw_p) __rw_new = (v), __rw_was;                                                 \
		__atomic_exchange(__rw_p, &__rw_new, &__rw_was, RW_SC);                                       \
		__rw_was;                                                                                     \
	})
#define arch_cmpxchg(ptr, old, new)                                                                           \
	({                                                                                                    \
		__typeof__(ptr) __rw_p = (ptr);                                                               \
		__typeof__(*__rw_p) __rw_old = (old);                                                         \
		__atomic_compare_exchange_n(__rw_p, &__rw_old, (__typeof__(*__rw_p))(new), 0, RW_SC, RW_SC);  \
		__rw_old;                                                                                     \
	})
#define arch_try_cmpxchg(ptr, pold, new)                                                                      \
	({                                                                                                    \
		__typeof__(ptr) __rw_p = (ptr);                                                               \
		__typeof__(*__rw_p) *__rw_pold = (void *)(pold), __rw_old = *__rw_pold;                       \
		bool __rw_ok = __atomic_compare_exchange_n(__rw_p, &__rw_old,                                 \
							   (__typeof__(*__rw_p))(new), 0, RW_SC, RW_SC);     \
		if (!__rw_ok)                                                                                 \
			*__rw_pold = __rw_old;                                                                \
		__rw_ok;                                                                                      \
	})
#define arch_cmpxchg_local arch_cmpxchg
#define arch_sync_cmpxchg arch_cmpxchg
#define arch_cmpxchg64 arch_cmpxchg
#define arch_cmpxchg64_local arch_cmpxchg
#define arch_try_cmpxchg64 arch_try_cmpxchg
#define arch_try_cmpxchg_local arch_try_cmpxchg
#define arch_try_cmpxchg64_local arch_try_cmpxchg
#define xadd(ptr, inc) __atomic_fetch_add((ptr), (inc), RW_SC)

#define system_has_cmpxchg_double() 0
#define system_has_cmpxchg128() 0

#endif
