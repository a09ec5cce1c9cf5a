/** MMU notifiers: how the host mm tells secondary users (KVM) that it is about to change a range, and that it has done so. */
import type { Steps } from "../../engine/index.ts";
import type { Hva } from "../../machine/index.ts";
import type { Mm } from "./mm.ts";

/** Why the host mm invalidates (enum mmu_notifier_event). */
export const MMU_NOTIFY_UNMAP = 0;
export const MMU_NOTIFY_CLEAR = 1;
export const MMU_NOTIFY_PROTECTION_VMA = 2;
export const MMU_NOTIFY_PROTECTION_PAGE = 3;

/** struct mmu_notifier_range; `end` is exclusive. */
export interface NotifierRange {
  readonly start: Hva;
  readonly end: Hva;
  readonly event: number;
}

/** struct mmu_notifier_ops: what a secondary user registers. */
export interface MmuNotifierOps {
  invalidateRangeStart(range: NotifierRange): Steps<void>;
  invalidateRangeEnd(range: NotifierRange): Steps<void>;
  /** Whether the start would have to sleep now; left out by users that never do. */
  wouldSleep?(range: NotifierRange): boolean;
  /** Was the range used since the last call? Clears the marks; and flushes TLBs, where the architecture wants it. */
  clearFlushYoung(start: Hva, end: Hva): Steps<boolean>;
  /** The same without a flush. */
  clearYoung(start: Hva, end: Hva): Steps<boolean>;
  /** The same without clearing. */
  testYoung(addr: Hva): Steps<boolean>;
}

/** mmu_notifier_invalidate_range_start() */
export function* notifyStart(mm: Mm, range: NotifierRange): Steps<void> {
  mm.onNotify?.("start", range);
  for (const ops of mm.notifiers) yield* ops.invalidateRangeStart(range);
}

/**
 * mmu_notifier_invalidate_range_start_nonblock(): false when a secondary user would have to sleep for it. Those that were told before are then told that
 * it is over, since nobody else will.
 */
export function* notifyStartNonblock(mm: Mm, range: NotifierRange): Steps<boolean> {
  const told: MmuNotifierOps[] = [];
  for (const ops of mm.notifiers) {
    if (ops.wouldSleep?.(range) === true) {
      if (mm.endsFailedStarts) for (const each of told) yield* each.invalidateRangeEnd(range);
      return false;
    }
    told.push(ops);
    yield* ops.invalidateRangeStart(range);
  }
  return true;
}

/** mmu_notifier_invalidate_range_end() */
export function* notifyEnd(mm: Mm, range: NotifierRange): Steps<void> {
  for (const ops of mm.notifiers) yield* ops.invalidateRangeEnd(range);
  mm.onNotify?.("end", range);
}
