/**
 * KVM_PRE_FAULT_MEMORY: guest frames are mapped before anybody touches them.
 *
 * The VMM's thread does for a vCPU what a read fault would do, page after page; entries are made without the accessed bit, and nothing is counted.
 * Stands for kvm_vcpu_pre_fault_memory(), kvm_tdp_map_page() of 6.12 and 7.2.
 */
import type { Steps } from "../engine/index.ts";
import { srcuReadLock, srcuReadUnlock } from "../kernel/index.ts";
import { type Gpa, PAGE_SIZE, PFERR_GUEST_FINAL, pagesPerLevel } from "../machine/index.ts";
import { kvmMmuDoPageFault } from "./mmu.ts";
import { INVALID_ROOT } from "./mmu-roots.ts";
import type { RetPf } from "./page-fault.ts";
import type { Vcpu } from "./vcpu.ts";

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
    if (vcpu.rootHpa.value === INVALID_ROOT) yield* vcpu.vm.ops.load(vcpu);
    let result: RetPf;
    do {
      result = yield* kvmMmuDoPageFault(vcpu, at as Gpa, PFERR_GUEST_FINAL, true);
    } while (result === "retry");
    if (result !== "fixed" && result !== "spurious") break;
    const mapped = PAGE_SIZE * pagesPerLevel(yield* vcpu.vm.ops.mappedLevel(vcpu, at as Gpa));
    at = at - (at % mapped) + mapped;
  }
  yield* srcuReadUnlock(srcu);
  return Math.max(0, end - at);
}
