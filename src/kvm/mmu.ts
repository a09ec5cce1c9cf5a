/**
 * Page faults: from the exit to the entry in the tables.
 *
 *     kvm_mmu_page_fault
 *       handle_mmio_page_fault       a reserved bit is set: an entry says that it is MMIO
 *       kvm_tdp_mmu_page_fault
 *         fast_page_fault            no lock: give W back where only KVM took it away
 *         kvm_mmu_faultin_pfn        snapshot mmu_invalidate_seq; then ask the host for the frame (may sleep)
 *         mmu_lock for read
 *         is_page_fault_stale        an invalidation since the snapshot? then try again
 *         kvm_tdp_mmu_map            walk, link missing tables, set the leaf
 *
 * The order is the point: the sequence is read before the frame is looked up, and compared under mmu_lock, which every invalidation of the frame
 * takes for write between unmapping it here and freeing it. Stands for mmu.c of 6.12 and 7.2 with tdp_mmu=1; not modelled:
 * async faults.
 */

import { load, type Steps } from "../engine/index.ts";
import { getUserPage, readLock, readUnlock } from "../kernel/index.ts";
import {
  type Gpa,
  type Gva,
  gpaToGfn,
  PFERR_FETCH,
  PFERR_GUEST_PAGE,
  PFERR_PRESENT,
  PFERR_RSVD,
  PFERR_USER,
  PFERR_WRITE,
  PG_LEVEL_1G,
  PG_LEVEL_4K,
} from "../machine/index.ts";
import { isApicInhibited } from "./apic-access.ts";
import { eventNeedsReinjection } from "./exception.ts";
import { fastPageFault } from "./fast-page-fault.ts";
import { gvaToGpa } from "./guest-walk.ts";
import type { Kvm } from "./kvm.ts";
import { gfnToHva, gfnToMemslot, KVM_MEMSLOT_INVALID, type KvmMemorySlot, memslotIsReadonly } from "./memslots.ts";
import { handleMmioPageFault, vcpuCacheMmioInfo } from "./mmio.ts";
import { mmuInvalidateRetryGfn, mmuInvalidateRetryGfnUnsafe } from "./mmu-notifier.ts";
import { isObsoleteRoot } from "./mmu-roots.ts";
import { errorBit, KVM_PFN_NOSLOT, type KvmPageFault, type RetPf } from "./page-fault.ts";
import { finishPageFault } from "./pfn-dirty.ts";
import { hvaToPfnRemapped, releaseUnused } from "./pfn-remapped.ts";
import { kvmMmuUnprotectGfnAndRetry, unprotectGfn } from "./shadow/track-write.ts";
import { kvmTdpMmuMap } from "./tdp-map.ts";
import type { Vcpu } from "./vcpu.ts";

/** What the vCPU does after a fault. */
export interface FaultOutcome {
  readonly kind: "resume" | "emulate" | "efault";
  /** See {@link EmulatedFault}. */
  readonly allowRetry: boolean;
  readonly writeToShadowPgtable: boolean;
}

const outcome = (kind: FaultOutcome["kind"], allowRetry = false, writeToShadowPgtable = false): FaultOutcome => ({
  kind,
  allowRetry,
  writeToShadowPgtable,
});

const RESUME = outcome("resume");

/** kvm_mmu_page_fault(). @param addr guest-physical with nested paging, guest-virtual without */
export function* kvmMmuPageFault(vcpu: Vcpu, addr: number, errorCode: number): Steps<FaultOutcome> {
  let result: RetPf = "invalid";
  let allowRetry = false;
  let writeToShadowPgtable = false;
  if (vcpu.vm.kvm.variants.unprotectsAtEntry) yield* unprotectAtEntry(vcpu, addr);
  if (errorBit(errorCode, PFERR_RSVD)) {
    result = yield* handleMmioPageFault(vcpu, addr);
    if (result === "emulate") return outcome("emulate");
  }
  if (result === "invalid") {
    vcpu.count("pf_taken");
    const fault = yield* faultAt(vcpu, addr, errorCode, false);
    result = yield* vcpu.vm.ops.pageFault(vcpu, fault);
    writeToShadowPgtable = fault.writeFaultToShadowPgtable;
  }
  if (result === "write-protected") {
    const handled = yield* kvmMmuWriteProtectFault(vcpu, addr, errorCode);
    result = handled === "retry" ? "retry" : "emulate";
    allowRetry = handled === "emulate-or-retry";
  }
  if (result === "fixed") vcpu.count("pf_fixed");
  if (result === "emulate") vcpu.count("pf_emulate");
  if (result === "spurious") vcpu.count("pf_spurious");
  if (result === "error") return outcome("efault");
  return result === "emulate" ? outcome("emulate", allowRetry, writeToShadowPgtable) : RESUME;
}

/** handle_exception() up to 6.11: an event was being delivered and nobody could emulate that, so the frame must not be write-protected. */
function* unprotectAtEntry(vcpu: Vcpu, addr: number): Steps<void> {
  const { shadow } = vcpu.vm;
  if (shadow === null || !eventNeedsReinjection(vcpu)) return;
  const gpa = yield* gvaToGpa(vcpu, addr as Gva, 0);
  if (typeof gpa === "number") yield* unprotectGfn(shadow, gpaToGfn(gpa));
}

/** kvm_mmu_write_protect_fault(): a write to a frame that is shadowed. */
function* kvmMmuWriteProtectFault(
  vcpu: Vcpu,
  addr: number,
  errorCode: number,
): Steps<"retry" | "emulate" | "emulate-or-retry"> {
  const { shadow } = vcpu.vm;
  const { lastRetryRip, lastRetryAddr } = vcpu.mmu;
  const { failedEmulation } = vcpu.vm.kvm.variants;
  const looksAtPlace = failedEmulation === "report" || failedEmulation === "retry-once";
  // It was let try once, and is here again: it would be here for ever.
  if (looksAtPlace && lastRetryRip.value === vcpu.guest.rip && lastRetryAddr.value === addr) return "emulate";
  lastRetryRip.value = 0;
  lastRetryAddr.value = 0;
  const isTableWalk = errorBit(errorCode, PFERR_GUEST_PAGE) && errorBit(errorCode, PFERR_WRITE);
  const cannotEmulate = vcpu.isDirectMmu ? isTableWalk : eventNeedsReinjection(vcpu);
  if (cannotEmulate && shadow !== null && (yield* kvmMmuUnprotectGfnAndRetry(vcpu, shadow, addr))) return "retry";
  return "emulate-or-retry";
}

/** kvm_mmu_do_page_fault() */
export function* kvmMmuDoPageFault(
  vcpu: Vcpu,
  addr: number,
  errorCode: number,
  prefetch: boolean,
): Steps<{ readonly result: RetPf; readonly level: number }> {
  const fault = yield* faultAt(vcpu, addr, errorCode, prefetch);
  const result = yield* vcpu.vm.ops.pageFault(vcpu, fault);
  return { result, level: fault.goalLevel };
}

/** What kvm_mmu_do_page_fault() knows of a fault. */
function* faultAt(vcpu: Vcpu, addr: number, errorCode: number, prefetch: boolean): Steps<KvmPageFault> {
  const fault: KvmPageFault = {
    addr: addr as Gpa,
    errorCode,
    exec: errorBit(errorCode, PFERR_FETCH),
    write: errorBit(errorCode, PFERR_WRITE),
    present: errorBit(errorCode, PFERR_PRESENT),
    user: errorBit(errorCode, PFERR_USER),
    prefetch,
    gfn: gpaToGfn(addr as Gpa),
    slot: null,
    mmuSeq: 0,
    pfn: KVM_PFN_NOSLOT,
    mapWritable: false,
    refcounted: true,
    maxLevel: PG_LEVEL_1G,
    reqLevel: PG_LEVEL_4K,
    goalLevel: PG_LEVEL_4K,
    hugePageDisallowed: false,
    writeFaultToShadowPgtable: false,
  };
  if (vcpu.isDirectMmu) fault.slot = yield* gfnToMemslot(vcpu.vm.kvm.memslots, fault.gfn);
  return fault;
}

/** kvm_tdp_mmu_page_fault() */
export function* kvmTdpMmuPageFault(vcpu: Vcpu, fault: KvmPageFault): Steps<RetPf> {
  const { kvm, tdp } = vcpu.vm;
  const fast = yield* fastPageFault(vcpu, fault);
  if (fast !== "invalid") return fast;
  const faultin = yield* kvmMmuFaultinPfn(vcpu, fault, tdp.roles.accessAll);
  if (faultin !== "continue") return faultin;
  let result: RetPf = "retry";
  const found = fault.pfn;
  yield* readLock(kvm.mmuLock);
  if (!isPageFaultStale(vcpu, fault)) result = yield* kvmTdpMmuMap(vcpu, tdp, fault);
  yield* readUnlock(kvm.mmuLock);
  yield* finishPageFault(kvm, fault, found, result);
  return result;
}

// --- the host's part -------------------------------------------------------------------------------------------------

/** kvm_mmu_faultin_pfn(): the frame, and a sequence number from before it was looked up. */
export function* kvmMmuFaultinPfn(vcpu: Vcpu, fault: KvmPageFault, access: number): Steps<RetPf> {
  const { kvm } = vcpu.vm;
  // Read before the frame is looked up: an invalidation that the look-up does not see moves it.
  fault.mmuSeq = yield* load(kvm.mmuInvalidateSeq);
  if (kvm.lacks("invalid-slot-treated-as-mmio") && isInvalidSlot(fault.slot)) fault.slot = null;
  const { slot } = fault;
  if (slot === null) return yield* kvmHandleNoslotFault(vcpu, fault, access);
  if (fault.prefetch && isInvalidSlot(slot) && mayGiveUp(kvm)) return "error";
  if ((slot.flags.value & KVM_MEMSLOT_INVALID) !== 0) return "retry";
  if (yield* isApicInhibited(kvm, slot)) return "emulate";
  // Two looks without the lock, only to spare taking it in vain.
  if (yield* mmuInvalidateRetryGfnUnsafe(kvm, fault.mmuSeq, fault.gfn)) return "retry";
  // KVM_PFN_ERR_RO_FAULT
  if (fault.write && memslotIsReadonly(slot)) return "emulate";
  const hva = gfnToHva(slot, fault.gfn);
  let page = yield* getUserPage(kvm.mm, hva, fault.write);
  if (page === null) {
    const remapped = yield* hvaToPfnRemapped(kvm, hva, fault.write);
    if (remapped === null) return "error";
    fault.refcounted = remapped.refcounted;
    page = remapped;
  }
  if (kvm.lacks("fault-retry-sample-order/a")) fault.mmuSeq = yield* load(kvm.mmuInvalidateSeq);
  fault.pfn = page.pfn;
  fault.mapWritable = page.writable && !memslotIsReadonly(slot);
  if (yield* mmuInvalidateRetryGfnUnsafe(kvm, fault.mmuSeq, fault.gfn)) {
    yield* releaseUnused(kvm, fault.pfn, fault.refcounted);
    return "retry";
  }
  return "continue";
}

/** -EAGAIN, from 6.18 on: the update of the memslots waits for who asks ahead of use, and so that one may not go on asking. */
function mayGiveUp(kvm: Kvm): boolean {
  return kvm.variants.kernel === "7.2" && !kvm.lacks("prefault-deadlocks-memslot-update");
}

function isInvalidSlot(slot: KvmMemorySlot | null): boolean {
  return slot !== null && (slot.flags.value & KVM_MEMSLOT_INVALID) !== 0;
}

/** kvm_handle_noslot_fault(): the vCPU remembers the frame; the entry will say that it is MMIO. */
function* kvmHandleNoslotFault(vcpu: Vcpu, fault: KvmPageFault, access: number): Steps<RetPf> {
  const gva = vcpu.vm.kvm.params.npt ? 0 : fault.addr;
  yield* vcpuCacheMmioInfo(vcpu, { gva, gfn: fault.gfn, access });
  // Such an address has no place in an entry.
  return fault.gfn > GFN_MAX ? "emulate" : "continue";
}

/** kvm_mmu_max_gfn(): physical addresses of the host have 40 bits. */
const GFN_MAX = 2 ** 28 - 1;

/** is_page_fault_stale(), under mmu_lock: may the root, or the frame, have been taken away since the snapshot? */
function isPageFaultStale(vcpu: Vcpu, fault: KvmPageFault): boolean {
  const { kvm } = vcpu.vm;
  if (kvm.lacks("fault-on-root-invalidated-by-memslot")) return isFrameStale(kvm, fault);
  if (isObsoleteRoot(vcpu)) return true;
  return isFrameStale(kvm, fault);
}

/** The part of it that concerns the frame. */
export function isFrameStale(kvm: Kvm, fault: KvmPageFault): boolean {
  const seq = kvm.lacks("mmu-seq-sign-extension") ? fault.mmuSeq | 0 : fault.mmuSeq;
  return fault.slot !== null && mmuInvalidateRetryGfn(kvm, seq, fault.gfn);
}
