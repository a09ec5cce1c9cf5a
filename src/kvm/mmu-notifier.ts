/**
 * KVM's MMU notifier: what it does when the host mm takes pages away.
 *
 *     invalidate_range_start                      invalidate_range_end
 *     n1  mn_active_invalidate_count++            e1  if a memslot overlaps, under mmu_lock:
 *     n2  gfn_to_pfn_caches                             mmu_invalidate_seq++; wmb; in_progress--
 *     n3  if a memslot overlaps, under mmu_lock:  e2  mn_active_invalidate_count--
 *           in_progress++, range; zap; flush          wake a waiting memslot update at 0
 *
 * A page fault that snapshots the sequence, looks a frame up, and then takes mmu_lock sees either that an invalidation is in progress or
 * that the sequence has moved, whatever happened between. When no memslot overlaps, n3 and e1 do nothing at all.
 * Stands for kvm_mmu_notifier_invalidate_range_start() and _end(), __kvm_handle_hva_range(), of 6.12 and 7.2 (ranges in guest frames).
 */
import { deepCall, load, type Steps, store } from "../engine/index.ts";
import {
  assertHeldWrite,
  type MmuNotifierOps,
  type NotifierRange,
  srcuReadLock,
  srcuReadUnlock,
  writeLock,
  writeUnlock,
} from "../kernel/index.ts";
import type { Gfn, Hva } from "../machine/index.ts";
import { gpcProtocol } from "./gpc-protocols.ts";
import type { Kvm } from "./kvm.ts";
import { gfnRangeOf } from "./memslots.ts";
import type { KvmEvent } from "./trace.ts";

/** What KVM registers with the host mm. */
export function mmuNotifierOps(kvm: Kvm): MmuNotifierOps {
  return {
    invalidateRangeStart: (range) => kvmMmuNotifierInvalidateRangeStart(kvm, range),
    invalidateRangeEnd: (range) => kvmMmuNotifierInvalidateRangeEnd(kvm, range),
    clearFlushYoung: (start, end) => kvmMmuNotifierClearYoung(kvm, start, end, true),
    clearYoung: (start, end) => kvmMmuNotifierClearYoung(kvm, start, end, false),
    testYoung: (addr) => kvmMmuNotifierTestYoung(kvm, addr),
  };
}

function* kvmMmuNotifierInvalidateRangeStart(kvm: Kvm, range: NotifierRange): Steps<void> {
  const event: KvmEvent = { name: "kvm_unmap_hva_range", start: range.start, end: range.end };
  kvm.world.emit(event);
  yield* gpcProtocol(kvm.variants.gpc).invalidateStart(kvm, range);
  const index = yield* srcuReadLock(kvm.srcu);
  const parts = yield* overlapping(kvm, range);
  if (parts.length > 0) {
    yield* writeLock(kvm.mmuLock);
    yield* kvmMmuInvalidateBegin(kvm);
    let flush = false;
    for (const part of parts) {
      yield* kvmMmuInvalidateRangeAdd(kvm, part.start, part.end);
      if (kvm.arch !== null && (yield* kvm.arch.unmapGfnRange(part.start, part.end))) flush = true;
    }
    // The flush comes before mmu_lock is dropped: nobody may see the zapped entries while a TLB still has the old ones.
    if (flush) yield* (kvm.arch as NonNullable<typeof kvm.arch>).flushRemoteTlbs();
    yield* writeUnlock(kvm.mmuLock);
  }
  yield* srcuReadUnlock(kvm.srcu);
  void index;
}

function* kvmMmuNotifierInvalidateRangeEnd(kvm: Kvm, range: NotifierRange): Steps<void> {
  const countLast = !kvm.lacks("fault-retry-sample-order/b");
  if (!countLast) yield* gpcProtocol(kvm.variants.gpc).invalidateEnd(kvm, range);
  const index = yield* srcuReadLock(kvm.srcu);
  const parts = yield* overlapping(kvm, range);
  if (parts.length > 0) {
    yield* writeLock(kvm.mmuLock);
    yield* kvmMmuInvalidateEnd(kvm);
    yield* writeUnlock(kvm.mmuLock);
  }
  yield* srcuReadUnlock(kvm.srcu);
  void index;
  if (countLast) yield* gpcProtocol(kvm.variants.gpc).invalidateEnd(kvm, range);
}

/** The guest frames that the host range backs, slot by slot. */
function* overlapping(kvm: Kvm, range: Pick<NotifierRange, "start" | "end">): Steps<{ start: Gfn; end: Gfn }[]> {
  const set = kvm.memslots.setAt(yield* load(kvm.memslots.active));
  const slots = kvm.memslots.slotsOf(set);
  // In the order of their host addresses, as the tree has them.
  if (slots.length > 1) slots.sort((a, b) => a.userspace_addr.value - b.userspace_addr.value);
  const parts: { start: Gfn; end: Gfn }[] = [];
  for (const slot of slots) {
    const part = gfnRangeOf(slot, range.start, range.end);
    if (part !== null) parts.push(part);
  }
  return parts;
}

/** kvm_mmu_invalidate_begin(): an empty range, to which kvm_mmu_invalidate_range_add() adds. */
export function* kvmMmuInvalidateBegin(kvm: Kvm): Steps<void> {
  assertHeldWrite(kvm.mmuLock);
  const inProgress = kvm.mmuInvalidateInProgress.value + 1;
  yield* store(kvm.mmuInvalidateInProgress, inProgress);
  if (inProgress === 1) {
    yield* store(kvm.mmuInvalidateRangeStart, 0);
    yield* store(kvm.mmuInvalidateRangeEnd, 0);
  }
}

export function* kvmMmuInvalidateRangeAdd(kvm: Kvm, start: Gfn, end: Gfn): Steps<void> {
  assertHeldWrite(kvm.mmuLock);
  const { mmuInvalidateRangeStart, mmuInvalidateRangeEnd } = kvm;
  if (mmuInvalidateRangeEnd.value === 0) {
    yield* store(mmuInvalidateRangeStart, start);
    yield* store(mmuInvalidateRangeEnd, end);
    return;
  }
  // Several invalidations in progress: their union. Rarely exact, always safe.
  yield* store(mmuInvalidateRangeStart, Math.min(mmuInvalidateRangeStart.value, start));
  yield* store(mmuInvalidateRangeEnd, Math.max(mmuInvalidateRangeEnd.value, end));
}

/** kvm_mmu_invalidate_end() */
export function* kvmMmuInvalidateEnd(kvm: Kvm): Steps<void> {
  assertHeldWrite(kvm.mmuLock);
  // The sequence moves before the count goes down: who sees nothing in progress sees the new sequence.
  yield* store(kvm.mmuInvalidateSeq, (yield* load(kvm.mmuInvalidateSeq)) + 1);
  yield* store(kvm.mmuInvalidateInProgress, kvm.mmuInvalidateInProgress.value - 1);
}

/** mmu_invalidate_retry_gfn(), under mmu_lock: has an invalidation concerned the frame since the snapshot? */
export function mmuInvalidateRetryGfn(kvm: Kvm, mmuSeq: number, gfn: Gfn): boolean {
  const { mmuInvalidateInProgress, mmuInvalidateRangeStart, mmuInvalidateRangeEnd, mmuInvalidateSeq } = kvm;
  const inProgress = mmuInvalidateInProgress.value > 0 && !kvm.lacks("fault-retry-sample-order/d");
  if (inProgress && gfn >= mmuInvalidateRangeStart.value && gfn < mmuInvalidateRangeEnd.value) return true;
  return mmuInvalidateSeq.value !== mmuSeq;
}

/** mmu_invalidate_retry_gfn_unsafe(): the same look without the lock; may miss an invalidation, and only spares taking the lock. */
export function* mmuInvalidateRetryGfnUnsafe(kvm: Kvm, mmuSeq: number, gfn: Gfn): Steps<boolean> {
  const inProgress = (yield* load(kvm.mmuInvalidateInProgress)) > 0 && !kvm.lacks("fault-retry-sample-order/d");
  if (
    inProgress &&
    gfn >= (yield* load(kvm.mmuInvalidateRangeStart)) &&
    gfn < (yield* load(kvm.mmuInvalidateRangeEnd))
  ) {
    return true;
  }
  return (yield* load(kvm.mmuInvalidateSeq)) !== mmuSeq;
}

// --- aging -----------------------------------------------------------------------------------------------------------

/** kvm_mmu_notifier_clear_flush_young(), kvm_mmu_notifier_clear_young(). 7.2 never flushes: a page may look older than it is. */
function* kvmMmuNotifierClearYoung(kvm: Kvm, start: Hva, end: Hva, flush: boolean): Steps<boolean> {
  const event: KvmEvent = { name: "kvm_age_hva", start, end };
  kvm.world.emit(event);
  return yield* ageHvaRange(kvm, { start, end, test: false, flush: flush && kvm.variants.kernel === "6.12" });
}

/** kvm_mmu_notifier_test_young(), of one address. */
function* kvmMmuNotifierTestYoung(kvm: Kvm, addr: Hva): Steps<boolean> {
  const event: KvmEvent = { name: "kvm_test_age_hva", addr };
  kvm.world.emit(event);
  return yield* ageHvaRange(kvm, { start: addr, end: (addr + 1) as Hva, test: true, flush: false });
}

/** kvm_age_hva_range(): 6.12 holds mmu_lock for write, 7.2 nothing but SRCU, which keeps the memslots. */
function* ageHvaRange(
  kvm: Kvm,
  range: { readonly start: Hva; readonly end: Hva; readonly test: boolean; readonly flush: boolean },
): Steps<boolean> {
  const { arch } = kvm;
  if (arch === null) return false;
  const locked = kvm.variants.kernel === "6.12";
  yield* srcuReadLock(kvm.srcu);
  const parts = yield* overlapping(kvm, range);
  let young = false;
  if (locked && parts.length > 0) yield* writeLock(kvm.mmuLock);
  for (const part of parts)
    if (yield* deepCall(kvm.world, arch.ageGfnRange(part.start, part.end, range.test))) young = true;
  if (range.flush && young) yield* arch.flushRemoteTlbs();
  if (locked && parts.length > 0) yield* writeUnlock(kvm.mmuLock);
  yield* srcuReadUnlock(kvm.srcu);
  return young;
}
