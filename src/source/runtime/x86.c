/* x86.c as it is, a way to its static functions, and a vendor module with what the MMU needs of one. */
#include <arch/x86/kvm/x86.c>
#include "workload.h"

void rw_flush_tlb(struct kvm_vcpu *vcpu);
void rw_load_root(struct kvm_vcpu *vcpu, u64 root, int level);

static int rw_hardware_enable(void) { return 0; }
static void rw_hardware_disable(void) { }
static int rw_vm_init(struct kvm *kvm) { return 0; }
static void rw_vm_destroy(struct kvm *kvm) { }
static void rw_flush(struct kvm_vcpu *vcpu) { rw_flush_tlb(vcpu); }
static void rw_flush_gva(struct kvm_vcpu *vcpu, gva_t addr) { rw_flush_tlb(vcpu); }
static void rw_load_pgd(struct kvm_vcpu *vcpu, hpa_t root, int level) { rw_load_root(vcpu, root, level); }
static int rw_get_cpl(struct kvm_vcpu *vcpu) { return rw_instructions[vcpu->vcpu_id].user ? 3 : 0; }
static unsigned long rw_get_rflags(struct kvm_vcpu *vcpu) { return 2; }
static void rw_cache_reg(struct kvm_vcpu *vcpu, enum kvm_reg reg) { }

static void rw_nothing_of_vm(struct kvm *kvm) { }
static void rw_nothing_of_vcpu(struct kvm_vcpu *vcpu) { }
/* Write-back: nothing in the entry, as SVM has it, or EPT's memory type with the guest's PAT ignored. */
static int rw_is_ept;
static u8 rw_get_mt_mask(struct kvm_vcpu *vcpu, gfn_t gfn, bool is_mmio) { return rw_is_ept && !is_mmio ? 0x70 : 0; }

static void rw_set_rflags(struct kvm_vcpu *vcpu, unsigned long rflags) { }
static u64 rw_get_segment_base(struct kvm_vcpu *vcpu, int segment) { return 0; }
static void rw_get_cs_db_l_bits(struct kvm_vcpu *vcpu, int *db, int *l)
{
	*l = !!is_long_mode(vcpu);
	*db = !*l;
}
static bool rw_is_valid_cr(struct kvm_vcpu *vcpu, unsigned long value) { return true; }
static void rw_set_cr0(struct kvm_vcpu *vcpu, unsigned long cr0) { vcpu->arch.cr0 = cr0; }
static void rw_post_set_cr3(struct kvm_vcpu *vcpu, unsigned long cr3) { }
static void rw_set_cr4(struct kvm_vcpu *vcpu, unsigned long cr4) { vcpu->arch.cr4 = cr4; }
static int rw_skip_emulated(struct kvm_vcpu *vcpu) { return kvm_emulate_instruction(vcpu, EMULTYPE_SKIP); }
static void rw_set_interrupt_shadow(struct kvm_vcpu *vcpu, int mask) { }
static void rw_inject_exception(struct kvm_vcpu *vcpu) { kvm_deliver_exception_payload(vcpu, &vcpu->arch.exception); }
static u32 rw_get_interrupt_shadow(struct kvm_vcpu *vcpu) { return 0; }
/* Of an emulation that failed: nobody reads why the guest was left. */
static void rw_get_exit_info(struct kvm_vcpu *vcpu, u32 *reason, u64 *info1, u64 *info2, u32 *event, u32 *event_error)
{
	*reason = 0;
	*info1 = *info2 = 0;
	*event = *event_error = 0;
}
#if RW_SINCE(6, 8)
static int rw_check_emulate(struct kvm_vcpu *vcpu, int type, void *insn, int length) { return X86EMUL_CONTINUE; }
#else
static bool rw_can_emulate(struct kvm_vcpu *vcpu, int type, void *insn, int length) { return true; }
#endif

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
	.set_rflags = rw_set_rflags,
	.get_segment_base = rw_get_segment_base,
	.get_cs_db_l_bits = rw_get_cs_db_l_bits,
	.is_valid_cr0 = rw_is_valid_cr,
	.set_cr0 = rw_set_cr0,
	.post_set_cr3 = rw_post_set_cr3,
	.is_valid_cr4 = rw_is_valid_cr,
	.set_cr4 = rw_set_cr4,
	.skip_emulated_instruction = rw_skip_emulated,
	.update_emulated_instruction = rw_nothing_of_vcpu,
	.set_interrupt_shadow = rw_set_interrupt_shadow,
	.get_interrupt_shadow = rw_get_interrupt_shadow,
	.inject_exception = rw_inject_exception,
	.get_exit_info = rw_get_exit_info,
#if RW_SINCE(6, 8)
	.check_emulate_instruction = rw_check_emulate,
#else
	.can_emulate_instruction = rw_can_emulate,
#endif
};

static struct kvm_x86_init_ops rw_init_ops = { .runtime_ops = &rw_ops };

/* How a vendor module wants its tables. */
enum { RW_NPT, RW_EPT, RW_EPT_NO_AD, RW_SHADOW };

/* What KVM and a vendor module do when they are loaded, as far as the MMU is concerned. */
int rw_vendor_init(int paging)
{
	kvm_mmu_x86_module_init();
#if RW_SINCE(6, 10)
	kvm_caps.supported_vm_types = BIT(KVM_X86_DEFAULT_VM);
#endif
	kvm_ops_update(&rw_init_ops);
	int r = kvm_mmu_vendor_module_init();
	if (paging == RW_EPT || paging == RW_EPT_NO_AD)
		kvm_mmu_set_ept_masks(paging == RW_EPT, true);
	kvm_configure_mmu(paging != RW_SHADOW, 0, PT64_ROOT_4LEVEL, PG_LEVEL_1G);
	return r;
}

/* --- vCPUs: the parts of kvm_arch_vcpu_create() and vcpu_enter_guest() that the MMU has to do with, in their order ------------- */

struct kvm_vcpu *rw_create_vcpu(struct kvm *kvm, int id)
{
	struct kvm_vcpu *vcpu = kzalloc(sizeof(*vcpu), GFP_KERNEL_ACCOUNT);

	mutex_init(&vcpu->mutex);
	vcpu->kvm = kvm;
	vcpu->vcpu_id = id;
	vcpu->vcpu_idx = id;
	vcpu->cpu = id;
	kvm_mmu_create(vcpu);
	vcpu->arch.maxphyaddr = 46;
	vcpu->arch.reserved_gpa_bits = rsvd_bits(46, 63);
	vcpu->arch.cr0 = X86_CR0_PE | X86_CR0_ET;
	vcpu->arch.regs_avail = ~0;
	kvm_init_mmu(vcpu);
	xa_store(&kvm->vcpu_array, id, vcpu, GFP_KERNEL_ACCOUNT);
	kvm->created_vcpus++;
	atomic_inc(&kvm->online_vcpus);
	return vcpu;
}

/* The vCPU runs a guest of its guest, which has no nested paging: the same memory, by roots of another role. */
void rw_enter_nested(struct kvm_vcpu *vcpu)
{
	enter_guest_mode(vcpu);
	kvm_mmu_reset_context(vcpu);
}

/* KVM_RUN begins, and ends. */
void rw_run_begin(struct kvm_vcpu *vcpu)
{
	rw_vcpu_load(vcpu);
	kvm_vcpu_srcu_read_lock(vcpu);
}
void rw_run_end(struct kvm_vcpu *vcpu)
{
	kvm_vcpu_srcu_read_unlock(vcpu);
	rw_vcpu_put();
}

/* The last steps to the guest, and the way back when a request or a kick came meanwhile: then 1. */
static int rw_enter_mode(struct kvm_vcpu *vcpu)
{
	preempt_disable();
	local_irq_disable();
	smp_store_release(&vcpu->mode, IN_GUEST_MODE);
	kvm_vcpu_srcu_read_unlock(vcpu);
	smp_mb__after_srcu_read_unlock();
	if (READ_ONCE(vcpu->mode) == EXITING_GUEST_MODE || kvm_request_pending(vcpu)) {
		WRITE_ONCE(vcpu->mode, OUTSIDE_GUEST_MODE);
		smp_wmb();
		local_irq_enable();
		preempt_enable();
		kvm_vcpu_srcu_read_lock(vcpu);
		return 1;
	}
	return 0;
}

/* Up to the guest: 0 when it may run. */
int rw_enter_guest(struct kvm_vcpu *vcpu)
{
	if (kvm_request_pending(vcpu)) {
		if (kvm_check_request(KVM_REQ_MMU_FREE_OBSOLETE_ROOTS, vcpu))
			kvm_mmu_free_obsolete_roots(vcpu);
		if (kvm_check_request(KVM_REQ_TLB_FLUSH, vcpu))
			static_call(kvm_x86_flush_tlb_all)(vcpu);
		kvm_service_local_tlb_flush_requests(vcpu);
	}
	if (kvm_mmu_reload(vcpu))
		return -EIO;
	return rw_enter_mode(vcpu);
}

/* From the guest. */
void rw_exit_guest(struct kvm_vcpu *vcpu)
{
	WRITE_ONCE(vcpu->mode, OUTSIDE_GUEST_MODE);
	smp_wmb();
	local_irq_enable();
	preempt_enable();
	kvm_vcpu_srcu_read_lock(vcpu);
}

int rw_page_fault(struct kvm_vcpu *vcpu, u64 gpa, u64 error_code)
{
	return kvm_mmu_page_fault(vcpu, gpa, error_code, NULL, 0);
}

u64 rw_root(struct kvm_vcpu *vcpu) { return vcpu->arch.mmu->root.hpa; }

#include "workload_x86.h"
