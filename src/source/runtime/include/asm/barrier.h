/* Barriers of x86: a full one is an operation of the checker; the others order what x86-TSO orders anyway. */
#ifndef RACEWALK_ASM_BARRIER_H
#define RACEWALK_ASM_BARRIER_H

#include <linux/compiler.h>

void rw_mb(void);

#define mb() rw_mb()
#define rmb() barrier()
#define wmb() barrier()
#define __mb() rw_mb()
#define __rmb() barrier()
#define __wmb() barrier()
#define __dma_rmb() barrier()
#define __dma_wmb() barrier()
#define __smp_mb() rw_mb()
#define __smp_rmb() barrier()
#define __smp_wmb() barrier()
#define __smp_store_mb(var, value) do { (void)xchg(&var, value); } while (0)
#define __smp_store_release(p, v) do { barrier(); WRITE_ONCE(*(p), v); } while (0)
#define __smp_load_acquire(p) ({ __typeof__(*(p)) __rw_v = READ_ONCE(*(p)); barrier(); __rw_v; })
#define __smp_mb__before_atomic() do { } while (0)
#define __smp_mb__after_atomic() do { } while (0)

/* Speculation is not modelled: an index is what it is. */
#define array_index_mask_nospec(index, size) ((unsigned long)((index) < (size) ? ~0UL : 0UL))
#define barrier_nospec() barrier()

#include <asm-generic/barrier.h>

#endif
