/* Physical and virtual addresses of the kernel are the same. */
#include_next <asm/page_64_types.h>
#undef __PAGE_OFFSET
#define __PAGE_OFFSET 0UL
