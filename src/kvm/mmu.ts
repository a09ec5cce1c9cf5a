/**
 * Page faults: from the exit to the entry in the tables.
 *
 *     kvm_mmu_page_fault
 *       kvm_tdp_mmu_page_fault
 *         fast_page_fault            no lock: give W back where only KVM took it away
 *         kvm_mmu_faultin_pfn        snapshot mmu_invalidate_seq; then ask the host for the frame (may sleep)
 *         mmu_lock for read
 *         is_page_fault_stale        an invalidation since the snapshot? then try again
 *         kvm_tdp_mmu_map            walk, link missing tables, set the leaf
 *
 * The order is the point: the sequence is read before the frame is looked up, and compared under mmu_lock, which every invalidation of the frame
 * takes for write between unmapping it here and freeing it. Stands for mmu.c of 6.12 and 7.2 with tdp_mmu=1; MMIO, async faults and dirty
 * logging are not here yet.
 */
import { compareExchange, load, orU64, type Steps, sameU64, type U64 } from "../engine/index.ts";
import {
  getUserPage,
  hostMappingLevel,
  putPage,
  rcuReadLock,
  rcuReadUnlock,
  readLock,
  readUnlock,
} from "../kernel/index.ts";
import {
  alignToLevel,
  type Gfn,
  type Gpa,
  gpaToGfn,
  PFERR_FETCH,
  PFERR_PRESENT,
  PFERR_RSVD,
  PFERR_WRITE,
  type Pfn,
  PG_LEVEL_1G,
  PG_LEVEL_4K,
  PT_WRITABLE_MASK,
  pagesPerLevel,
  gfn as toGfn,
} from "../machine/index.ts";
import {
  gfnToHva,
  gfnToMemslot,
  KVM_MEM_LOG_DIRTY_PAGES,
  KVM_MEMSLOT_INVALID,
  type KvmMemorySlot,
} from "./memslots.ts";
import { mmuInvalidateRetryGfn, mmuInvalidateRetryGfnUnsafe } from "./mmu-notifier.ts";
import type { KvmMmuPage } from "./mmu-page.ts";
import {
  isAccessAllowed,
  isFrozenSpte,
  isLargePte,
  isLastSpte,
  isMmuWritableSpte,
  isShadowPresentPte,
  makeSpte,
} from "./spte.ts";
import { type TdpIter, tdpIterNext, tdpIterStart } from "./tdp-iter.ts";
import {
  kvmTdpMmuAllocRoot,
  rootHpa,
  type TdpMmu,
  tdpMmuAllocChildSp,
  tdpMmuLinkSp,
  tdpMmuSetSpteAtomic,
} from "./tdp-mmu.ts";
import type { Vcpu } from "./vcpu.ts";

/** RET_PF_*: what came of a fault. */
type RetPf = "continue" | "retry" | "emulate" | "invalid" | "fixed" | "spurious" | "error";

/** struct kvm_page_fault */
interface KvmPageFault {
  readonly addr: Gpa;
  readonly errorCode: number;
  readonly exec: boolean;
  readonly write: boolean;
  readonly present: boolean;
  readonly gfn: Gfn;
  slot: KvmMemorySlot | null;
  mmuSeq: number;
  pfn: Pfn;
  mapWritable: boolean;
  reqLevel: number;
  goalLevel: number;
}

function bit(errorCode: number, mask: number): boolean {
  return Math.floor(errorCode / mask) % 2 === 1;
}

/** kvm_mmu_page_fault(): true to go on with the guest, false when the VMM gets -EFAULT. */
export function* kvmMmuPageFault(vcpu: Vcpu, addr: Gpa, errorCode: number): Steps<boolean> {
  vcpu.count("pf_taken");
  const fault: KvmPageFault = {
    addr,
    errorCode,
    exec: bit(errorCode, PFERR_FETCH),
    write: bit(errorCode, PFERR_WRITE),
    present: bit(errorCode, PFERR_PRESENT),
    gfn: gpaToGfn(addr),
    slot: null,
    mmuSeq: 0,
    pfn: 0 as Pfn,
    mapWritable: false,
    reqLevel: PG_LEVEL_4K,
    goalLevel: PG_LEVEL_4K,
  };
  fault.slot = yield* gfnToMemslot(vcpu.vm.kvm.memslots, fault.gfn);
  const result = yield* kvmTdpMmuPageFault(vcpu, fault);
  if (result === "fixed") vcpu.count("pf_fixed");
  if (result === "emulate") vcpu.count("pf_emulate");
  if (result === "spurious") vcpu.count("pf_spurious");
  return result !== "error" && result !== "emulate";
}

/** kvm_tdp_mmu_page_fault() */
function* kvmTdpMmuPageFault(vcpu: Vcpu, fault: KvmPageFault): Steps<RetPf> {
  const { kvm, tdp } = vcpu.vm;
  const fast = yield* fastPageFault(vcpu, fault);
  if (fast !== "invalid") return fast;
  const faultin = yield* kvmMmuFaultinPfn(vcpu, fault);
  if (faultin !== "continue") return faultin;
  let result: RetPf = "retry";
  yield* readLock(kvm.mmuLock);
  if (!isPageFaultStale(vcpu, fault)) result = yield* kvmTdpMmuMap(vcpu, tdp, fault);
  yield* readUnlock(kvm.mmuLock);
  yield* putPage(kvm.mm.frames, fault.pfn);
  return result;
}

// --- the host's part -------------------------------------------------------------------------------------------------

/** kvm_mmu_faultin_pfn(): the frame, and a sequence number from before it was looked up. */
function* kvmMmuFaultinPfn(vcpu: Vcpu, fault: KvmPageFault): Steps<RetPf> {
  const { kvm } = vcpu.vm;
  // Read before the frame is looked up: an invalidation that the look-up does not see moves it.
  fault.mmuSeq = yield* load(kvm.mmuInvalidateSeq);
  const { slot } = fault;
  if (slot === null) return "error";
  if ((slot.flags.value & KVM_MEMSLOT_INVALID) !== 0) return "retry";
  // Two looks without the lock, only to spare taking it in vain.
  if (yield* mmuInvalidateRetryGfnUnsafe(kvm, fault.mmuSeq, fault.gfn)) return "retry";
  const page = yield* getUserPage(kvm.mm, gfnToHva(slot, fault.gfn), fault.write);
  if (page === null) return "error";
  fault.pfn = page.pfn;
  fault.mapWritable = page.writable;
  if (yield* mmuInvalidateRetryGfnUnsafe(kvm, fault.mmuSeq, fault.gfn)) {
    yield* putPage(kvm.mm.frames, fault.pfn);
    return "retry";
  }
  return "continue";
}

/** is_page_fault_stale(), under mmu_lock: may the frame have been taken away since the snapshot? */
function isPageFaultStale(vcpu: Vcpu, fault: KvmPageFault): boolean {
  return mmuInvalidateRetryGfn(vcpu.vm.kvm, fault.mmuSeq, fault.gfn);
}

// --- levels ----------------------------------------------------------------------------------------------------------

/** lpage_info: may the slot map the frame by an entry of the level? Its ends, and its place in the VMM's memory, must be aligned to it. */
function isLpageDisallowed(slot: KvmMemorySlot, frame: Gfn, level: number): boolean {
  const pages = pagesPerLevel(level);
  const base = slot.base_gfn.value;
  const first = alignToLevel(frame, level);
  const hostFrame = slot.userspace_addr.value / 4096;
  const misaligned = (((hostFrame - base) % pages) + pages) % pages !== 0;
  return misaligned || first < base || first + pages > base + slot.npages.value;
}

/** kvm_mmu_hugepage_adjust(): goal level, and the first frame of the page of that level. Returns the frame to map. */
function* kvmMmuHugepageAdjust(vcpu: Vcpu, fault: KvmPageFault, slot: KvmMemorySlot): Steps<Pfn> {
  if ((slot.flags.value & KVM_MEM_LOG_DIRTY_PAGES) !== 0) return fault.pfn;
  fault.reqLevel = yield* kvmMmuMaxMappingLevel(vcpu, slot, fault.gfn);
  fault.goalLevel = fault.reqLevel;
  return alignToLevel(fault.pfn, fault.goalLevel);
}

function* kvmMmuMaxMappingLevel(vcpu: Vcpu, slot: KvmMemorySlot, frame: Gfn): Steps<number> {
  let level = PG_LEVEL_1G;
  while (level > PG_LEVEL_4K && isLpageDisallowed(slot, frame, level)) level--;
  if (level === PG_LEVEL_4K) return level;
  return Math.min(level, yield* hostMappingLevel(vcpu.vm.kvm.mm, gfnToHva(slot, frame)));
}

// --- mapping ---------------------------------------------------------------------------------------------------------

/** kvm_tdp_mmu_map(): links the tables that are missing, and sets the leaf. mmu_lock held for read. */
function* kvmTdpMmuMap(vcpu: Vcpu, tdp: TdpMmu, fault: KvmPageFault): Steps<RetPf> {
  const slot = fault.slot as KvmMemorySlot;
  const pfn = yield* kvmMmuHugepageAdjust(vcpu, fault, slot);
  const { goalLevel } = fault;
  const requested = pfn + (fault.gfn % pagesPerLevel(goalLevel));
  tdp.emit({
    name: "kvm_mmu_spte_requested",
    gfn: fault.gfn,
    pfn: requested,
    level: goalLevel,
    access: tdp.roles.accessAll,
  });
  yield* rcuReadLock(tdp.kvm.kernel.rcu);
  const result = yield* walkAndMap(vcpu, tdp, fault, pfn);
  yield* rcuReadUnlock(tdp.kvm.kernel.rcu);
  return result;
}

function* walkAndMap(vcpu: Vcpu, tdp: TdpMmu, fault: KvmPageFault, pfn: Pfn): Steps<RetPf> {
  const root = tdp.pages.ofEntry(vcpu.rootHpa.value);
  const iter = yield* tdpIterStart(tdp.world, root, PG_LEVEL_4K, fault.gfn, toGfn(fault.gfn + 1));
  for (; iter.valid; yield* tdpIterNext(iter)) {
    // Somebody is changing the entry: let the guest fault again.
    if (isFrozenSpte(tdp.layout, iter.oldSpte)) return "retry";
    if (iter.level === fault.goalLevel) return yield* tdpMmuMapHandleTargetLevel(tdp, fault, iter, pfn);
    if (isShadowPresentPte(iter.oldSpte) && !isLargePte(iter.oldSpte)) continue;
    // A huge page is in the way only if the host's mapping got smaller, and then the notifier has zapped it.
    if (isShadowPresentPte(iter.oldSpte)) return "retry";
    const sp = tdpMmuAllocChildSp(tdp, iter);
    if (!(yield* tdpMmuLinkSp(tdp, iter, sp))) {
      yield* tdp.pages.free(sp);
      return "retry";
    }
  }
  return "retry";
}

/** tdp_mmu_map_handle_target_level() */
function* tdpMmuMapHandleTargetLevel(tdp: TdpMmu, fault: KvmPageFault, iter: TdpIter, pfn: Pfn): Steps<RetPf> {
  const { layout } = tdp;
  const old = iter.oldSpte;
  const present = isShadowPresentPte(old);
  const isNewer = tdp.kvm.variants.kernel === "7.2";
  if (isNewer && present && isLastSpte(old, iter.level) && isAccessAllowed(layout, fault, old)) return "spurious";
  const spte = makeSpte(layout, {
    level: iter.level,
    pfn,
    hostWritable: fault.mapWritable,
    exec: true,
    prefetch: false,
    mayWrite: true,
  });
  let result: RetPf = "fixed";
  if (sameU64(spte, old)) {
    result = "spurious";
  } else {
    const replacesTable = present && !isLastSpte(old, iter.level);
    if (!(yield* tdpMmuSetSpteAtomic(tdp, iter, spte))) return "retry";
    if (replacesTable) yield* (tdp.kvm.arch as NonNullable<typeof tdp.kvm.arch>).flushRemoteTlbs();
  }
  const shown = yield* load(iter.sptep);
  tdp.emit({ name: "kvm_mmu_set_spte", gfn: iter.gfn, spte: shown, level: iter.level, at: iter.sptep.addr });
  return result;
}

// --- fast page fault -------------------------------------------------------------------------------------------------

const FAST_PF_RETRIES_MAX = 4;

/** page_fault_can_be_fast(): a write to an entry that is present, with A/D bits. */
function pageFaultCanBeFast(fault: KvmPageFault): boolean {
  return !bit(fault.errorCode, PFERR_RSVD) && fault.present && fault.write;
}

/** fast_page_fault(): gives W back by one compare-exchange, without mmu_lock, where only KVM took it away. */
function* fastPageFault(vcpu: Vcpu, fault: KvmPageFault): Steps<RetPf> {
  if (!pageFaultCanBeFast(fault)) return "invalid";
  const { tdp, kvm } = vcpu.vm;
  yield* rcuReadLock(kvm.kernel.rcu);
  let outcome: FastOutcome | null = null;
  for (let tries = 0; outcome === null || (outcome.result === "retry" && tries <= FAST_PF_RETRIES_MAX); tries++) {
    outcome = yield* tryFastPageFault(vcpu, fault);
  }
  const { sptep, oldSpte } = outcome;
  const result = outcome.result === "retry" ? "invalid" : outcome.result;
  const newSpte = sptep === null ? oldSpte : yield* load(sptep);
  tdp.emit({
    name: "fast_page_fault",
    vcpu: vcpu.id,
    address: fault.addr,
    errorCode: fault.errorCode,
    sptep: sptep?.addr ?? 0,
    oldSpte,
    newSpte,
    spurious: result === "spurious",
    fixed: result === "fixed",
  });
  yield* rcuReadUnlock(kvm.kernel.rcu);
  if (result !== "invalid") vcpu.count("pf_fast");
  return result;
}

interface FastOutcome {
  readonly result: RetPf;
  readonly sptep: TdpIter["sptep"] | null;
  readonly oldSpte: U64;
}

function* tryFastPageFault(vcpu: Vcpu, fault: KvmPageFault): Steps<FastOutcome> {
  const { tdp } = vcpu.vm;
  const { layout } = tdp;
  const root = tdp.pages.ofEntry(vcpu.rootHpa.value);
  const iter = yield* tdpIterStart(tdp.world, root, PG_LEVEL_4K, fault.gfn, toGfn(fault.gfn + 1));
  let sptep = iter.sptep;
  let spte = iter.oldSpte;
  let level = iter.level;
  for (; iter.valid; yield* tdpIterNext(iter)) {
    sptep = iter.sptep;
    spte = iter.oldSpte;
    level = iter.level;
  }
  const outcome = (result: RetPf): FastOutcome => ({ result, sptep, oldSpte: spte });
  if (!isShadowPresentPte(spte) || !isLastSpte(spte, level)) return outcome("invalid");
  if (isAccessAllowed(layout, fault, spte)) return outcome("spurious");
  let newSpte = spte;
  if (fault.write && isMmuWritableSpte(layout, spte)) {
    newSpte = orU64(spte, PT_WRITABLE_MASK);
    const logs = ((fault.slot?.flags.value ?? 0) & KVM_MEM_LOG_DIRTY_PAGES) !== 0;
    // Only one 4K page would be logged as dirty: a huge page has to be split first.
    if (level > PG_LEVEL_4K && logs) return outcome("invalid");
  }
  if (sameU64(newSpte, spte) || !isAccessAllowed(layout, fault, newSpte)) return outcome("invalid");
  const found = yield* compareExchange(sptep, spte, newSpte);
  return outcome(sameU64(found, spte) ? "fixed" : "retry");
}

// --- roots -----------------------------------------------------------------------------------------------------------

/** kvm_mmu_load(): gives the vCPU a root. Its TLB is flushed with it. */
export function* kvmMmuLoad(vcpu: Vcpu): Steps<void> {
  const { kvm, tdp } = vcpu.vm;
  yield* readLock(kvm.mmuLock);
  const root: KvmMmuPage = yield* kvmTdpMmuAllocRoot(tdp);
  yield* readUnlock(kvm.mmuLock);
  vcpu.rootHpa.value = rootHpa(root);
}
