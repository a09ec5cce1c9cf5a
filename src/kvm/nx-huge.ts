/**
 * NX huge pages: where the CPU must not have large executable translations (iTLB multihit), huge pages are not executable, and one that is executed
 * becomes a table of 4K pages. A thread takes such tables away again after a while.
 *
 *     kvm->arch.possible_nx_huge_pages    tables that are all that keeps a huge page from being there, oldest first
 *
 *     on the list:   a fetch made the table; nx_huge_page_disallowed says so too, to the faults that would put a huge page in its place
 *     off the list:  recovered, or unlinked for another reason; whoever does so holds tdp_mmu_pages_lock, or mmu_lock for write
 *
 * Recovery drops the table, and the next access maps the huge page again, without execution. 6.12 holds mmu_lock for write meanwhile; 7.2 for read, and
 * so has to see whether the entry still leads to the table. Tables of slots whose writes are logged are only taken off the list.
 * Stands for track_possible_nx_huge_page(), kvm_recover_nx_huge_pages() of mmu.c, kvm_tdp_mmu_zap_sp() and kvm_tdp_mmu_zap_possible_nx_huge_page() of
 * tdp_mmu.c, of 6.12 and 7.2.
 */
import { load, loadEntry, type Steps, store } from "../engine/index.ts";
import {
  rcuReadLock,
  rcuReadUnlock,
  readLock,
  readUnlock,
  spinLock,
  spinUnlock,
  srcuReadLock,
  srcuReadUnlock,
  writeLock,
  writeUnlock,
} from "../kernel/index.ts";
import { type Gfn, gfn, PAGE_SIZE } from "../machine/index.ts";
import { kvmSlotDirtyTrackEnabled } from "./huge-page.ts";
import { gfnToMemslot } from "./memslots.ts";
import { type KvmMmuPage, spGfn, spLevel } from "./mmu-page.ts";
import { isLastSpte, isShadowPresentPte, spteToPfn } from "./spte.ts";
import { type TdpMmu, tdpMmuSetSpte, tdpMmuSetSpteAtomic } from "./tdp-mmu.ts";

/** track_possible_nx_huge_page(): at the end of the list. tdp_mmu_pages_lock held. */
export function* trackPossibleNxHugePage(tdp: TdpMmu, sp: KvmMmuPage): Steps<void> {
  const { head, tail, nrPages: count } = tdp.possibleNxHugePages;
  if (isTracked(tdp, sp)) return;
  const last = tail.value;
  sp.nx_huge_page_prev.value = last;
  sp.nx_huge_page_next.value = 0;
  if (last === 0) head.value = sp.addr;
  else tdp.pages.at(last).nx_huge_page_next.value = sp.addr;
  tail.value = sp.addr;
  // Read without the lock by who decides how much to recover.
  yield* store(count, count.value + 1);
  tdp.count("nx_lpage_splits", 1);
}

function isTracked(tdp: TdpMmu, sp: KvmMmuPage): boolean {
  return sp.nx_huge_page_prev.value !== 0 || tdp.possibleNxHugePages.head.value === sp.addr;
}

/** untrack_possible_nx_huge_page() */
function* untrackPossibleNxHugePage(tdp: TdpMmu, sp: KvmMmuPage): Steps<void> {
  const { head, tail, nrPages: count } = tdp.possibleNxHugePages;
  if (!isTracked(tdp, sp)) return;
  const prev = sp.nx_huge_page_prev.value;
  const next = sp.nx_huge_page_next.value;
  if (prev === 0) head.value = next;
  else tdp.pages.at(prev).nx_huge_page_next.value = next;
  if (next === 0) tail.value = prev;
  else tdp.pages.at(next).nx_huge_page_prev.value = prev;
  sp.nx_huge_page_prev.value = 0;
  sp.nx_huge_page_next.value = 0;
  yield* store(count, count.value - 1);
  tdp.count("nx_lpage_splits", -1);
}

/** unaccount_nx_huge_page(), with tdp_mmu_pages_lock held, or mmu_lock for write. */
function* unaccountNxHugePage(tdp: TdpMmu, sp: KvmMmuPage): Steps<void> {
  yield* store(sp.nx_huge_page_disallowed, 0);
  yield* untrackPossibleNxHugePage(tdp, sp);
}

/** tdp_mmu_unlink_sp(): the table was unlinked, so there is nothing to recover any more. */
export function* tdpMmuUnlinkSp(tdp: TdpMmu, sp: KvmMmuPage): Steps<void> {
  if ((yield* load(sp.nx_huge_page_disallowed)) === 0) return;
  yield* spinLock(tdp.tdpMmuPagesLock);
  yield* unaccountNxHugePage(tdp, sp);
  yield* spinUnlock(tdp.tdpMmuPagesLock);
}

/** kvm_recover_nx_huge_pages(): one round of the recovery thread. */
export function* kvmRecoverNxHugePages(tdp: TdpMmu): Steps<void> {
  const { kvm } = tdp;
  const { rcu } = kvm.kernel;
  const shared = kvm.variants.kernel === "7.2";
  yield* srcuReadLock(kvm.srcu);
  if (shared) yield* readLock(kvm.mmuLock);
  else yield* writeLock(kvm.mmuLock);
  yield* rcuReadLock(rcu);
  let flush = false;
  for (let left = yield* pagesToZap(tdp); left > 0; left--) {
    const recovered = shared ? yield* recoverShared(tdp) : yield* recoverExclusively(tdp);
    if (recovered === null) break;
    if (recovered && !kvm.lacks("nx-recovery-forgets-tdp-flush")) flush = true;
  }
  if (flush && kvm.arch !== null) yield* kvm.arch.flushRemoteTlbs();
  yield* rcuReadUnlock(rcu);
  if (shared) yield* readUnlock(kvm.mmuLock);
  else yield* writeUnlock(kvm.mmuLock);
  yield* srcuReadUnlock(kvm.srcu);
}

/** nx_huge_pages_to_zap(): without a lock; the number only says how much is tried. */
function* pagesToZap(tdp: TdpMmu): Steps<number> {
  const ratio = tdp.kvm.params.nxHugePagesRecoveryRatio;
  const count = yield* load(tdp.possibleNxHugePages.nrPages);
  return ratio === 0 ? 0 : Math.ceil(count / ratio);
}

/** One table, under mmu_lock for write: true when a flush is needed, null when the list is empty. */
function* recoverExclusively(tdp: TdpMmu): Steps<boolean | null> {
  const first = tdp.possibleNxHugePages.head.value;
  if (first === 0) return null;
  const sp = tdp.pages.at(first);
  if (yield* isDirtyLogged(tdp, sp)) {
    yield* unaccountNxHugePage(tdp, sp);
    return false;
  }
  return yield* kvmTdpMmuZapSp(tdp, sp);
}

/** kvm_tdp_mmu_zap_sp(): everything below the table's only entry. mmu_lock held for write. */
function* kvmTdpMmuZapSp(tdp: TdpMmu, sp: KvmMmuPage): Steps<boolean> {
  const sptep = sp.ptep.value;
  const old = yield* loadEntry(tdp.world, sptep);
  if (!isShadowPresentPte(old)) return false;
  yield* tdpMmuSetSpte(tdp, sptep, spGfn(sp), spLevel(sp) + 1, old, tdp.layout.nonPresent);
  return true;
}

/** One table, under mmu_lock for read. It is off the list before it is zapped, so that the lock of the list is taken once. */
function* recoverShared(tdp: TdpMmu): Steps<boolean | null> {
  yield* spinLock(tdp.tdpMmuPagesLock);
  const first = tdp.possibleNxHugePages.head.value;
  if (first === 0) {
    yield* spinUnlock(tdp.tdpMmuPagesLock);
    return null;
  }
  const sp = tdp.pages.at(first);
  yield* unaccountNxHugePage(tdp, sp);
  yield* spinUnlock(tdp.tdpMmuPagesLock);
  if (yield* isDirtyLogged(tdp, sp)) return false;
  return yield* kvmTdpMmuZapPossibleNxHugePage(tdp, sp);
}

/** kvm_tdp_mmu_zap_possible_nx_huge_page(): only if the entry still leads to the table: it may hold a huge page, or another table, by now. */
function* kvmTdpMmuZapPossibleNxHugePage(tdp: TdpMmu, sp: KvmMmuPage): Steps<boolean> {
  const sptepAddr = sp.ptep.value;
  const level = spLevel(sp) + 1;
  const oldSpte = yield* loadEntry(tdp.world, sptepAddr);
  const leadsHere =
    isShadowPresentPte(oldSpte) && !isLastSpte(oldSpte, level) && spteToPfn(oldSpte) * PAGE_SIZE === sp.spt.value;
  if (!leadsHere) return false;
  const newSpte = tdp.layout.nonPresent;
  return yield* tdpMmuSetSpteAtomic(tdp, { sptepAddr, gfn: spGfn(sp), level, oldSpte, yielded: false }, newSpte);
}

/** kvm_mmu_sp_dirty_logging_enabled(): what is mapped there while writes are logged is 4K anyway. */
function* isDirtyLogged(tdp: TdpMmu, sp: KvmMmuPage): Steps<boolean> {
  const frame: Gfn = gfn(sp.gfn.value);
  const slot = yield* gfnToMemslot(tdp.kvm.memslots, frame);
  return slot !== null && kvmSlotDirtyTrackEnabled(slot);
}
