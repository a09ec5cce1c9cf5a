/* What a VMM asks of a VM, for workloads: the ioctls of kvm_main.c without their file. Part of kvm_main.c. */

/* KVM_ENABLE_CAP */
int rw_enable_dirty_ring(struct kvm *kvm, u32 bytes) { return kvm_vm_ioctl_enable_dirty_log_ring(kvm, bytes); }
void rw_enable_manual_protect(struct kvm *kvm, u64 flags) { kvm->manual_dirty_log_protect = flags; }

/* The log goes to a buffer of ours: KVM_GET_DIRTY_LOG's user memory. */
int rw_get_dirty_log(struct kvm *kvm, u32 slot, u64 buffer)
{
	struct kvm_dirty_log log = { .slot = slot, .dirty_bitmap = (void __user *)buffer };
	return kvm_vm_ioctl_get_dirty_log(kvm, &log);
}

/* The same for a slot of no more than 512 pages: the first 64 of them. */
u64 rw_fetch_log(struct kvm *kvm, u32 slot)
{
	static u64 log[8];

	return rw_get_dirty_log(kvm, slot, (u64)log) ? 0 : log[0];
}

/* Where a slot's bitmap is, for who looks at it. */
u64 rw_kept_bitmap;
void rw_keep_bitmap(struct kvm *kvm, int slot)
{
	rw_kept_bitmap = (u64)id_to_memslot(kvm_memslots(kvm), slot)->dirty_bitmap;
}

int rw_clear_dirty_log(struct kvm *kvm, u32 slot, u64 first, u32 pages, u64 buffer)
{
	struct kvm_clear_dirty_log log = {
		.slot = slot, .num_pages = pages, .first_page = first, .dirty_bitmap = (void __user *)buffer
	};
	return kvm_vm_ioctl_clear_dirty_log(kvm, &log);
}

int rw_reset_dirty_rings(struct kvm *kvm) { return kvm_vm_ioctl_reset_dirty_pages(kvm); }

int rw_dirty_ring_alloc(struct kvm_vcpu *vcpu)
{
	if (!vcpu->kvm->dirty_ring_size)
		return 0;
#if RW_SINCE(6, 14)
	return kvm_dirty_ring_alloc(vcpu->kvm, &vcpu->dirty_ring, vcpu->vcpu_id, vcpu->kvm->dirty_ring_size);
#else
	return kvm_dirty_ring_alloc(&vcpu->dirty_ring, vcpu->vcpu_id, vcpu->kvm->dirty_ring_size);
#endif
}

/* The end of KVM_RUN, with what vcpu_run() returned. */
void rw_userspace_exit(struct kvm_vcpu *vcpu, int r) { trace_kvm_userspace_exit(vcpu->run->exit_reason, r); }

/* vcpu_load(), vcpu_put(): which vCPU this CPU runs. */
void rw_vcpu_load(struct kvm_vcpu *vcpu) { __this_cpu_write(kvm_running_vcpu, vcpu); }
void rw_vcpu_put(void) { __this_cpu_write(kvm_running_vcpu, NULL); }

#ifdef CONFIG_KVM_GENERIC_PRE_FAULT_MEMORY
/* The part of KVM_PRE_FAULT_MEMORY that the workload shows: EINTR when nothing could be mapped before a signal came. */
int rw_pre_fault(struct kvm_vcpu *vcpu, u64 gpa, u64 size)
{
	struct kvm_pre_fault_memory range = { .gpa = gpa, .size = size };
	int idx = srcu_read_lock(&vcpu->kvm->srcu);
	long done = 1;

	rw_vcpu_load(vcpu);
	while (range.size && done > 0) {
		done = kvm_arch_vcpu_pre_fault_memory(vcpu, &range);
		if (done <= 0)
			break;
		range.gpa += done;
		range.size -= done;
	}
	rw_vcpu_put();
	srcu_read_unlock(&vcpu->kvm->srcu, idx);
	clear_thread_flag(TIF_SIGPENDING);
	return range.size == size && done == -EINTR ? EINTR : 0;
}
#endif

int rw_clear_young(struct kvm *kvm, unsigned long start, unsigned long end)
{
	return kvm->mmu_notifier.ops->clear_young(&kvm->mmu_notifier, kvm->mm, start, end);
}

int rw_test_young(struct kvm *kvm, unsigned long address)
{
	return kvm->mmu_notifier.ops->test_young(&kvm->mmu_notifier, kvm->mm, address);
}

