/* kvm_main.c as it is, and a way to its static functions. */
#include <virt/kvm/kvm_main.c>
#include "racewalk.h"

/* What kvm_init() makes, as far as it is needed. */
struct kvm *rw_create_vm(void)
{
	for (int cpu = 0; cpu < RW_CPUS; cpu++)
		per_cpu(cpu_kick_mask, cpu) = kzalloc(sizeof(struct cpumask), GFP_KERNEL);
	return kvm_create_vm(0, "0");
}

/* KVM_SET_USER_MEMORY_REGION */
int rw_set_memory_region(struct kvm *kvm, u32 slot, u32 flags, u64 gpa, u64 size, u64 hva)
{
#if RW_SINCE(6, 8)
	struct kvm_userspace_memory_region2 region = {
#else
	struct kvm_userspace_memory_region region = {
#endif
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = hva,
	};
#if RW_SINCE(6, 14)
	mutex_lock(&kvm->slots_lock);
	int r = kvm_set_memory_region(kvm, &region);
	mutex_unlock(&kvm->slots_lock);
	return r;
#else
	return kvm_set_memory_region(kvm, &region);
#endif
}

/* What the host mm calls: the notifier that KVM registered for this VM. */
int rw_invalidate_range_start(struct kvm *kvm, unsigned long start, unsigned long end, int event)
{
	struct mmu_notifier_range range = { .mm = kvm->mm, .start = start, .end = end, .event = event,
					    .flags = MMU_NOTIFIER_RANGE_BLOCKABLE };
	return kvm->mmu_notifier.ops->invalidate_range_start(&kvm->mmu_notifier, &range);
}

void rw_invalidate_range_end(struct kvm *kvm, unsigned long start, unsigned long end, int event)
{
	struct mmu_notifier_range range = { .mm = kvm->mm, .start = start, .end = end, .event = event,
					    .flags = MMU_NOTIFIER_RANGE_BLOCKABLE };
	kvm->mmu_notifier.ops->invalidate_range_end(&kvm->mmu_notifier, &range);
}

int rw_clear_flush_young(struct kvm *kvm, unsigned long start, unsigned long end)
{
	return kvm->mmu_notifier.ops->clear_flush_young(&kvm->mmu_notifier, kvm->mm, start, end);
}

#include "workload_vm.h"
