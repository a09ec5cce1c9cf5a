/* mmu.c as it is, and a way to its static functions. */
#include <arch/x86/kvm/mmu/mmu.c>
#include "racewalk.h"

/* Module parameter tdp_mmu; before KVM is loaded. Until 6.3 it is a VM's own, see rw_vm_params(). */
void rw_module_params(int tdp_mmu)
{
#if RW_SINCE(6, 3)
	tdp_mmu_enabled = tdp_mmu;
#endif
}

/* Of a VM that was just created. */
void rw_vm_params(struct kvm *kvm, int tdp_mmu)
{
#if !RW_SINCE(6, 3)
	kvm->arch.tdp_mmu_enabled = tdp_mmu;
#endif
}

/* From here on the processor has so many bits of guest-physical address: walks of everything end there. Entries are checked as before. */
void rw_limit_gpa_bits(int bits)
{
#if RW_SINCE(6, 11)
	kvm_host.maxphyaddr = bits;
#else
	shadow_phys_bits = bits;
#endif
}

/* What KVM_SET_USER_MEMORY_REGION does to the tables when a memslot goes. */
void rw_zap_all_fast(struct kvm *kvm)
{
	mutex_lock(&kvm->slots_lock);
	kvm_mmu_zap_all_fast(kvm);
	mutex_unlock(&kvm->slots_lock);
}

/* Dirty logging begins: the slot is write-protected. */
void rw_write_protect_slot(struct kvm *kvm, int id)
{
	mutex_lock(&kvm->slots_lock);
	kvm_mmu_slot_remove_write_access(kvm, id_to_memslot(kvm_memslots(kvm), id), PG_LEVEL_4K);
	mutex_unlock(&kvm->slots_lock);
}

/* A vCPU whose roots are dropped, as when its paging mode changes. */
void rw_free_roots(struct kvm_vcpu *vcpu)
{
	kvm_mmu_free_roots(vcpu->kvm, vcpu->arch.mmu, KVM_MMU_ROOTS_ALL);
}
/* Parameters of the module, before it is loaded. */
void rw_mmu_parameters(int nx)
{
	nx_huge_pages = nx;
}

/* Writes /sys/module/kvm/parameters/nx_huge_pages. */
int rw_set_nx_huge_pages(int on)
{
	return set_nx_huge_pages(on ? "force" : "off", NULL);
}

void rw_set_nx_recovery(u32 ratio, u32 period_ms)
{
	nx_huge_pages_recovery_ratio = ratio;
	nx_huge_pages_recovery_period_ms = period_ms;
}

/* One round of the thread that recovers NX huge pages. */
void rw_recover_nx_huge_pages(struct kvm *kvm)
{
#if RW_SINCE(6, 2)
	kvm_recover_nx_huge_pages(kvm);
#else
	kvm_recover_nx_lpages(kvm);
#endif
}

/* Of enum ret_pf, for who reads the event fast_page_fault. */
const int rw_kept_ret_pf_fixed = RET_PF_FIXED, rw_kept_ret_pf_spurious = RET_PF_SPURIOUS;

/* The head of the reverse map of the 4K page at gfn; NULL where the VM has none. */
u64 rw_rmap(struct kvm *kvm, int id, u64 gfn)
{
	struct kvm_memory_slot *slot = id_to_memslot(kvm_memslots(kvm), id);

	return slot->arch.rmap[0] ? (u64)gfn_to_rmap(slot->base_gfn + gfn, PG_LEVEL_4K, slot) : 0;
}

/* struct pte_list_desc, for who looks at a reverse map; its first member is the pointer to the next one. */
const unsigned int rw_kept_desc_count = offsetof(struct pte_list_desc, spte_count);
const unsigned int rw_kept_desc_sptes = offsetof(struct pte_list_desc, sptes);
