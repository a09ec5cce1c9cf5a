/**
 * Huge pages come back when dirty logging ends: tables that a huge page could stand for are dropped or replaced.
 *
 *     6.12    the table goes, with a flush each; the next access faults, and maps the huge page
 *     7.2     a huge entry made of the table's first leaf takes its place at once; one flush at the end
 *
 * Both hold mmu_lock for read, so vCPUs go on faulting, and those that stand in the table find its entries frozen.
 * Stands for kvm_tdp_mmu_zap_collapsible_sptes() of 6.12 and kvm_tdp_mmu_recover_huge_pages() of 7.2.
 */
import { compareExchange, type Steps, sameU64, store, type U64 } from "../engine/index.ts";
import { assertHeldRead, rcuReadLock, rcuReadUnlock } from "../kernel/index.ts";
import { type Gfn, PG_LEVEL_1G, PG_LEVEL_2M, PG_LEVEL_4K, pagesPerLevel } from "../machine/index.ts";
import { kvmMmuMaxMappingLevel } from "./huge-page.ts";
import type { KvmMemorySlot } from "./memslots.ts";
import type { KvmMmuPage } from "./mmu-page.ts";
import { isLastSpte, isShadowPresentPte, makeHugeSpte, spteToPfn } from "./spte.ts";
import { type TdpIter, tdpIterNext, tdpIterStart } from "./tdp-iter.ts";
import { handleChangedSpte, type TdpMmu, tdpMmuSetSpteAtomic } from "./tdp-mmu.ts";
import { isInvalidRoot, tdpMmuNextRoot } from "./tdp-roots.ts";
import { tdpMmuIterCondResched } from "./tdp-zap.ts";

/** kvm_tdp_mmu_zap_collapsible_sptes(), kvm_tdp_mmu_recover_huge_pages(): in every valid root. */
export function* kvmTdpMmuRecoverHugePages(tdp: TdpMmu, slot: KvmMemorySlot): Steps<void> {
  assertHeldRead(tdp.kvm.mmuLock);
  let root = yield* tdpMmuNextRoot(tdp, null);
  while (root !== null) {
    if (!isInvalidRoot(tdp, root)) yield* recoverHugePagesRange(tdp, root, slot);
    root = yield* tdpMmuNextRoot(tdp, root);
  }
}

/** zap_collapsible_spte_range(), recover_huge_pages_range() */
function* recoverHugePagesRange(tdp: TdpMmu, root: KvmMmuPage, slot: KvmMemorySlot): Steps<void> {
  const { kvm } = tdp;
  const start = slot.base_gfn.value as Gfn;
  const end = Math.min(start + slot.npages.value, tdp.gfnEnd) as Gfn;
  const recover = kvm.variants.kernel === "7.2" ? replaceByHugePage : tdpMmuZapSpteAtomic;
  let flush = false;
  yield* rcuReadLock(kvm.kernel.rcu);
  const iter = yield* tdpIterStart(tdp.world, root, PG_LEVEL_2M, start, end);
  for (; iter.valid; yield* tdpIterNext(iter)) {
    for (;;) {
      if (kvm.variants.yields && (yield* tdpMmuIterCondResched(tdp, iter, { flush, shared: true }))) {
        flush = false;
        break;
      }
      if (!(yield* isRecoverable(tdp, iter, slot, start, end))) break;
      const done = yield* recover(tdp, iter);
      if (done === "lost") continue;
      if (done === "flush later") flush = true;
      break;
    }
  }
  if (flush && kvm.arch !== null) yield* kvm.arch.flushRemoteTlbs();
  yield* rcuReadUnlock(kvm.kernel.rcu);
}

/** A table, all of whose frames are the slot's, where the host has a page as large. */
function* isRecoverable(tdp: TdpMmu, iter: TdpIter, slot: KvmMemorySlot, start: Gfn, end: Gfn): Steps<boolean> {
  if (iter.level > PG_LEVEL_1G || !isShadowPresentPte(iter.oldSpte) || isLastSpte(iter.oldSpte, iter.level))
    return false;
  if (iter.gfn < start || iter.gfn >= end) return false;
  return (yield* kvmMmuMaxMappingLevel(tdp.kvm, slot, iter.gfn)) >= iter.level;
}

/** What came of it: nothing; the entry had changed; it was flushed; a flush is still due. */
type Recovered = "nothing" | "lost" | "flushed" | "flush later";

/**
 * tdp_mmu_zap_spte_atomic() of 6.12: frozen first, so that nobody maps anything there before the TLBs are flushed; what hung below is taken
 * apart afterwards, when vCPUs can fault the place in again already.
 */
function* tdpMmuZapSpteAtomic(tdp: TdpMmu, iter: TdpIter): Steps<Recovered> {
  const { sptep, oldSpte, level, gfn } = iter;
  const { frozen, nonPresent } = tdp.layout;
  const found = yield* compareExchange(sptep, oldSpte, frozen);
  if (!sameU64(found, oldSpte)) {
    iter.oldSpte = found;
    return "lost";
  }
  if (tdp.kvm.arch !== null) yield* tdp.kvm.arch.flushRemoteTlbs();
  // Nobody else writes over a frozen entry.
  yield* store(sptep, nonPresent);
  yield* handleChangedSpte(tdp, gfn, oldSpte, nonPresent, level, true);
  return "flushed";
}

function* replaceByHugePage(tdp: TdpMmu, iter: TdpIter): Steps<Recovered> {
  const huge = yield* tdpMmuMakeHugeSpte(tdp, iter);
  if (huge === null) return "nothing";
  return (yield* tdpMmuSetSpteAtomic(tdp, iter, huge)) ? "flush later" : "lost";
}

/** tdp_mmu_make_huge_spte(): from the first leaf below; null when nothing is mapped there. */
function* tdpMmuMakeHugeSpte(tdp: TdpMmu, parent: TdpIter): Steps<U64 | null> {
  const table = tdp.pages.ofFrame(spteToPfn(parent.oldSpte));
  const pages = pagesPerLevel(parent.level);
  const end = (parent.gfn + pages) as Gfn;
  const iter = yield* tdpIterStart(tdp.world, table, PG_LEVEL_4K, parent.gfn, end);
  for (; iter.valid; yield* tdpIterNext(iter)) {
    if (!isShadowPresentPte(iter.oldSpte) || !isLastSpte(iter.oldSpte, iter.level)) continue;
    return makeHugeSpte(tdp.layout, iter.oldSpte, pages, tdp.kvm.params.nxHugePages);
  }
  return null;
}
