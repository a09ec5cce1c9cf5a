/* The interrupt flag of the running CPU, kept by the checker. */
#ifndef RACEWALK_ASM_IRQFLAGS_H
#define RACEWALK_ASM_IRQFLAGS_H

#include <asm/processor-flags.h>
#include <linux/compiler.h>

#define __cpuidle

/* Returns X86_EFLAGS_IF or 0, as it was before. */
unsigned long rw_irq_set(unsigned long flags);
unsigned long rw_irq_get(void);

static __always_inline unsigned long arch_local_save_flags(void) { return rw_irq_get(); }
static __always_inline void arch_local_irq_disable(void) { rw_irq_set(0); }
static __always_inline void arch_local_irq_enable(void) { rw_irq_set(X86_EFLAGS_IF); }
static __always_inline unsigned long arch_local_irq_save(void) { return rw_irq_set(0); }
static __always_inline void arch_local_irq_restore(unsigned long flags) { rw_irq_set(flags & X86_EFLAGS_IF); }
static __always_inline int arch_irqs_disabled_flags(unsigned long flags) { return !(flags & X86_EFLAGS_IF); }
static __always_inline int arch_irqs_disabled(void) { return arch_irqs_disabled_flags(rw_irq_get()); }
static __always_inline void arch_safe_halt(void) { }
static __always_inline void halt(void) { }
static __always_inline void native_halt(void) { }
static __always_inline void native_safe_halt(void) { }
static __always_inline void native_irq_disable(void) { rw_irq_set(0); }
static __always_inline void native_irq_enable(void) { rw_irq_set(X86_EFLAGS_IF); }

#endif
