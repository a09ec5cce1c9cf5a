/* User memory needs no key here. */
#ifndef RACEWALK_ASM_SMAP_H
#define RACEWALK_ASM_SMAP_H
#include <linux/compiler.h>
#define ASM_CLAC ""
#define ASM_STAC ""
static __always_inline void clac(void) { }
static __always_inline void stac(void) { }
static __always_inline unsigned long smap_save(void) { return 0; }
static __always_inline void smap_restore(unsigned long flags) { }
#endif
