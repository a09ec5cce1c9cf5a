/* Without code that is chosen at boot. */
#ifndef RACEWALK_ASM_PAGE_64_H
#define RACEWALK_ASM_PAGE_64_H
#define task_size_max rw_patched_task_size_max
#define clear_page rw_patched_clear_page
#define copy_page rw_patched_copy_page
#include_next <asm/page_64.h>
#undef task_size_max
#undef clear_page
#undef copy_page
#ifndef __ASSEMBLY__
static inline unsigned long task_size_max(void) { return (1UL << 47) - 4096; }
static inline void clear_page(void *page) { __builtin_memset(page, 0, 4096); }
static inline void copy_page(void *to, void *from) { __builtin_memcpy(to, from, 4096); }
#endif
#endif
