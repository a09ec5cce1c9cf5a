/* A walk of the process's page tables begins at a service, which makes them what the modelled mm has (hostPageTables.ts). */
#include_next <linux/pgtable.h>
#ifndef RACEWALK_LINUX_PGTABLE_H
#define RACEWALK_LINUX_PGTABLE_H
#ifndef __ASSEMBLY__
pgd_t *rw_pgd_offset(struct mm_struct *mm, unsigned long address);
#undef pgd_offset
#define pgd_offset(mm, address) rw_pgd_offset(mm, address)
#endif
#endif
