/* Which CPU this is: the running task's. */
#ifndef RACEWALK_ASM_SMP_H
#define RACEWALK_ASM_SMP_H
#include_next <asm/smp.h>
#ifndef __ASSEMBLY__
extern int rw_cpu;
#undef raw_smp_processor_id
#undef __smp_processor_id
#define raw_smp_processor_id() rw_cpu
#define __smp_processor_id() rw_cpu
#endif
#endif
