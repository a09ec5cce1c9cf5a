/* The memory map is an array of the run-time. */
#include_next <asm/pgtable_64_types.h>
#undef VMEMMAP_START
#ifndef __ASSEMBLY__
/* struct page is not known yet. */
extern char rw_memory_map[] __asm__("rw_pages");
#define VMEMMAP_START ((unsigned long)rw_memory_map)
#endif
