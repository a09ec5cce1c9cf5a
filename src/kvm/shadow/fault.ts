/**
 * Page faults of the shadow MMU.
 *
 *     FNAME(page_fault)      the guest has paging, the fault a guest-virtual address
 *       walk_addr              the guest's own fault? it is delivered to the guest
 *       a write to a frame whose table is write-tracked: emulate
 *       faultin                snapshot mmu_invalidate_seq, then the host's page
 *       mmu_lock for write: room for new pages; stale? try again; fetch
 *     direct_page_fault      no paging in the guest, or nested paging without the TDP MMU
 *
 * Stands for these functions and fast_page_fault() of 6.12 and 7.2.
 */
import {
  compareExchangeEntry,
  deepCall,
  loadEntry,
  type Steps,
  sameU64,
  type U64,
  U64_ZERO,
} from "../../engine/index.ts";
import { writeLock, writeUnlock } from "../../kernel/index.ts";
import { type Gva, PFERR_PRESENT, PFERR_RSVD, PFERR_WRITE } from "../../machine/index.ts";
import { markPageDirtyInSlot } from "../dirty-log.ts";
import { kvmInjectEmulatedPageFault } from "../exception.ts";
import { fastFixedSpte, pageFaultCanBeFast } from "../fast-page-fault.ts";
import { walkAddr } from "../guest-walk.ts";
import { gfnToMemslot } from "../memslots.ts";
import { isFrameStale, kvmMmuFaultinPfn } from "../mmu.ts";
import { errorBit, type KvmPageFault, type RetPf } from "../page-fault.ts";
import { finishPageFault } from "../pfn-dirty.ts";
import { isWritablePte } from "../spte.ts";
import type { Vcpu } from "../vcpu.ts";
import { directMap, type FetchTarget, fetch } from "./fetch.ts";
import { isObsoleteShadowRoot } from "./roots.ts";
import type { ShadowMmu } from "./shadow-mmu.ts";
import { kvmGfnIsWriteTracked } from "./slot-arch.ts";
import type { Sptep } from "./spte-change.ts";
import {
  lastEntryLockless,
  shadowPageTableClearFlood,
  walkShadowPageLocklessBegin,
  walkShadowPageLocklessEnd,
} from "./walk.ts";
import { makeMmuPagesAvailable } from "./zap.ts";

/** FNAME(page_fault) */
export function* shadowPageFault(vcpu: Vcpu, shadow: ShadowMmu, fault: KvmPageFault): Steps<RetPf> {
  // A reserved bit is one of KVM's entry: the guest's walk knows nothing of it.
  const access = errorBit(fault.errorCode, PFERR_RSVD) ? fault.errorCode - PFERR_RSVD : fault.errorCode;
  const walk = yield* walkAddr(vcpu, fault.addr as number as Gva, access);
  if (walk.kind === "fault") {
    if (!fault.prefetch) yield* kvmInjectEmulatedPageFault(vcpu, walk);
    return "retry";
  }
  fault.gfn = walk.gfn;
  fault.maxLevel = walk.level;
  fault.slot = yield* gfnToMemslot(shadow.kvm.memslots, fault.gfn);
  if (yield* pageFaultHandlePageTrack(shadow, fault)) {
    yield* shadowPageTableClearFlood(vcpu, shadow, fault.addr);
    return "write-protected";
  }
  if (shadow.kvm.lacks("fast-fault-aba-indirect")) {
    const fast = yield* shadowFastPageFault(vcpu, shadow, fault);
    if (fast !== "invalid") return fast;
  }
  const faultin = yield* kvmMmuFaultinPfn(vcpu, fault, walk.pteAccess);
  if (faultin !== "continue") return faultin;
  const target: FetchTarget = { walk, access: accessWithoutWp(vcpu, shadow, fault, walk.pteAccess) };
  return yield* underMmuLock(vcpu, shadow, fault, () => fetch(vcpu, shadow, fault, target));
}

/**
 * CR0.WP is clear and the supervisor writes to a read-only page: the entry becomes one that the supervisor may write, and so must not be the
 * user's. With SMEP it may not be executable either, since it no longer looks like a page of the user's.
 */
function accessWithoutWp(vcpu: Vcpu, shadow: ShadowMmu, fault: KvmPageFault, access: number): number {
  const { bits } = shadow;
  const { mode } = vcpu.guest;
  if (!fault.write || (access & bits.write) !== 0 || mode.wp || fault.user || fault.slot === null) return access;
  const supervisors = (access | bits.write) & ~bits.user;
  return mode.smep ? supervisors & ~bits.exec : supervisors;
}

/** page_fault_handle_page_track(): a write to a table that KVM must see. */
function* pageFaultHandlePageTrack(shadow: ShadowMmu, fault: KvmPageFault): Steps<boolean> {
  const { errorCode } = fault;
  if (errorBit(errorCode, PFERR_RSVD)) return false;
  if (!errorBit(errorCode, PFERR_PRESENT) || !errorBit(errorCode, PFERR_WRITE)) return false;
  return yield* kvmGfnIsWriteTracked(shadow, fault.slot, fault.gfn);
}

/** The locked part of a fault: whatever was found out before may be out of date by now. */
function* underMmuLock(vcpu: Vcpu, shadow: ShadowMmu, fault: KvmPageFault, map: () => Steps<RetPf>): Steps<RetPf> {
  const { kvm } = shadow;
  const found = fault.pfn;
  let result: RetPf = "retry";
  yield* writeLock(kvm.mmuLock);
  // Room first: what is zapped for it may be what the fault is about to use.
  if (!(yield* makeMmuPagesAvailable(shadow))) result = "error";
  else if (!isShadowFaultStale(vcpu, shadow, fault)) result = yield* deepCall(shadow.world, map());
  yield* writeUnlock(kvm.mmuLock);
  yield* finishPageFault(kvm, fault, found, result);
  return result;
}

function isShadowFaultStale(vcpu: Vcpu, shadow: ShadowMmu, fault: KvmPageFault): boolean {
  const looksAtRoot = !shadow.kvm.lacks("fault-on-root-invalidated-by-memslot");
  if (looksAtRoot && isObsoleteShadowRoot(vcpu, shadow)) return true;
  return isFrameStale(shadow.kvm, fault);
}

/** direct_page_fault() */
export function* directPageFault(vcpu: Vcpu, shadow: ShadowMmu, fault: KvmPageFault): Steps<RetPf> {
  if (yield* pageFaultHandlePageTrack(shadow, fault)) return "write-protected";
  const fast = yield* shadowFastPageFault(vcpu, shadow, fault);
  if (fast !== "invalid") return fast;
  const faultin = yield* kvmMmuFaultinPfn(vcpu, fault, shadow.bits.all);
  if (faultin !== "continue") return faultin;
  return yield* underMmuLock(vcpu, shadow, fault, () => directMap(vcpu, shadow, fault));
}

// --- fast page fault -------------------------------------------------------------------------------------------------

const FAST_PF_RETRIES_MAX = 4;

interface FastOutcome {
  readonly result: RetPf;
  /** 0: no entry was looked at. */
  readonly sptep: Sptep;
  readonly oldSpte: U64;
  readonly newSpte: U64;
}

/** fast_page_fault(), over direct shadow pages: gives back what dirty logging or aging took away, in a lockless walk. */
function* shadowFastPageFault(vcpu: Vcpu, shadow: ShadowMmu, fault: KvmPageFault): Steps<RetPf> {
  if (!pageFaultCanBeFast(shadow.layout, fault)) return "invalid";
  yield* walkShadowPageLocklessBegin(vcpu);
  let outcome = yield* tryShadowFastPageFault(vcpu, shadow, fault);
  for (let tries = 0; outcome.result === "retry" && tries < FAST_PF_RETRIES_MAX; tries++) {
    outcome = yield* tryShadowFastPageFault(vcpu, shadow, fault);
  }
  const result = outcome.result === "retry" ? "invalid" : outcome.result;
  shadow.emit({
    name: "fast_page_fault",
    vcpu: vcpu.id,
    address: fault.addr,
    errorCode: fault.errorCode,
    sptep: outcome.sptep,
    oldSpte: outcome.oldSpte,
    newSpte: outcome.newSpte,
    spurious: result === "spurious",
    fixed: result === "fixed",
  });
  yield* walkShadowPageLocklessEnd(vcpu);
  if (result !== "invalid") vcpu.count("pf_fast");
  return result;
}

function* tryShadowFastPageFault(vcpu: Vcpu, shadow: ShadowMmu, fault: KvmPageFault): Steps<FastOutcome> {
  const { layout } = shadow;
  const last = yield* lastEntryLockless(vcpu, shadow, fault.addr);
  if (last === null) return { result: "invalid", sptep: 0, oldSpte: U64_ZERO, newSpte: U64_ZERO };
  const { sptep, spte, level } = last;
  const outcome = (result: RetPf, newSpte = spte): FastOutcome => ({ result, sptep, oldSpte: spte, newSpte });
  const fixed = fastFixedSpte(layout, fault, spte, level, shadow.kvm.variants.fastFixesLarge);
  if (typeof fixed === "string") return outcome(fixed);
  if (!sameU64(yield* compareExchangeEntry(shadow.world, sptep, spte, fixed), spte)) return outcome("retry");
  const becomesWritable = isWritablePte(fixed) && !isWritablePte(spte);
  if (becomesWritable && fault.slot !== null)
    yield* markPageDirtyInSlot(shadow.kvm, fault.slot, fault.gfn, vcpu.dirtyRing);
  return outcome("fixed", yield* loadEntry(shadow.world, sptep));
}
