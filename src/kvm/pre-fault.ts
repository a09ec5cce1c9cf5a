/**
 * KVM_PRE_FAULT_MEMORY: guest frames are mapped before anybody touches them.
 *
 * The VMM's thread does for a vCPU what a read fault would do, page after page; entries are made without the accessed bit, and nothing is counted.
 * Stands for kvm_vcpu_pre_fault_memory(), kvm_tdp_map_page() of 6.12 and 7.2.
 */
import { type Steps, startLoop } from "../engine/index.ts";
import { srcuReadLock, srcuReadUnlock } from "../kernel/index.ts";
import { type Gpa, PAGE_SIZE, PFERR_GUEST_FINAL, pagesPerLevel } from "../machine/index.ts";
import { kvmMmuDoPageFault } from "./mmu.ts";
import { INVALID_ROOT } from "./mmu-roots.ts";
import type { RetPf } from "./page-fault.ts";
import { KVM_REQ_MMU_FREE_OBSOLETE_ROOTS, kvmCheckRequest } from "./requests.ts";
import type { Vcpu } from "./vcpu.ts";

/**
 * kvm_mmu_reload(), outside vcpu_enter_guest(): from 6.15 on it drops an obsolete root first. Before, the fault in such a root is tried again until a
 * signal comes (20a6cff3b283).
 */
function* kvmMmuReload(vcpu: Vcpu): Steps<void> {
  const { ops, kvm } = vcpu.vm;
  const looksForObsolete = kvm.variants.kernel === "7.2" && !kvm.lacks("prefault-on-obsolete-root");
  if (looksForObsolete && (yield* kvmCheckRequest(vcpu, KVM_REQ_MMU_FREE_OBSOLETE_ROOTS))) {
    yield* ops.freeObsoleteRoots(vcpu);
  }
  if (vcpu.rootHpa.value !== INVALID_ROOT) return;
  yield* ops.load(vcpu);
  // kvm_mmu_load() does: what was cached by way of the old root must not outlive it.
  vcpu.guest.tlb.flushAll();
}

/** Whether KVM_PRE_FAULT_MEMORY would go on until a signal comes: see {@link kvmMmuReload}. */
export function preFaultNeedsSignal(vcpu: Vcpu): boolean {
  const { kvm } = vcpu.vm;
  if (!kvm.params.npt || kvm.variants.kernel === "7.2" || vcpu.rootHpa.peek() === INVALID_ROOT) return false;
  return (vcpu.requests.peek() & KVM_REQ_MMU_FREE_OBSOLETE_ROOTS) !== 0;
}

/** kvm_vcpu_pre_fault_memory(): returns how many bytes are left, because a page could not be had. */
export function* kvmVcpuPreFaultMemory(vcpu: Vcpu, gpa: Gpa, size: number): Steps<number> {
  const { srcu, params } = vcpu.vm.kvm;
  // -EOPNOTSUPP: guest-physical addresses are not what shadow pages map.
  if (!params.npt) return size;
  yield* srcuReadLock(srcu);
  let at = gpa as number;
  const end = at + size;
  while (at < end) {
    // kvm_arch_vcpu_pre_fault_memory()
    yield* kvmMmuReload(vcpu);
    let result: RetPf;
    const again = startLoop(vcpu.world);
    do {
      again();
      result = yield* kvmMmuDoPageFault(vcpu, at as Gpa, PFERR_GUEST_FINAL, true);
    } while (result === "retry");
    if (result !== "fixed" && result !== "spurious") break;
    const mapped = PAGE_SIZE * pagesPerLevel(yield* vcpu.vm.ops.mappedLevel(vcpu, at as Gpa));
    at = at - (at % mapped) + mapped;
  }
  yield* srcuReadUnlock(srcu);
  return Math.max(0, end - at);
}
