/* `current`: the structure that stands for the running task. */
#ifndef RACEWALK_ASM_CURRENT_H
#define RACEWALK_ASM_CURRENT_H

#include <linux/compiler.h>

struct task_struct;

/* Set by whoever resumes the task. */
extern struct task_struct *rw_current;
/* The task's CPU. */
extern int rw_cpu;

/* What versions from 6.2 on keep together for each CPU; only its size in other headers counts. */
#include <asm/percpu.h>
struct pcpu_hot {
	struct task_struct *current_task;
	int preempt_count;
	int cpu_number;
	unsigned long top_of_stack;
	void *hardirq_stack_ptr;
	unsigned short softirq_pending;
	bool hardirq_stack_inuse;
};
DECLARE_PER_CPU(struct pcpu_hot, pcpu_hot);
DECLARE_PER_CPU(struct pcpu_hot, const_pcpu_hot);

static __always_inline struct task_struct *get_current(void)
{
	return rw_current;
}
#define current get_current()

#endif
