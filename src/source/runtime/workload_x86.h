/* vCPUs for workloads: guests with paging, exits that are emulated, exceptions. Part of x86.c.
 *
 * What svm.c and vmx.c do around an exit, as far as the MMU can tell; the guest itself is the checker's. */
/* Loading the modules. @paging: 0 nested paging of AMD, 1 EPT, 2 EPT without accessed and dirty bits */
int rw_load_modules(int npt, int paging, int eager_split)
{
	eager_page_split = eager_split;
	/* As on the machine of the recordings. */
	boot_cpu_data.x86_phys_bits = RW_PHYS_BITS;
	rw_is_ept = npt && paging;
	/* Any frequency will do: what time it is, is no business of the MMU. */
	for (int cpu = 0; cpu < RW_CPUS; cpu++)
		per_cpu(cpu_tsc_khz, cpu) = 1000000;
	kvm_mmu_x86_module_init();
#if RW_SINCE(6, 10)
	kvm_caps.supported_vm_types = BIT(KVM_X86_DEFAULT_VM);
#endif
	kvm_ops_update(&rw_init_ops);
	int r = kvm_mmu_vendor_module_init();
	if (rw_is_ept)
		kvm_mmu_set_ept_masks(paging == 1, true);
	kvm_configure_mmu(npt, 0, PT64_ROOT_4LEVEL, PG_LEVEL_1G);
	x86_emulator_cache = kvm_alloc_emulator_cache();
	return r;
}

struct kvm_vcpu *rw_create_guest(struct kvm *kvm, int id, u64 cr0, u64 cr3, u64 cr4, u64 efer)
{
	struct kvm_vcpu *vcpu = rw_create_vcpu(kvm, id);

	vcpu->run = (void *)get_zeroed_page(GFP_KERNEL);
	alloc_emulate_ctxt(vcpu);
#if RW_SINCE(6, 3)
	kvm_gpc_init(&vcpu->arch.pv_time, kvm);
#else
	kvm_gpc_init(&vcpu->arch.pv_time);
#endif
	if (rw_dirty_ring_alloc(vcpu))
		return NULL;
	vcpu->arch.maxphyaddr = RW_PHYS_BITS;
	vcpu->arch.reserved_gpa_bits = rsvd_bits(RW_PHYS_BITS, 63);
	/* KVM_SET_CPUID2 with what the host has; before 6.6 KVM asked the CPU itself. */
#if RW_SINCE(6, 14)
	guest_cpu_cap_set(vcpu, X86_FEATURE_GBPAGES);
#elif RW_SINCE(6, 6)
	__set_bit(kvm_governed_feature_index(X86_FEATURE_GBPAGES), vcpu->arch.governed_features.enabled);
#endif
	vcpu->arch.cr0 = cr0;
	vcpu->arch.cr3 = cr3;
	vcpu->arch.cr4 = cr4;
	vcpu->arch.efer = efer;
	kvm_mmu_reset_context(vcpu);
	if (is_pae_paging(vcpu)) {
		kvm_vcpu_srcu_read_lock(vcpu);
		load_pdptrs(vcpu, cr3);
		kvm_vcpu_srcu_read_unlock(vcpu);
	}
	return vcpu;
}

/* Where the guest stands. */
void rw_set_rip(struct kvm_vcpu *vcpu, u64 rip) { kvm_rip_write(vcpu, rip); }
u64 rw_rip(struct kvm_vcpu *vcpu) { return kvm_rip_read(vcpu); }

/* The root that the hardware walks from, and the guest's registers, for the modelled CPU. */
int rw_root_levels(struct kvm_vcpu *vcpu) { return vcpu->arch.mmu->root_role.level; }

/* Up to the guest: 0 when it may run, 1 to try again, 2 when the VMM is needed, or an error. */
int rw_enter_workload(struct kvm_vcpu *vcpu)
{
#if !RW_SINCE(6, 2)
	if (vcpu->kvm->dirty_ring_size && kvm_dirty_ring_soft_full(&vcpu->dirty_ring)) {
		vcpu->run->exit_reason = KVM_EXIT_DIRTY_RING_FULL;
		trace_kvm_dirty_ring_exit(vcpu);
		return 2;
	}
#endif
	if (kvm_request_pending(vcpu)) {
#if RW_SINCE(6, 2)
		if (kvm_dirty_ring_check_request(vcpu))
			return 2;
#endif
		if (kvm_check_request(KVM_REQ_MMU_FREE_OBSOLETE_ROOTS, vcpu))
			kvm_mmu_free_obsolete_roots(vcpu);
		kvm_check_request(KVM_REQ_MASTERCLOCK_UPDATE, vcpu);
		kvm_check_request(KVM_REQ_GLOBAL_CLOCK_UPDATE, vcpu);
		if (kvm_check_request(KVM_REQ_CLOCK_UPDATE, vcpu))
			kvm_guest_time_update(vcpu);
		if (kvm_check_request(KVM_REQ_MMU_SYNC, vcpu))
			kvm_mmu_sync_roots(vcpu);
		if (kvm_check_request(KVM_REQ_LOAD_MMU_PGD, vcpu))
			kvm_mmu_load_pgd(vcpu);
		if (kvm_check_request(KVM_REQ_TLB_FLUSH, vcpu))
			kvm_vcpu_flush_tlb_all(vcpu);
		kvm_service_local_tlb_flush_requests(vcpu);
		kvm_check_request(KVM_REQ_EVENT, vcpu);
	}
	/* kvm_check_and_inject_events() */
	if (vcpu->arch.exception.injected || vcpu->arch.exception.pending) {
		kvm_inject_exception(vcpu);
		vcpu->arch.exception.pending = false;
		vcpu->arch.exception.injected = true;
	}
	int r = kvm_mmu_reload(vcpu);
	if (r)
		return r;
	return rw_enter_mode(vcpu);
}

/* Is an exception handed to the guest at this entry? Its error code, or -1. */
s64 rw_injected(struct kvm_vcpu *vcpu)
{
	return vcpu->arch.exception.injected ? (s64)vcpu->arch.exception.error_code : -1;
}
u64 rw_cr2(struct kvm_vcpu *vcpu) { return vcpu->arch.cr2; }

/* From the guest. @interrupted: error code of a page fault whose delivery was cut short, or -1 */
void rw_exit_workload(struct kvm_vcpu *vcpu, s64 interrupted)
{
	++vcpu->stat.exits;
	rw_exit_guest(vcpu);
	/* svm_complete_interrupts() */
	kvm_clear_exception_queue(vcpu);
	if (interrupted >= 0) {
		vcpu->arch.exception.injected = true;
		vcpu->arch.exception.has_error_code = true;
		vcpu->arch.exception.vector = PF_VECTOR;
		vcpu->arch.exception.error_code = interrupted;
	}
}

/* npf_interception(), handle_ept_violation(). @reported: what the trace says of it, when it says anything */
int rw_nested_fault(struct kvm_vcpu *vcpu, u64 gpa, u64 error_code, u64 reported, int is_reported)
{
	if (is_reported)
		trace_kvm_page_fault(vcpu, gpa, reported);
	return kvm_mmu_page_fault(vcpu, gpa, error_code, NULL, 0);
}

/* pf_interception() */
int rw_shadow_fault(struct kvm_vcpu *vcpu, u64 gva, u64 error_code)
{
	return kvm_handle_page_fault(vcpu, error_code, gva, NULL, 0);
}

/* An instruction that the processor leaves to the hypervisor. */
int rw_intercept(struct kvm_vcpu *vcpu) { return kvm_emulate_instruction(vcpu, 0); }
/* msr_interception(), of the one that the MMU has to do with. */
void rw_write_system_time(struct kvm_vcpu *vcpu, u64 value) { kvm_write_system_time(vcpu, value, false, false); }
int rw_skip_instruction(struct kvm_vcpu *vcpu) { return kvm_emulate_instruction(vcpu, EMULTYPE_SKIP); }

/* KVM_RUN again, after the VMM has done what it was left for. */
int rw_complete_io(struct kvm_vcpu *vcpu)
{
	int (*complete)(struct kvm_vcpu *) = vcpu->arch.complete_userspace_io;

	if (!complete)
		return 1;
	vcpu->arch.complete_userspace_io = NULL;
	return complete(vcpu);
}

int rw_exit_reason(struct kvm_vcpu *vcpu) { return vcpu->run->exit_reason; }
int rw_mmio_is_write(struct kvm_vcpu *vcpu) { return vcpu->run->mmio.is_write; }
int rw_mmio_len(struct kvm_vcpu *vcpu) { return vcpu->run->mmio.len; }
u64 rw_mmio_data(struct kvm_vcpu *vcpu) { return (u64)vcpu->run->mmio.data; }

int rw_set_nr_mmu_pages(struct kvm *kvm, u32 pages) { return kvm_vm_ioctl_set_nr_mmu_pages(kvm, pages); }
void rw_set_clock(struct kvm *kvm) { kvm_make_all_cpus_request(kvm, KVM_REQ_CLOCK_UPDATE); }

/* The VM goes away: the notifier's release(), then kvm_arch_destroy_vm(). */
void rw_destroy_vm(struct kvm *kvm)
{
	kvm_arch_flush_shadow_all(kvm);
}
void rw_unload_mmu(struct kvm_vcpu *vcpu) { kvm_mmu_unload(vcpu); }
