/**
 * How a gfn_to_pfn_cache is kept honest against invalidations: Linux's protocol, and those of the 2024 thread.
 *
 *   D0       Linux 6.9 to 7.2. start() clears `valid`; a refresh starts over if any invalidation is in flight, or one has ended.
 *   D1       v1 (July 2024). end() clears `valid` and `needs_invalidation`, which the refresh sets and looks at.
 *   D2       v2 (2024-08-20). D1, and the refresh sleeps until no invalidation in flight covers its address.
 *   D3       v3 patches 1-3 as posted (2024-08-21): start() clears both flags; the retry on a range takes gpc->lock again.
 *   D3'      D3 with the `continue` meant for the outer loop: an invalidation in flight that covers the address, or one that has cleared
 *            the flag, makes the refresh look up anew.
 *   D3s      D3' that also keeps Linux's sequence number.
 *   D4       The counter-proposal (October 2024): wait, snapshot the sequence, look up, set `valid`, full barrier, then the range-based
 *            retry; start() publishes its range, full barrier, then looks at `valid` without gpc->lock.
 *   D4-nomb  D4 without the barrier in the refresh.
 *   D5       The worry of the seed mail: the range is checked, gpc->lock taken, `valid` set, and nothing looked at again.
 *
 * Every protocol must hold for whoever follows the read side in gfn-to-pfn-cache.ts. Sources: LKML, thread "KVM: pfncache: ..." August to
 * October 2024; docs/findings in time.
 */
import { fence, load, type Steps, startLoop, store } from "../engine/index.ts";
import {
  finishWait,
  getUserPage,
  type NotifierRange,
  prepareToWait,
  putPage,
  readLock,
  readUnlock,
  schedule,
  spinLock,
  spinUnlock,
  wakeUp,
  writeLock,
  writeUnlock,
} from "../kernel/index.ts";
import type { Hva, Pfn } from "../machine/index.ts";
import { type GfnToPfnCache, gpcCommit } from "./gfn-to-pfn-cache.ts";
import type { Kvm } from "./kvm.ts";
import { KVM_PFN_ERR_FAULT } from "./page-fault.ts";
import type { GpcDesign } from "./variants.ts";

export interface GpcProtocol {
  /** The cache's part of invalidate_range_start(), mn_active_invalidate_count included. */
  invalidateStart(kvm: Kvm, range: NotifierRange): Steps<void>;
  /** The cache's part of invalidate_range_end(), mn_active_invalidate_count included. */
  invalidateEnd(kvm: Kvm, range: NotifierRange): Steps<void>;
  /** hva_to_pfn_retry(): called and left with gpc->lock held for write and refresh_lock held; false when there is no page. */
  hvaToPfnRetry(gpc: GfnToPfnCache): Steps<boolean>;
}

export function gpcProtocol(design: GpcDesign): GpcProtocol {
  return PROTOCOLS[design];
}

// --- pieces that several protocols share -----------------------------------------------------------------------------

function covers(range: NotifierRange, uhva: number): boolean {
  return uhva >= range.start && uhva < range.end;
}

/** What clearing a matching cache means to a protocol. */
interface Clearing {
  /** Also matches a cache that is being refreshed, and tells the refresh. */
  readonly needsInvalidation: boolean;
  /** Looks at `valid` and `uhva` before it takes gpc->lock. */
  readonly lockless: boolean;
}

/** gfn_to_pfn_cache_invalidate_start(), and gfn_to_pfn_cache_invalidate() of the designs that do it at the end. */
function* clearMatching(kvm: Kvm, range: NotifierRange, how: Clearing): Steps<void> {
  yield* spinLock(kvm.gpcs.lock);
  for (const gpc of kvm.gpcs.caches()) {
    if (yield* mayMatch(gpc, range, how)) yield* clearIfMatching(gpc, range, how);
  }
  yield* spinUnlock(kvm.gpcs.lock);
}

/** The cheap look first: most invalidations concern no cache, and should not take gpc->lock for write. */
function* mayMatch(gpc: GfnToPfnCache, range: NotifierRange, how: Clearing): Steps<boolean> {
  if (how.lockless) {
    return (yield* load(gpc.fields.valid)) !== 0 && covers(range, yield* load(gpc.fields.uhva));
  }
  yield* readLock(gpc.lock);
  const match = isMatch(gpc, range, how);
  yield* readUnlock(gpc.lock);
  return match;
}

function isMatch(gpc: GfnToPfnCache, range: NotifierRange, how: Clearing): boolean {
  const { valid, needs_invalidation, uhva } = gpc.fields;
  const concerned = valid.value !== 0 || (how.needsInvalidation && needs_invalidation.value !== 0);
  return concerned && covers(range, uhva.value);
}

function* clearIfMatching(gpc: GfnToPfnCache, range: NotifierRange, how: Clearing): Steps<void> {
  yield* writeLock(gpc.lock);
  if (isMatch(gpc, range, how)) {
    yield* store(gpc.fields.valid, 0);
    if (how.needsInvalidation) yield* store(gpc.fields.needs_invalidation, 0);
  }
  yield* writeUnlock(gpc.lock);
}

/** mn_active_invalidate_count++ */
function* countUp(kvm: Kvm): Steps<void> {
  const { mnActiveInvalidateCount } = kvm.memslots;
  yield* store(mnActiveInvalidateCount, (yield* load(mnActiveInvalidateCount)) + 1);
}

/** mn_active_invalidate_count--, and whoever waits for a memslot update is woken at zero. Drops mn_invalidate_lock. */
function* countDown(kvm: Kvm): Steps<void> {
  const { mnActiveInvalidateCount, mnInvalidateLock, mnMemslotsUpdateWait } = kvm.memslots;
  const count = (yield* load(mnActiveInvalidateCount)) - 1;
  yield* store(mnActiveInvalidateCount, count);
  yield* spinUnlock(mnInvalidateLock);
  if (count === 0) yield* wakeUp(mnMemslotsUpdateWait);
}

/** The union of the ranges in flight; it only grows, until none is left. With mn_invalidate_lock held. */
function* growRange(kvm: Kvm, range: NotifierRange): Steps<void> {
  const { invalidateRangeStart, invalidateRangeEnd } = kvm.gpcs;
  const first = (yield* load(kvm.memslots.mnActiveInvalidateCount)) === 0;
  const start = first ? range.start : Math.min(range.start, yield* load(invalidateRangeStart));
  const end = first ? range.end : Math.max(range.end, yield* load(invalidateRangeEnd));
  yield* store(invalidateRangeStart, start);
  yield* store(invalidateRangeEnd, end);
}

/** gpc_invalidations_pending(): does an invalidation in flight cover the address? */
function* isPending(kvm: Kvm, uhva: number): Steps<boolean> {
  if ((yield* load(kvm.memslots.mnActiveInvalidateCount)) === 0) return false;
  return (yield* load(kvm.gpcs.invalidateRangeStart)) <= uhva && uhva < (yield* load(kvm.gpcs.invalidateRangeEnd));
}

/** gpc_wait_for_invalidations(): sleeps until no invalidation in flight covers the address. */
function* waitForInvalidations(kvm: Kvm, uhva: number): Steps<void> {
  const { mnInvalidateLock } = kvm.memslots;
  const { invalidateWait } = kvm.gpcs;
  yield* spinLock(mnInvalidateLock);
  if (yield* isPending(kvm, uhva)) {
    const again = startLoop(kvm.world);
    for (;;) {
      again();
      yield* prepareToWait(invalidateWait);
      if (!(yield* isPending(kvm, uhva))) break;
      yield* spinUnlock(mnInvalidateLock);
      yield* schedule(invalidateWait);
      yield* spinLock(mnInvalidateLock);
    }
    yield* finishWait(invalidateWait);
  }
  yield* spinUnlock(mnInvalidateLock);
}

/** The end of an invalidation in the designs whose refreshes sleep. */
function* countDownAndWake(kvm: Kvm): Steps<void> {
  yield* countDown(kvm);
  yield* wakeUp(kvm.gpcs.invalidateWait);
}

/** One look-up without gpc->lock: gives the previous attempt's frame back first. */
function* lookUp(gpc: GfnToPfnCache, previous: Pfn): Steps<Pfn> {
  const { mm } = gpc.kvm;
  if (previous !== KVM_PFN_ERR_FAULT) yield* putPage(mm.frames, previous);
  const page = yield* getUserPage(mm, gpc.fields.uhva.value as Hva, true);
  return page === null ? KVM_PFN_ERR_FAULT : page.pfn;
}

/**
 * The loop that all refreshes share: look up without the lock until a look-up may be used.
 * @param attempt made with gpc->lock held for write, and so left; it drops the lock meanwhile. Says whether its frame may be used, or has
 *   to be looked up again.
 */
function* retryLoop(gpc: GfnToPfnCache, attempt: (previous: Pfn) => Steps<Attempt>): Steps<boolean> {
  const { fields, kvm } = gpc;
  yield* store(fields.valid, kvm.lacks("gpc-speculatively-valid") ? 1 : 0);
  const { gpcRetriesMax } = kvm.variants;
  const again = startLoop(kvm.world);
  let pfn: Pfn = KVM_PFN_ERR_FAULT;
  for (let retries = 0; ; retries++) {
    again(pfn, gpcRetriesMax === Number.POSITIVE_INFINITY ? 0 : retries);
    const result = yield* attempt(pfn);
    pfn = result.pfn;
    if (pfn === KVM_PFN_ERR_FAULT) return false;
    if (result.usable) {
      yield* gpcCommit(gpc, pfn, result.isValid ?? false);
      return true;
    }
    if (retries === gpcRetriesMax) {
      yield* putPage(kvm.mm.frames, pfn);
      return false;
    }
  }
}

interface Attempt {
  /** The frame, with a reference; KVM_PFN_ERR_FAULT when there is none. */
  readonly pfn: Pfn;
  readonly usable: boolean;
  /** `valid` has been set already. */
  readonly isValid?: boolean;
}

const AT_START: Clearing = { needsInvalidation: false, lockless: false };
const AT_START_WITH_FLAG: Clearing = { needsInvalidation: true, lockless: false };
const AT_START_LOCKLESS: Clearing = { needsInvalidation: false, lockless: true };
const AT_END: Clearing = { needsInvalidation: true, lockless: false };

// --- D0 --------------------------------------------------------------------------------------------------------------

const D0: GpcProtocol = {
  *invalidateStart(kvm, range) {
    // The count goes up first, so that a refresh which misses the clearing below cannot miss the count.
    yield* spinLock(kvm.memslots.mnInvalidateLock);
    yield* countUp(kvm);
    yield* spinUnlock(kvm.memslots.mnInvalidateLock);
    yield* clearMatching(kvm, range, AT_START);
  },
  *invalidateEnd(kvm) {
    yield* spinLock(kvm.memslots.mnInvalidateLock);
    yield* countDown(kvm);
  },
  *hvaToPfnRetry(gpc) {
    return yield* retryLoop(gpc, function* hvaToPfnRetry(previous) {
      const { kvm } = gpc;
      const mmuSeq = yield* load(kvm.mmuInvalidateSeq);
      yield* writeUnlock(gpc.lock);
      const pfn = yield* lookUp(gpc, previous);
      yield* writeLock(gpc.lock);
      return { pfn, usable: !(yield* mmuNotifierRetryCache(kvm, mmuSeq)) };
    });
  },
};

/**
 * mmu_notifier_retry_cache(): the count stands for "in progress", since caches are invalidated before mmu_invalidate_in_progress is
 * raised. It must be read before the sequence, which is raised before the count is lowered: else an end between the two reads goes unseen.
 */
function* mmuNotifierRetryCache(kvm: Kvm, mmuSeq: number): Steps<boolean> {
  const asksOther = kvm.lacks("gpc-refresh-in-notifier-window");
  const inFlight = asksOther ? kvm.mmuInvalidateInProgress : kvm.memslots.mnActiveInvalidateCount;
  if (kvm.lacks("fault-retry-sample-order/c")) {
    return (yield* load(kvm.mmuInvalidateSeq)) !== mmuSeq || (yield* load(inFlight)) !== 0;
  }
  if ((yield* load(inFlight)) !== 0) return true;
  return (yield* load(kvm.mmuInvalidateSeq)) !== mmuSeq;
}

// --- D1, D2 ----------------------------------------------------------------------------------------------------------

/** @param waits sleep until no invalidation in flight covers the address (v2) */
function endHook(waits: boolean): GpcProtocol {
  return {
    *invalidateStart(kvm, range) {
      yield* spinLock(kvm.memslots.mnInvalidateLock);
      yield* growRange(kvm, range);
      yield* countUp(kvm);
      yield* spinUnlock(kvm.memslots.mnInvalidateLock);
    },
    *invalidateEnd(kvm, range) {
      yield* clearMatching(kvm, range, AT_END);
      yield* spinLock(kvm.memslots.mnInvalidateLock);
      yield* countDownAndWake(kvm);
    },
    *hvaToPfnRetry(gpc) {
      return yield* retryLoop(gpc, function* hvaToPfnRetry(previous) {
        const { fields, kvm } = gpc;
        yield* store(fields.needs_invalidation, 1);
        yield* writeUnlock(gpc.lock);
        const pfn = yield* lookUp(gpc, previous);
        if (waits) yield* waitForInvalidations(kvm, fields.uhva.value);
        yield* writeLock(gpc.lock);
        return { pfn, usable: fields.needs_invalidation.value !== 0 };
      });
    },
  };
}

// --- D3, D3', D3s ----------------------------------------------------------------------------------------------------

/** v3 keeps the start hook, which now also tells a refresh in progress. */
const v3Hooks: Pick<GpcProtocol, "invalidateStart" | "invalidateEnd"> = {
  *invalidateStart(kvm, range) {
    yield* spinLock(kvm.memslots.mnInvalidateLock);
    yield* growRange(kvm, range);
    yield* countUp(kvm);
    yield* spinUnlock(kvm.memslots.mnInvalidateLock);
    yield* clearMatching(kvm, range, AT_START_WITH_FLAG);
  },
  *invalidateEnd(kvm) {
    yield* spinLock(kvm.memslots.mnInvalidateLock);
    yield* countDownAndWake(kvm);
  },
};

const D3: GpcProtocol = {
  ...v3Hooks,
  *hvaToPfnRetry(gpc) {
    return yield* retryLoop(gpc, function* hvaToPfnRetry(previous) {
      const { fields, kvm } = gpc;
      yield* store(fields.needs_invalidation, 1);
      yield* writeUnlock(gpc.lock);
      const pfn = yield* lookUp(gpc, previous);
      const again = startLoop(kvm.world);
      for (;;) {
        again(pfn);
        if (!(yield* isPending(kvm, fields.uhva.value))) break;
        // As posted: meant to go round the outer loop with the lock held, it goes round this one.
        yield* writeLock(gpc.lock);
      }
      yield* writeLock(gpc.lock);
      return { pfn, usable: fields.needs_invalidation.value !== 0 };
    });
  },
};

/** @param keepsSequence also start over when an invalidation of memslots has ended since the look-up began */
function outerContinue(keepsSequence: boolean): GpcProtocol {
  return {
    ...v3Hooks,
    *hvaToPfnRetry(gpc) {
      return yield* retryLoop(gpc, function* hvaToPfnRetry(previous) {
        const { fields, kvm } = gpc;
        yield* store(fields.needs_invalidation, 1);
        const mmuSeq = keepsSequence ? yield* load(kvm.mmuInvalidateSeq) : 0;
        yield* writeUnlock(gpc.lock);
        const pfn = yield* lookUp(gpc, previous);
        const pending = yield* isPending(kvm, fields.uhva.value);
        if (pending) yield* waitForInvalidations(kvm, fields.uhva.value);
        yield* writeLock(gpc.lock);
        const ended = keepsSequence && (yield* load(kvm.mmuInvalidateSeq)) !== mmuSeq;
        return { pfn, usable: !pending && !ended && fields.needs_invalidation.value !== 0 };
      });
    },
  };
}

// --- D4 --------------------------------------------------------------------------------------------------------------

/** @param barrier between setting `valid` and looking at the range */
function validFirst(barrier: boolean): GpcProtocol {
  return {
    *invalidateStart(kvm, range) {
      yield* spinLock(kvm.memslots.mnInvalidateLock);
      yield* growRange(kvm, range);
      yield* countUp(kvm);
      // Pairs with the barrier of the refresh: one of the two sees the other. Taking gpc_lock below is a full barrier too.
      yield* fence(kvm.world);
      yield* clearMatching(kvm, range, AT_START_LOCKLESS);
      yield* spinUnlock(kvm.memslots.mnInvalidateLock);
    },
    *invalidateEnd(kvm) {
      yield* spinLock(kvm.memslots.mnInvalidateLock);
      yield* countDownAndWake(kvm);
    },
    *hvaToPfnRetry(gpc) {
      return yield* retryLoop(gpc, function* hvaToPfnRetry(previous) {
        const { fields, kvm } = gpc;
        const uhva = fields.uhva.value;
        yield* writeUnlock(gpc.lock);
        yield* waitForInvalidations(kvm, uhva);
        const mmuSeq = yield* load(kvm.mmuInvalidateSeq);
        const pfn = yield* lookUp(gpc, previous);
        yield* writeLock(gpc.lock);
        if (pfn === KVM_PFN_ERR_FAULT) return { pfn, usable: false };
        // Nobody uses the mapping before gpc->lock is dropped, so it may be called valid before it is known to be.
        yield* store(fields.valid, 1);
        if (barrier) yield* fence(kvm.world);
        const retry = (yield* isPending(kvm, uhva)) || (yield* load(kvm.mmuInvalidateSeq)) !== mmuSeq;
        if (retry) yield* store(fields.valid, 0);
        return { pfn, usable: !retry, isValid: true };
      });
    },
  };
}

// --- D5 --------------------------------------------------------------------------------------------------------------

const D5: GpcProtocol = {
  *invalidateStart(kvm, range) {
    yield* spinLock(kvm.memslots.mnInvalidateLock);
    yield* growRange(kvm, range);
    yield* countUp(kvm);
    yield* spinUnlock(kvm.memslots.mnInvalidateLock);
    yield* clearMatching(kvm, range, AT_START);
  },
  *invalidateEnd(kvm) {
    yield* spinLock(kvm.memslots.mnInvalidateLock);
    yield* countDownAndWake(kvm);
  },
  *hvaToPfnRetry(gpc) {
    return yield* retryLoop(gpc, function* hvaToPfnRetry(previous) {
      const { fields, kvm } = gpc;
      const mmuSeq = yield* load(kvm.mmuInvalidateSeq);
      yield* writeUnlock(gpc.lock);
      const pfn = yield* lookUp(gpc, previous);
      yield* spinLock(kvm.memslots.mnInvalidateLock);
      const pending = yield* isPending(kvm, fields.uhva.value);
      const ended = (yield* load(kvm.mmuInvalidateSeq)) !== mmuSeq;
      yield* spinUnlock(kvm.memslots.mnInvalidateLock);
      // Here an invalidation can start, and find a cache that is not valid yet.
      yield* writeLock(gpc.lock);
      return { pfn, usable: !pending && !ended };
    });
  },
};

const PROTOCOLS: Readonly<Record<GpcDesign, GpcProtocol>> = {
  D0,
  D1: endHook(false),
  D2: endHook(true),
  D3,
  "D3'": outerContinue(false),
  D3s: outerContinue(true),
  D4: validFirst(true),
  "D4-nomb": validFirst(false),
  D5,
};
