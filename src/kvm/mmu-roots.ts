/**
 * A vCPU's root: got before it enters the guest, given up when it was invalidated or when the vCPU's paging changes.
 *
 *     kvm_mmu_load            a root with a reference; the TLB is flushed with it, which covers what its ASID may have cached before
 *     kvm_mmu_unload          gives it back
 *     on KVM_REQ_MMU_FREE_OBSOLETE_ROOTS: give it back if it is obsolete; the next entry loads another
 *
 * Stands for mmu.c of 6.12 and 7.2.
 */
import { load, type Steps } from "../engine/index.ts";
import { readLock, readUnlock } from "../kernel/index.ts";
import type { KvmMmuPage } from "./mmu-page.ts";
import { isInvalidRoot, kvmTdpMmuAllocRoot, kvmTdpMmuPutRoot, rootHpa } from "./tdp-roots.ts";
import type { Vcpu } from "./vcpu.ts";

/** INVALID_PAGE: root.hpa of a vCPU without a root. */
export const INVALID_ROOT = 0;

/** kvm_mmu_load(), mmu_alloc_direct_roots(): gives the vCPU a root. Its TLB is flushed with it. */
export function* kvmMmuLoad(vcpu: Vcpu): Steps<void> {
  const { kvm, tdp } = vcpu.vm;
  yield* readLock(kvm.mmuLock);
  const root: KvmMmuPage = yield* kvmTdpMmuAllocRoot(tdp, vcpu.guestMode);
  yield* readUnlock(kvm.mmuLock);
  vcpu.rootHpa.value = rootHpa(root);
}

/** kvm_mmu_unload(), kvm_mmu_free_roots(): the vCPU has no root any more. */
export function* kvmMmuFreeRoots(vcpu: Vcpu): Steps<void> {
  const { kvm, tdp } = vcpu.vm;
  const hpa = vcpu.rootHpa.value;
  if (hpa === INVALID_ROOT) return;
  yield* readLock(kvm.mmuLock);
  yield* kvmTdpMmuPutRoot(tdp, tdp.pages.ofEntry(hpa));
  vcpu.rootHpa.value = INVALID_ROOT;
  yield* readUnlock(kvm.mmuLock);
}

/** kvm_mmu_free_obsolete_roots() */
export function* kvmMmuFreeObsoleteRoots(vcpu: Vcpu): Steps<void> {
  const hpa = vcpu.rootHpa.value;
  if (hpa === INVALID_ROOT) return;
  // Without mmu_lock: the vCPU's reference keeps the root, and whoever invalidates it afterwards makes a new request.
  const { tdp } = vcpu.vm;
  const role = yield* load(tdp.pages.ofEntry(hpa).role);
  if ((role & tdp.roles.invalid) !== 0) yield* kvmMmuFreeRoots(vcpu);
}

/** is_obsolete_sp() of the vCPU's root, under mmu_lock: nothing may be mapped in it any more. */
export function isObsoleteRoot(vcpu: Vcpu): boolean {
  const { tdp } = vcpu.vm;
  return isInvalidRoot(tdp, tdp.pages.ofEntry(vcpu.rootHpa.value));
}
