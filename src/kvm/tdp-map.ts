/**
 * The TDP MMU's side of a page fault: the walk to the goal level, the tables that are missing on the way, and the leaf.
 *
 *     goal level reached                the leaf, if it is still what the walk has read
 *     nothing there                     a table is linked
 *     a huge page, larger than the goal it is split into a table in place: dirty logging, or a fetch from an NX huge page
 *     frozen                            somebody is changing it: the guest faults again
 *
 * Stands for kvm_tdp_mmu_map() and tdp_mmu_map_handle_target_level() of 6.12 and 7.2.
 */
import { load, loadEntry, type Steps, sameU64, type U64 } from "../engine/index.ts";
import { rcuReadLock, rcuReadUnlock, spinLock, spinUnlock } from "../kernel/index.ts";
import { type Pfn, PG_LEVEL_4K, pagesPerLevel, gfn as toGfn } from "../machine/index.ts";
import { markPageDirtyInSlot } from "./dirty-log.ts";
import { disallowedHugepageAdjust, kvmMmuHugepageAdjust, kvmSlotDirtyTrackEnabled } from "./huge-page.ts";
import type { KvmMemorySlot } from "./memslots.ts";
import { memslotsGeneration } from "./mmio.ts";
import { getMmioSpteGeneration, makeMmioSpte } from "./mmio-spte.ts";
import type { KvmMmuPage } from "./mmu-page.ts";
import { trackPossibleNxHugePage } from "./nx-huge.ts";
import type { KvmPageFault, RetPf } from "./page-fault.ts";
import {
  isAccessAllowed,
  isFrozenSpte,
  isLargePte,
  isLastSpte,
  isShadowPresentPte,
  isWritablePte,
  makeSpte,
} from "./spte.ts";
import { type TdpIter, tdpIterNext, tdpIterStart } from "./tdp-iter.ts";
import { type TdpMmu, tdpMmuAllocChildSp, tdpMmuLinkSp, tdpMmuSetSpteAtomic } from "./tdp-mmu.ts";
import { splitTable, tdpMmuSplitHugePage } from "./tdp-split.ts";
import type { Vcpu } from "./vcpu.ts";

/** kvm_tdp_mmu_map(): links the tables that are missing, and sets the leaf. mmu_lock held for read. */
export function* kvmTdpMmuMap(vcpu: Vcpu, tdp: TdpMmu, fault: KvmPageFault): Steps<RetPf> {
  const { slot } = fault;
  if (slot !== null) yield* kvmMmuHugepageAdjust(tdp.kvm, fault, slot);
  if (tdp.world.tracepoints) traceRequest(tdp, fault);
  yield* rcuReadLock(tdp.kvm.kernel.rcu);
  const result = yield* walkAndMap(vcpu, tdp, fault, slot);
  yield* rcuReadUnlock(tdp.kvm.kernel.rcu);
  return result;
}

function traceRequest(tdp: TdpMmu, { gfn, pfn, goalLevel }: KvmPageFault): void {
  tdp.emit({
    name: "kvm_mmu_spte_requested",
    gfn,
    pfn: pfn + (gfn % pagesPerLevel(goalLevel)),
    level: goalLevel,
    access: tdp.roles.accessAll,
  });
}

function* walkAndMap(vcpu: Vcpu, tdp: TdpMmu, fault: KvmPageFault, slot: KvmMemorySlot | null): Steps<RetPf> {
  const root = tdp.pages.ofEntry(vcpu.rootHpa.value);
  const iter = yield* tdpIterStart(tdp.world, root, PG_LEVEL_4K, fault.gfn, toGfn(fault.gfn + 1));
  for (; iter.valid; yield* tdpIterNext(iter)) {
    if (tdp.kvm.params.nxHugePages) yield* disallowedHugepageAdjust(tdp, fault, iter.oldSpte, iter.level);
    // Somebody is changing the entry: let the guest fault again.
    if (isFrozenSpte(tdp.layout, iter.oldSpte)) return "retry";
    if (iter.level === fault.goalLevel) return yield* tdpMmuMapHandleTargetLevel(vcpu, tdp, fault, slot, iter);
    if (isShadowPresentPte(iter.oldSpte) && !isLargePte(iter.oldSpte)) continue;
    if (!(yield* putTable(tdp, fault, iter))) return "retry";
  }
  return "retry";
}

/** A table where there is none, or in a huge page's place; false when the entry has changed meanwhile. */
function* putTable(tdp: TdpMmu, fault: KvmPageFault, iter: TdpIter): Steps<boolean> {
  const isHuge = isShadowPresentPte(iter.oldSpte);
  const sp = tdpMmuAllocChildSp(tdp, iter, isHuge ? splitTable(tdp, iter) : null);
  if (fault.hugePageDisallowed) sp.nx_huge_page_disallowed.value = 1;
  const linked = isHuge ? yield* tdpMmuSplitHugePage(tdp, iter, sp, true) : yield* tdpMmuLinkSp(tdp, iter, sp, true);
  if (!linked) {
    yield* tdp.pages.free(sp);
    return false;
  }
  if (fault.hugePageDisallowed && fault.reqLevel >= iter.level) yield* accountNxHugePage(tdp, sp);
  return true;
}

/** The table is all that keeps a huge page from being there: recovery may take it away. */
function* accountNxHugePage(tdp: TdpMmu, sp: KvmMmuPage): Steps<void> {
  yield* spinLock(tdp.tdpMmuPagesLock);
  // Whoever has unlinked the table meanwhile has taken the mark away.
  const isUnlinked = (yield* load(sp.nx_huge_page_disallowed)) === 0;
  if (!isUnlinked || tdp.kvm.lacks("nx-list-add-after-zap")) yield* trackPossibleNxHugePage(tdp, sp);
  yield* spinUnlock(tdp.tdpMmuPagesLock);
}

/** tdp_mmu_map_handle_target_level() */
function* tdpMmuMapHandleTargetLevel(
  vcpu: Vcpu,
  tdp: TdpMmu,
  fault: KvmPageFault,
  slot: KvmMemorySlot | null,
  iter: TdpIter,
): Steps<RetPf> {
  const { layout, kvm } = tdp;
  const old = iter.oldSpte;
  const present = isShadowPresentPte(old);
  const isNewer = kvm.variants.kernel === "7.2";
  if (isNewer && present && isLastSpte(old, iter.level) && (fault.prefetch || isAccessAllowed(layout, fault, old))) {
    return "spurious";
  }
  const spte =
    slot === null
      ? makeMmioSpte(layout, iter.gfn, tdp.roles.accessAll, yield* memslotsGeneration(vcpu))
      : yield* makeSpteOfFault(vcpu, tdp, fault, slot, iter);
  let result: RetPf = "fixed";
  if (sameU64(spte, old)) {
    result = "spurious";
  } else {
    const replacesTable = present && !isLastSpte(old, iter.level);
    if (!(yield* tdpMmuSetSpteAtomic(tdp, iter, spte))) return "retry";
    if (replacesTable && kvm.arch !== null) yield* kvm.arch.flushRemoteTlbs();
  }
  if (slot === null) {
    vcpu.count("pf_mmio_spte_created");
    markMmioSpte(tdp, iter, spte);
    return "emulate";
  }
  const shown = yield* loadEntry(tdp.world, iter.sptepAddr);
  if (tdp.world.tracepoints) {
    tdp.emit({ name: "kvm_mmu_set_spte", gfn: iter.gfn, spte: shown, level: iter.level, at: iter.sptepAddr });
  }
  return result;
}

function markMmioSpte(tdp: TdpMmu, iter: TdpIter, spte: U64): void {
  const gen = getMmioSpteGeneration(tdp.kvm.variants.kernel, spte);
  tdp.emit({ name: "mark_mmio_spte", sptep: iter.sptepAddr, gfn: iter.gfn, access: spte.lo & 7, gen });
}

/** make_spte() of a direct map. A page that becomes writable is marked dirty, under mmu_lock: no log can be fetched in between. */
function* makeSpteOfFault(
  vcpu: Vcpu,
  tdp: TdpMmu,
  fault: KvmPageFault,
  slot: KvmMemorySlot,
  iter: TdpIter,
): Steps<U64> {
  const { kvm } = tdp;
  const spte = makeSpte(tdp.layout, {
    level: iter.level,
    pfn: fault.pfn as Pfn,
    hostWritable: fault.mapWritable,
    write: true,
    exec: true,
    user: true,
    prefetch: fault.prefetch,
    synchronizing: false,
    mayWrite: true,
    old: iter.oldSpte,
    nxHugePages: kvm.params.nxHugePages,
  });
  if (isWritablePte(spte) && kvmSlotDirtyTrackEnabled(slot)) {
    yield* markPageDirtyInSlot(kvm, slot, fault.gfn, vcpu.dirtyRing);
  }
  return spte;
}
