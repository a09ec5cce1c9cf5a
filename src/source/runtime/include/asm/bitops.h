/* Bit operations: atomic ones as compiler builtins, test_bit() as a volatile (marked) load, the rest as plain C. */
#ifndef RACEWALK_ASM_BITOPS_H
#define RACEWALK_ASM_BITOPS_H

#include <linux/compiler.h>
#include <asm/barrier.h>

#define BIT_64(n) (U64_C(1) << (n))
#define RW_WORD(nr, addr) ((unsigned long *)(addr) + ((unsigned long)(nr) >> 6))
#define RW_BIT(nr) (1UL << ((nr) & 63))

static __always_inline void arch_set_bit(long nr, volatile unsigned long *addr)
{
	__atomic_fetch_or(RW_WORD(nr, addr), RW_BIT(nr), __ATOMIC_SEQ_CST);
}
static __always_inline void arch_clear_bit(long nr, volatile unsigned long *addr)
{
	__atomic_fetch_and(RW_WORD(nr, addr), ~RW_BIT(nr), __ATOMIC_SEQ_CST);
}
static __always_inline void arch_change_bit(long nr, volatile unsigned long *addr)
{
	__atomic_fetch_xor(RW_WORD(nr, addr), RW_BIT(nr), __ATOMIC_SEQ_CST);
}
static __always_inline bool arch_test_and_set_bit(long nr, volatile unsigned long *addr)
{
	return (__atomic_fetch_or(RW_WORD(nr, addr), RW_BIT(nr), __ATOMIC_SEQ_CST) & RW_BIT(nr)) != 0;
}
static __always_inline bool arch_test_and_clear_bit(long nr, volatile unsigned long *addr)
{
	return (__atomic_fetch_and(RW_WORD(nr, addr), ~RW_BIT(nr), __ATOMIC_SEQ_CST) & RW_BIT(nr)) != 0;
}
static __always_inline bool arch_test_and_change_bit(long nr, volatile unsigned long *addr)
{
	return (__atomic_fetch_xor(RW_WORD(nr, addr), RW_BIT(nr), __ATOMIC_SEQ_CST) & RW_BIT(nr)) != 0;
}
#define arch_test_and_set_bit_lock arch_test_and_set_bit
#define arch_clear_bit_unlock arch_clear_bit
#define arch___clear_bit_unlock arch___clear_bit
static __always_inline bool arch_clear_bit_unlock_is_negative_byte(long nr, volatile unsigned long *addr)
{
	return (__atomic_fetch_and(RW_WORD(nr, addr), ~RW_BIT(nr), __ATOMIC_SEQ_CST) & 0x80) != 0;
}
#define arch_clear_bit_unlock_is_negative_byte arch_clear_bit_unlock_is_negative_byte
static __always_inline bool arch_xor_unlock_is_negative_byte(unsigned long mask, volatile unsigned long *addr)
{
	return (__atomic_fetch_xor((unsigned long *)addr, mask, __ATOMIC_SEQ_CST) & 0x80) != 0;
}
#define arch_xor_unlock_is_negative_byte arch_xor_unlock_is_negative_byte

static __always_inline void arch___set_bit(unsigned long nr, volatile unsigned long *addr)
{
	*RW_WORD(nr, addr) |= RW_BIT(nr);
}
static __always_inline void arch___clear_bit(unsigned long nr, volatile unsigned long *addr)
{
	*RW_WORD(nr, addr) &= ~RW_BIT(nr);
}
static __always_inline void arch___change_bit(unsigned long nr, volatile unsigned long *addr)
{
	*RW_WORD(nr, addr) ^= RW_BIT(nr);
}
static __always_inline bool arch___test_and_set_bit(unsigned long nr, volatile unsigned long *addr)
{
	unsigned long old = *RW_WORD(nr, addr);
	*RW_WORD(nr, addr) = old | RW_BIT(nr);
	return (old & RW_BIT(nr)) != 0;
}
static __always_inline bool arch___test_and_clear_bit(unsigned long nr, volatile unsigned long *addr)
{
	unsigned long old = *RW_WORD(nr, addr);
	*RW_WORD(nr, addr) = old & ~RW_BIT(nr);
	return (old & RW_BIT(nr)) != 0;
}
static __always_inline bool arch___test_and_change_bit(unsigned long nr, volatile unsigned long *addr)
{
	unsigned long old = *RW_WORD(nr, addr);
	*RW_WORD(nr, addr) = old ^ RW_BIT(nr);
	return (old & RW_BIT(nr)) != 0;
}
static __always_inline bool arch_test_bit(unsigned long nr, const volatile unsigned long *addr)
{
	return (addr[nr >> 6] & RW_BIT(nr)) != 0;
}
static __always_inline bool arch_test_bit_acquire(unsigned long nr, const volatile unsigned long *addr)
{
	return arch_test_bit(nr, addr);
}

static __always_inline unsigned long variable__ffs(unsigned long word)
{
	return __builtin_ctzl(word);
}
#define __ffs(word) ((unsigned long)__builtin_ctzl(word))
#define ffz(word) __ffs(~(word))
#define __fls(word) ((unsigned long)(63 - __builtin_clzl(word)))
#define ffs(x) __builtin_ffs(x)
static __always_inline int fls(unsigned int x)
{
	return x ? 32 - __builtin_clz(x) : 0;
}
static __always_inline int fls64(__u64 x)
{
	return x ? 64 - __builtin_clzll(x) : 0;
}

static __always_inline unsigned int __arch_hweight32(unsigned int w) { return __builtin_popcount(w); }
static __always_inline unsigned int __arch_hweight16(unsigned int w) { return __builtin_popcount(w & 0xffff); }
static __always_inline unsigned int __arch_hweight8(unsigned int w) { return __builtin_popcount(w & 0xff); }
static __always_inline unsigned long __arch_hweight64(__u64 w) { return __builtin_popcountll(w); }

#include <asm-generic/bitops/sched.h>
#include <asm-generic/bitops/const_hweight.h>
#include <asm-generic/bitops/instrumented-atomic.h>
#include <asm-generic/bitops/instrumented-non-atomic.h>
#include <asm-generic/bitops/instrumented-lock.h>
#include <asm-generic/bitops/le.h>
#include <asm-generic/bitops/ext2-atomic-setbit.h>

#endif
