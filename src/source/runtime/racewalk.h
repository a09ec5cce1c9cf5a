/* What the parts of the run-time that are compiled with the kernel's headers share. */
#ifndef RACEWALK_H
#define RACEWALK_H

#include <linux/version.h>

/* Threads, each on a CPU of its own. */
#define RW_CPUS 8
/* Sections of 128M of the memory map: the heap is less than 4G. */
#define RW_SECTIONS 32
/* Per-CPU variables of all files together are no larger. */
#define RW_PERCPU_BYTES 4096

#define RW_SINCE(major, minor) (LINUX_VERSION_CODE >= KERNEL_VERSION(major, minor, 0))

#endif
