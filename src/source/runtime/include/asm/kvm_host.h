/* Host-virtual addresses of errors: the kernel's addresses begin at 0 here, so they cannot be told from the process's by size. */
#ifndef RACEWALK_ASM_KVM_HOST_H
#define RACEWALK_ASM_KVM_HOST_H
#include_next <asm/kvm_host.h>
#define KVM_HVA_ERR_BAD (1UL << 47)
#define KVM_HVA_ERR_RO_BAD (KVM_HVA_ERR_BAD + 4096)
static inline bool kvm_is_error_hva(unsigned long addr) { return addr >= KVM_HVA_ERR_BAD; }
#endif
