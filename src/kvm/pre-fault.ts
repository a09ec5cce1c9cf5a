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

/**
 * kvm_vcpu_pre_fault_memory(): returns how many bytes are left, because a page could not be had or a signal came.
 *
 * @param signalPending asked before each try: signal_pending(current)
 */
export function* kvmVcpuPreFaultMemory(
  vcpu: Vcpu,
  gpa: Gpa,
  size: number,
  signalPending: () => boolean = () => false,
): Steps<number> {
  const { srcu, params } = vcpu.vm.kvm;
  // -EOPNOTSUPP: guest-physical addresses are not what shadow pages map.
  if (!params.npt) return size;
  yield* srcuReadLock(srcu);
  let at = gpa as number;
  const end = at + size;
  while (at < end) {
    // kvm_arch_vcpu_pre_fault_memory()
    yield* kvmMmuReload(vcpu);
    const bytes = yield* kvmTdpMapPage(vcpu, at as Gpa, signalPending);
    if (bytes === 0) break;
    at = at - (at % bytes) + bytes;
  }
  yield* srcuReadUnlock(srcu);
  return Math.max(0, end - at);
}

/** kvm_tdp_map_page(): returns the size of the page that was asked for, which is 4K where the fast path found it; 0: it could not be had. */
function* kvmTdpMapPage(vcpu: Vcpu, gpa: Gpa, signalPending: () => boolean): Steps<number> {
  const again = startLoop(vcpu.world);
  for (;;) {
    again();
    if (signalPending()) return 0;
    const { result, level } = yield* kvmMmuDoPageFault(vcpu, gpa, PFERR_GUEST_FINAL, true);
    if (result === "fixed" || result === "spurious") return PAGE_SIZE * pagesPerLevel(level);
    if (result !== "retry") return 0;
  }
}
