/* CPU features: looked up in the table, never patched into the code. */
#ifndef RACEWALK_ASM_CPUFEATURE_H
#define RACEWALK_ASM_CPUFEATURE_H
#define _static_cpu_has rw_patched_static_cpu_has
#include_next <asm/cpufeature.h>
#undef _static_cpu_has
#undef static_cpu_has
#undef cpu_feature_enabled
#define static_cpu_has(bit) boot_cpu_has(bit)
#define cpu_feature_enabled(bit) (__builtin_constant_p(bit) && DISABLED_MASK_BIT_SET(bit) ? 0 : boot_cpu_has(bit))
#endif
