/* The memory map lies where the checker puts it. */
#include_next <asm/pgtable_64_types.h>
#undef VMEMMAP_START
#ifndef __ASSEMBLY__
extern unsigned long rw_vmemmap;
#define VMEMMAP_START rw_vmemmap
#endif
