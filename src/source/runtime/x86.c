/* x86.c as it is, a way to its static functions, and a vendor module with what the MMU needs of one. */
#include <arch/x86/kvm/x86.c>
#include "racewalk.h"

void rw_flush_tlb(struct kvm_vcpu *vcpu);
void rw_load_root(struct kvm_vcpu *vcpu, u64 root, int level);

static int rw_hardware_enable(void) { return 0; }
static void rw_hardware_disable(void) { }
static int rw_vm_init(struct kvm *kvm) { return 0; }
static void rw_vm_destroy(struct kvm *kvm) { }
static void rw_flush(struct kvm_vcpu *vcpu) { rw_flush_tlb(vcpu); }
static void rw_flush_gva(struct kvm_vcpu *vcpu, gva_t addr) { rw_flush_tlb(vcpu); }
static void rw_load_pgd(struct kvm_vcpu *vcpu, hpa_t root, int level) { rw_load_root(vcpu, root, level); }
static int rw_get_cpl(struct kvm_vcpu *vcpu) { return 0; }
static unsigned long rw_get_rflags(struct kvm_vcpu *vcpu) { return 2; }
static void rw_cache_reg(struct kvm_vcpu *vcpu, enum kvm_reg reg) { }

static void rw_nothing_of_vm(struct kvm *kvm) { }
static void rw_nothing_of_vcpu(struct kvm_vcpu *vcpu) { }
/* Write-back, as SVM has it: nothing in the entry. */
static u8 rw_get_mt_mask(struct kvm_vcpu *vcpu, gfn_t gfn, bool is_mmio) { return 0; }

/* Optional ones are here when they are called: a call through a pointer needs the very type in WebAssembly. */
static struct kvm_x86_ops rw_ops = {
	.name = "kvm_racewalk",
#if RW_SINCE(6, 12)
	.enable_virtualization_cpu = rw_hardware_enable,
	.disable_virtualization_cpu = rw_hardware_disable,
#else
	.hardware_enable = rw_hardware_enable,
	.hardware_disable = rw_hardware_disable,
#endif
	.vm_size = sizeof(struct kvm),
	.vm_init = rw_vm_init,
	.vm_destroy = rw_vm_destroy,
	.flush_tlb_all = rw_flush,
	.flush_tlb_current = rw_flush,
	.flush_tlb_guest = rw_flush,
	.flush_tlb_gva = rw_flush_gva,
	.load_mmu_pgd = rw_load_pgd,
	.get_cpl = rw_get_cpl,
	.get_rflags = rw_get_rflags,
	.cache_reg = rw_cache_reg,
	.guest_memory_reclaimed = rw_nothing_of_vm,
	.update_cpu_dirty_logging = rw_nothing_of_vcpu,
	.get_mt_mask = rw_get_mt_mask,
};

static struct kvm_x86_init_ops rw_init_ops = { .runtime_ops = &rw_ops };

/* What a vendor module does when it is loaded, as far as the MMU is concerned. */
int rw_vendor_init(void)
{
	kvm_ops_update(&rw_init_ops);
	return kvm_mmu_vendor_module_init();
}
