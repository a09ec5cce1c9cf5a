/* Users of a gfn_to_pfn_cache, in the words of each kernel version. */
#include <linux/kvm_host.h>
#include <linux/slab.h>
#include "racewalk.h"

struct gfn_to_pfn_cache rw_gpc;

#define RW_LEN 8

static struct kvm *vm;
static gpa_t gpa_of_cache;

void rw_gpc_init(struct kvm *kvm, gpa_t gpa)
{
	vm = kvm;
	gpa_of_cache = gpa;
#if RW_SINCE(6, 3)
	kvm_gpc_init(&rw_gpc, kvm);
#else
	kvm_gpc_init(&rw_gpc);
#endif
}

/* Makes the cache active, and valid if the page can be had. */
int rw_gpc_activate(void)
{
#if RW_SINCE(6, 8)
	return kvm_gpc_activate(&rw_gpc, gpa_of_cache, RW_LEN);
#elif RW_SINCE(6, 3)
	return kvm_gpc_activate(&rw_gpc, gpa_of_cache, RW_LEN);
#else
	return kvm_gpc_activate(vm, &rw_gpc, NULL, KVM_HOST_USES_PFN, gpa_of_cache, RW_LEN);
#endif
}

static bool check(void)
{
#if RW_SINCE(6, 3)
	return kvm_gpc_check(&rw_gpc, RW_LEN);
#else
	return kvm_gfn_to_pfn_cache_check(vm, &rw_gpc, gpa_of_cache, RW_LEN);
#endif
}

int rw_gpc_refresh(void)
{
#if RW_SINCE(6, 3)
	return kvm_gpc_refresh(&rw_gpc, RW_LEN);
#else
	return kvm_gfn_to_pfn_cache_refresh(vm, &rw_gpc, gpa_of_cache, RW_LEN);
#endif
}

/* The read side, as in every user of a cache: the mapping is used under gpc->lock, if it is valid. */
int rw_gpc_use(u64 value)
{
	bool valid;

	read_lock(&rw_gpc.lock);
	valid = check();
	if (valid)
		WRITE_ONCE(*(u64 *)rw_gpc.khva, value);
	read_unlock(&rw_gpc.lock);
	return valid;
}

/* For set-up: the cache as it is when an earlier invalidation has hit it. */
void rw_gpc_make_invalid(void)
{
	rw_gpc.valid = false;
}

unsigned long rw_gpc_pfn(void) { return rw_gpc.pfn; }
