/* Per-CPU variables: each CPU's copy lies RW_CPU_STRIDE bytes after the one before it, the first one where the linker put it. */
#ifndef RACEWALK_ASM_PERCPU_H
#define RACEWALK_ASM_PERCPU_H

#define __percpu_seg gs
#include <linux/compiler.h>
#include <linux/kernel.h>

extern unsigned long rw_percpu_offset;
extern unsigned long __per_cpu_offset[];
#define __my_cpu_offset rw_percpu_offset

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
