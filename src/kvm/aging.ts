/**
 * Aging: was a range of the guest's memory used since it was asked last?
 *
 *     with A/D bits       an entry is young if its A bit is set; aging clears it, and the CPU sets it again
 *     without             an entry is young if it can be used; aging takes R, W and X away, and the next access faults (fast-page-fault.ts)
 *
 *     6.12   under mmu_lock held for write; A is cleared by a locked and, rights are taken away by an exchange
 *     7.2    under RCU alone, one compare-exchange: if it fails, somebody else has changed the entry, and it is most likely young
 *
 * No TLB need be flushed for A: a translation that is still cached sets no A bit, so the page looks older than it is, which costs a page fault at
 * worst. 6.12 flushes all the same where the host asks for it (clear_flush_young). Without A/D bits, too, a cached translation only makes the page
 * look unused; but W may not outlive the change that takes MMU-W away, and whoever does that flushes.
 * Stands for kvm_age_gfn(), kvm_test_age_gfn() of mmu.c and their part in tdp_mmu.c, of 6.12 and 7.2.
 */
import { clearU64, compareExchange, exchange, fetchAnd, type Steps, sameU64, store, u64 } from "../engine/index.ts";
import { assertHeldWrite, rcuReadLock, rcuReadUnlock } from "../kernel/index.ts";
import { type Gfn, PG_LEVEL_4K } from "../machine/index.ts";
import type { KvmMmuPage } from "./mmu-page.ts";
import { kvmSetPfnDirty } from "./pfn-dirty.ts";
import {
  isAccessedSpte,
  isLastSpte,
  isShadowPresentPte,
  isWritablePte,
  markSpteForAccessTrack,
  spteAdEnabled,
  spteHasVolatileBits,
  spteToPfn,
} from "./spte.ts";
import { tdpMmuClearSpteBits } from "./tdp-dirty.ts";
import { type TdpIter, tdpIterNext, tdpIterStart } from "./tdp-iter.ts";
import type { TdpMmu } from "./tdp-mmu.ts";
import { allRoots, validRootsRcu } from "./tdp-roots.ts";

/** kvm_age_gfn(), kvm_test_age_gfn(): true when something in [start, end) was used. @param test only look */
export function kvmAgeGfnRange(tdp: TdpMmu, start: Gfn, end: Gfn, test: boolean): Steps<boolean> {
  return tdp.kvm.variants.kernel === "7.2" ? ageLockless(tdp, start, end, test) : ageLocked(tdp, start, end, test);
}

/** kvm_tdp_mmu_age_gfn_range(), kvm_tdp_mmu_test_age_gfn() of 6.12 */
function* ageLocked(tdp: TdpMmu, start: Gfn, end: Gfn, test: boolean): Steps<boolean> {
  assertHeldWrite(tdp.kvm.mmuLock);
  let young = false;
  for (const root of yield* allRoots(tdp)) {
    yield* rcuReadLock(tdp.kvm.kernel.rcu);
    const iter = yield* tdpIterStart(tdp.world, root, PG_LEVEL_4K, start, end);
    for (; iter.valid; yield* tdpIterNext(iter)) {
      if (!isYoungLeaf(tdp, iter)) continue;
      young = true;
      if (!test) yield* ageGfnRange(tdp, iter);
    }
    yield* rcuReadUnlock(tdp.kvm.kernel.rcu);
  }
  return young;
}

function isYoungLeaf(tdp: TdpMmu, { oldSpte, level }: TdpIter): boolean {
  return isShadowPresentPte(oldSpte) && isLastSpte(oldSpte, level) && isAccessedSpte(tdp.layout, oldSpte);
}

/** age_gfn_range() */
function* ageGfnRange(tdp: TdpMmu, iter: TdpIter): Steps<void> {
  const { layout } = tdp;
  if (spteAdEnabled(layout, iter.oldSpte)) {
    yield* tdpMmuClearSpteBits(tdp, iter, layout.accessed);
    return;
  }
  if (isWritablePte(iter.oldSpte)) kvmSetPfnDirty(tdp.kvm, spteToPfn(iter.oldSpte));
  const newSpte = markSpteForAccessTrack(layout, iter.oldSpte);
  // A fast page fault may be changing the entry.
  if (spteHasVolatileBits(layout, iter.oldSpte)) iter.oldSpte = yield* exchange(iter.sptep, newSpte);
  else yield* store(iter.sptep, newSpte);
  reportAged(tdp, iter, newSpte);
}

function reportAged(tdp: TdpMmu, { gfn, level, oldSpte }: TdpIter, newSpte: TdpIter["oldSpte"]): void {
  tdp.emit({ name: "kvm_tdp_mmu_spte_changed", asId: 0, gfn, level, oldSpte, newSpte });
}

/** __kvm_tdp_mmu_age_gfn_range() of 7.2 */
function* ageLockless(tdp: TdpMmu, start: Gfn, end: Gfn, test: boolean): Steps<boolean> {
  let young = false;
  yield* rcuReadLock(tdp.kvm.kernel.rcu);
  for (const root of yield* validRootsRcu(tdp)) {
    if (yield* ageRootLockless(tdp, root, start, end, test)) young = true;
    if (young && test) break;
  }
  yield* rcuReadUnlock(tdp.kvm.kernel.rcu);
  return young;
}

function* ageRootLockless(tdp: TdpMmu, root: KvmMmuPage, start: Gfn, end: Gfn, test: boolean): Steps<boolean> {
  let young = false;
  const iter = yield* tdpIterStart(tdp.world, root, PG_LEVEL_4K, start, end);
  for (; iter.valid; yield* tdpIterNext(iter)) {
    if (!isYoungLeaf(tdp, iter)) continue;
    if (test) return true;
    young = true;
    yield* kvmTdpMmuAgeSpte(tdp, iter);
  }
  return young;
}

/** kvm_tdp_mmu_age_spte(): one try. Whoever has changed the entry meanwhile has used it, or has taken it away. */
function* kvmTdpMmuAgeSpte(tdp: TdpMmu, iter: TdpIter): Steps<void> {
  const { layout } = tdp;
  const { oldSpte, sptep } = iter;
  const newSpte = spteAdEnabled(layout, oldSpte)
    ? clearU64(oldSpte, layout.accessed)
    : markSpteForAccessTrack(layout, oldSpte);
  if (spteAdEnabled(layout, oldSpte) && tdp.kvm.lacks("aging-clobbers-frozen-spte")) {
    yield* fetchAnd(sptep, u64(~layout.accessed.hi, ~layout.accessed.lo));
    reportAged(tdp, iter, newSpte);
    return;
  }
  const found = yield* compareExchange(sptep, oldSpte, newSpte);
  if (sameU64(found, oldSpte)) reportAged(tdp, iter, newSpte);
}
