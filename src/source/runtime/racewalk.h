/* What the parts of the run-time that are compiled with the kernel's headers share. */
#ifndef RACEWALK_H
#define RACEWALK_H

#include <linux/version.h>

/* Threads, each on a CPU of its own. */
#define RW_CPUS 8
/* Frames of the modelled machine: the heap is no larger than this many pages. */
#define RW_FRAMES 8192

#define RW_SINCE(major, minor) (LINUX_VERSION_CODE >= KERNEL_VERSION(major, minor, 0))

#endif
