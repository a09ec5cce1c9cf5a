/* BUG() and WARN(): findings of the checker. */
#ifndef RACEWALK_ASM_BUG_H
#define RACEWALK_ASM_BUG_H

#include <linux/compiler.h>

void rw_bug(const char *file, int line) __attribute__((noreturn));
void rw_warn(const char *file, int line);

#define HAVE_ARCH_BUG
#define BUG() rw_bug(__FILE__, __LINE__)
#define __WARN_FLAGS(flags) rw_warn(__FILE__, __LINE__)

#include <asm-generic/bug.h>

#endif
