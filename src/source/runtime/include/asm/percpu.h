/* Per-CPU variables: CPU 0's are where the linker has put them all together, the copies of the others in the run-time (boot.c). */
#ifndef RACEWALK_ASM_PERCPU_H
#define RACEWALK_ASM_PERCPU_H

#define __percpu_seg gs
#include <linux/compiler.h>
#include <linux/kernel.h>

/* The running CPU's, set by whoever resumes the task; and everybody's. */
extern unsigned long rw_percpu_offset;
extern unsigned long rw_percpu_offsets[];
#define __my_cpu_offset rw_percpu_offset
#define __per_cpu_offset rw_percpu_offsets
#define per_cpu_offset(cpu) (rw_percpu_offsets[cpu])

/* A name of C, so that the linker tells where they begin and end. */
#define PER_CPU_BASE_SECTION "percpu"

#include <asm-generic/percpu.h>

/* Boot-time early maps do not exist here. */
#define DEFINE_EARLY_PER_CPU(type, name, init) DEFINE_PER_CPU(type, name) = init
#define DECLARE_EARLY_PER_CPU(type, name) DECLARE_PER_CPU(type, name)
#define DEFINE_EARLY_PER_CPU_READ_MOSTLY(type, name, init) DEFINE_PER_CPU_READ_MOSTLY(type, name) = init
#define DECLARE_EARLY_PER_CPU_READ_MOSTLY(type, name) DECLARE_PER_CPU_READ_MOSTLY(type, name)
#define early_per_cpu(name, cpu) per_cpu(name, cpu)
#define DECLARE_INIT_PER_CPU(var) extern typeof(var) init_per_cpu__##var
#define this_cpu_read_stable(var) this_cpu_read(var)
#define this_cpu_read_stable_1 this_cpu_read
#define this_cpu_read_stable_8 this_cpu_read
#define this_cpu_read_const(var) this_cpu_read(var)
#define x86_this_cpu_test_bit(nr, addr) test_bit(nr, raw_cpu_ptr(addr))
#define raw_cpu_cmpxchg_double(a, b, c, d, e, f) 0

#endif
