/* The preemption count of the running task, kept by the checker. */
#ifndef RACEWALK_ASM_PREEMPT_H
#define RACEWALK_ASM_PREEMPT_H

#include <linux/compiler.h>
#include <linux/thread_info.h>

#define PREEMPT_ENABLED 0
#define PREEMPT_NEED_RESCHED 0x80000000

int rw_preempt_count(void);
void rw_preempt_add(int n);

static __always_inline int preempt_count(void) { return rw_preempt_count(); }
static __always_inline void preempt_count_set(int count) { rw_preempt_add(count - rw_preempt_count()); }
#define init_task_preempt_count(p) do { } while (0)
#define init_idle_preempt_count(p, cpu) do { } while (0)
static __always_inline void set_preempt_need_resched(void) { }
static __always_inline void clear_preempt_need_resched(void) { }
static __always_inline bool test_preempt_need_resched(void) { return false; }
static __always_inline void __preempt_count_add(int n) { rw_preempt_add(n); }
static __always_inline void __preempt_count_sub(int n) { rw_preempt_add(-n); }
static __always_inline bool __preempt_count_dec_and_test(void) { rw_preempt_add(-1); return false; }
static __always_inline bool should_resched(int offset) { return false; }

#endif
