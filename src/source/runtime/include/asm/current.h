/* `current`: the structure that stands for the running task. */
#ifndef RACEWALK_ASM_CURRENT_H
#define RACEWALK_ASM_CURRENT_H

#include <linux/compiler.h>

struct task_struct;

/* Set by whoever resumes the task. */
extern struct task_struct *rw_current;
/* The task's CPU. */
extern int rw_cpu;

static __always_inline struct task_struct *get_current(void)
{
	return rw_current;
}
#define current get_current()

#endif
