/* PAUSE: the checker runs somebody else. */
#ifndef RACEWALK_ASM_VDSO_PROCESSOR_H
#define RACEWALK_ASM_VDSO_PROCESSOR_H
void rw_cpu_relax(void);
static __attribute__((always_inline)) inline void rep_nop(void) { rw_cpu_relax(); }
static __attribute__((always_inline)) inline void cpu_relax(void) { rw_cpu_relax(); }
#endif
