/* Atomic operations as compiler builtins: each becomes one operation of the checker. All of them are locked instructions on x86, so all are
 * sequentially consistent here; reads and sets are volatile accesses, which the checker takes for marked ones. */
#ifndef RACEWALK_ASM_ATOMIC_H
#define RACEWALK_ASM_ATOMIC_H

#include <linux/compiler.h>
#include <linux/types.h>
#include <asm/cmpxchg.h>
#include <asm/barrier.h>

#ifndef ATOMIC64_INIT
#define ATOMIC64_INIT(i) { (i) }
#endif

#define RW_ATOMIC_OP(prefix, type, word, op)                                                                  \
	static __always_inline void prefix##_##op(word i, type *v)                                            \
	{                                                                                                     \
		__atomic_fetch_##op(&v->counter, i, __ATOMIC_SEQ_CST);                                        \
	}                                                                                                     \
	static __always_inline word prefix##_fetch_##op(word i, type *v)                                      \
	{                                                                                                     \
		return __atomic_fetch_##op(&v->counter, i, __ATOMIC_SEQ_CST);                                 \
	}

#define RW_ATOMIC(prefix, type, word)                                                                         \
	static __always_inline word prefix##_read(const type *v)                                              \
	{                                                                                                     \
		return *(const volatile word *)&v->counter;                                                   \
	}                                                                                                     \
	static __always_inline void prefix##_set(type *v, word i)                                             \
	{                                                                                                     \
		*(volatile word *)&v->counter = i;                                                            \
	}                                                                                                     \
	RW_ATOMIC_OP(prefix, type, word, add)                                                                 \
	RW_ATOMIC_OP(prefix, type, word, sub)                                                                 \
	RW_ATOMIC_OP(prefix, type, word, and)                                                                 \
	RW_ATOMIC_OP(prefix, type, word, or)                                                                  \
	RW_ATOMIC_OP(prefix, type, word, xor)                                                                 \
	static __always_inline word prefix##_add_return(word i, type *v)                                      \
	{                                                                                                     \
		return __atomic_fetch_add(&v->counter, i, __ATOMIC_SEQ_CST) + i;                              \
	}                                                                                                     \
	static __always_inline word prefix##_sub_return(word i, type *v)                                      \
	{                                                                                                     \
		return __atomic_fetch_sub(&v->counter, i, __ATOMIC_SEQ_CST) - i;                              \
	}                                                                                                     \
	static __always_inline word prefix##_xchg(type *v, word n)                                            \
	{                                                                                                     \
		return __atomic_exchange_n(&v->counter, n, __ATOMIC_SEQ_CST);                                 \
	}                                                                                                     \
	static __always_inline word prefix##_cmpxchg(type *v, word old, word n)                               \
	{                                                                                                     \
		__atomic_compare_exchange_n(&v->counter, &old, n, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);     \
		return old;                                                                                   \
	}                                                                                                     \
	static __always_inline bool prefix##_try_cmpxchg(type *v, word *old, word n)                          \
	{                                                                                                     \
		return __atomic_compare_exchange_n(&v->counter, old, n, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
	}

RW_ATOMIC(arch_atomic, atomic_t, int)
RW_ATOMIC(arch_atomic64, atomic64_t, s64)

/* The generic fallbacks ask by name for what is there. */
#define arch_atomic_add_return arch_atomic_add_return
#define arch_atomic_sub_return arch_atomic_sub_return
#define arch_atomic_fetch_add arch_atomic_fetch_add
#define arch_atomic_fetch_sub arch_atomic_fetch_sub
#define arch_atomic_fetch_and arch_atomic_fetch_and
#define arch_atomic_fetch_or arch_atomic_fetch_or
#define arch_atomic_fetch_xor arch_atomic_fetch_xor
#define arch_atomic_xchg arch_atomic_xchg
#define arch_atomic_cmpxchg arch_atomic_cmpxchg
#define arch_atomic_try_cmpxchg arch_atomic_try_cmpxchg
#define arch_atomic64_add_return arch_atomic64_add_return
#define arch_atomic64_sub_return arch_atomic64_sub_return
#define arch_atomic64_fetch_add arch_atomic64_fetch_add
#define arch_atomic64_fetch_sub arch_atomic64_fetch_sub
#define arch_atomic64_fetch_and arch_atomic64_fetch_and
#define arch_atomic64_fetch_or arch_atomic64_fetch_or
#define arch_atomic64_fetch_xor arch_atomic64_fetch_xor
#define arch_atomic64_xchg arch_atomic64_xchg
#define arch_atomic64_cmpxchg arch_atomic64_cmpxchg
#define arch_atomic64_try_cmpxchg arch_atomic64_try_cmpxchg

#endif
