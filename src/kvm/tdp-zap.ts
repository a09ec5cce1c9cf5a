/**
 * Zapping in the TDP MMU: leaves of a range, or all of a root.
 *
 *     a range of leaves     mmu_lock for write; tables stay; who needs it flushes before the lock is dropped
 *     a whole root          level by level from the bottom, so that no single step takes a large table with it; no flush: either nobody
 *                           uses the root any more, or the vCPUs were told to drop it, and flush when they load the next one
 *
 * Both may drop mmu_lock when somebody waits for the CPU or for the lock, and go on afterwards where they were: what they have zapped so far is
 * flushed first, the root is held by a reference, and an entry is visited once more before the lock may be dropped again.
 * Stands for tdp_mmu_zap_leafs(), tdp_mmu_zap_root(), kvm_tdp_mmu_invalidate_roots() and what calls them, of 6.12 and 7.2.
 */
import { awaitUntil, type Cell, fetchAdd, type Steps, startLoop } from "../engine/index.ts";
import {
  assertHeld,
  assertHeldWrite,
  mutexLock,
  mutexUnlock,
  rcuReadLock,
  rcuReadUnlock,
  readLock,
  readUnlock,
  writeLock,
  writeUnlock,
} from "../kernel/index.ts";
import { type Gfn, gfn, PG_LEVEL_1G, PG_LEVEL_2M, PG_LEVEL_4K } from "../machine/index.ts";
import { type KvmMmuPage, spLevel } from "./mmu-page.ts";
import { needsResched } from "./resched.ts";
import { isLastSpte, isShadowPresentPte } from "./spte.ts";
import { type TdpIter, tdpIterNext, tdpIterRestart, tdpIterStart } from "./tdp-iter.ts";
import { type TdpMmu, tdpMmuIterSetSpte, tdpMmuSetSpteAtomic } from "./tdp-mmu.ts";
import { allRoots, isInvalidRoot, kvmTdpMmuPutRoot, tdpMmuNextRoot } from "./tdp-roots.ts";
import type { RootZap } from "./variants.ts";

/** What a walk has done that is not flushed yet, and how it holds mmu_lock. */
interface Yielding {
  readonly flush: boolean;
  /** mmu_lock is held for read. */
  readonly shared: boolean;
}

/** tdp_mmu_iter_cond_resched(): true when mmu_lock was dropped, so that the walk has to start again at the root. */
export function* tdpMmuIterCondResched(tdp: TdpMmu, iter: TdpIter, { flush, shared }: Yielding): Steps<boolean> {
  const { kvm } = tdp;
  if (!kvm.variants.yields) return false;
  // Not twice at one place, or the walk would never end.
  const startsOver = kvm.lacks("two-wrprot-walkers-livelock");
  if (iter.nextLastLevelGfn === iter.yieldedGfn && !startsOver) return false;
  if (!(yield* needsResched(kvm))) return false;
  if (flush && kvm.arch !== null) yield* kvm.arch.flushRemoteTlbs();
  yield* rcuReadUnlock(kvm.kernel.rcu);
  if (shared) {
    yield* readUnlock(kvm.mmuLock);
    yield* readLock(kvm.mmuLock);
  } else {
    yield* writeUnlock(kvm.mmuLock);
    yield* writeLock(kvm.mmuLock);
  }
  kvm.world.clock?.rescheduled();
  yield* rcuReadLock(kvm.kernel.rcu);
  if (startsOver) iter.nextLastLevelGfn = iter.start;
  if (kvm.lacks("tdp-iter-skips-after-yield")) {
    yield* tdpIterRestart(iter);
    return true;
  }
  iter.yielded = true;
  return true;
}

/** kvm_tdp_mmu_unmap_gfn_range(): the notifier's zap; true when a TLB flush is needed. mmu_lock held for write. */
export function* kvmTdpMmuUnmapGfnRange(tdp: TdpMmu, start: Gfn, end: Gfn): Steps<boolean> {
  return yield* kvmTdpMmuZapLeafs(tdp, start, end, false);
}

/** kvm_tdp_mmu_zap_leafs(): in every root; true when a TLB flush is needed, by what `flush` says was done before or by this. */
export function* kvmTdpMmuZapLeafs(tdp: TdpMmu, start: Gfn, end: Gfn, flush: boolean): Steps<boolean> {
  let pending = flush;
  if (!tdp.kvm.variants.yields) {
    // The lock is never dropped, so nobody can put a root meanwhile: references would be taken and given back unseen.
    for (const root of yield* allRoots(tdp)) pending = yield* tdpMmuZapLeafs(tdp, root, start, end, pending);
    return pending;
  }
  const handsOn = !tdp.kvm.lacks("yield-drops-flush-of-previous-root");
  let root = yield* tdpMmuNextRoot(tdp, null);
  while (root !== null) {
    const zapped = yield* tdpMmuZapLeafs(tdp, root, start, end, handsOn && pending);
    pending = zapped || (pending && !handsOn);
    root = yield* tdpMmuNextRoot(tdp, root);
  }
  return pending;
}

/** tdp_mmu_zap_leafs(): tables are left in place. */
function* tdpMmuZapLeafs(tdp: TdpMmu, root: KvmMmuPage, start: Gfn, end: Gfn, before: boolean): Steps<boolean> {
  assertHeldWrite(tdp.kvm.mmuLock);
  let flush = before;
  yield* rcuReadLock(tdp.kvm.kernel.rcu);
  const iter = yield* tdpIterStart(tdp.world, root, PG_LEVEL_4K, start, end);
  for (; iter.valid; yield* tdpIterNext(iter)) {
    if (tdp.kvm.variants.yields && (yield* tdpMmuIterCondResched(tdp, iter, { flush, shared: false }))) {
      flush = false;
      continue;
    }
    if (!isShadowPresentPte(iter.oldSpte) || !isLastSpte(iter.oldSpte, iter.level)) continue;
    yield* tdpMmuIterSetSpte(tdp, iter, tdp.layout.nonPresent);
    // vCPUs that use an invalid root flush when they load the next one.
    if (!isInvalidRoot(tdp, root)) flush = true;
  }
  yield* rcuReadUnlock(tdp.kvm.kernel.rcu);
  return flush;
}

/** kvm_tdp_mmu_zap_all(): the VM goes away. mmu_lock held for write. */
export function* kvmTdpMmuZapAll(tdp: TdpMmu): Steps<void> {
  let root = yield* tdpMmuNextRoot(tdp, null);
  while (root !== null) {
    yield* tdpMmuZapRoot(tdp, root, false);
    root = yield* tdpMmuNextRoot(tdp, root);
  }
}

/**
 * kvm_tdp_mmu_invalidate_roots(): from now on no vCPU gets one of these roots, and no fault maps anything in them. mmu_lock held for write: faults
 * that have found their root valid are over.
 */
export function* kvmTdpMmuInvalidateRoots(tdp: TdpMmu): Steps<void> {
  for (const root of yield* allRoots(tdp)) {
    if (isInvalidRoot(tdp, root)) continue;
    root.tdp_mmu_scheduled_root_to_zap.value = 1;
    root.role.value |= tdp.roles.invalid;
    if (tdp.zapsToQueue !== null) tdp.zapsToQueue.value++;
  }
}

/** kvm_mmu_uninit_tdp_mmu(): the VM is gone; the references that the TDP MMU has kept go, and the roots with them. */
export function* kvmMmuUninitTdpMmu(tdp: TdpMmu): Steps<void> {
  const { kvm } = tdp;
  yield* mutexLock(kvm.memslots.slotsLock);
  yield* writeLock(kvm.mmuLock);
  yield* kvmTdpMmuInvalidateRoots(tdp);
  yield* writeUnlock(kvm.mmuLock);
  yield* kvmTdpMmuZapInvalidatedRoots(tdp);
  yield* mutexUnlock(kvm.memslots.slotsLock);
}

/**
 * kvm_tdp_mmu_zap_invalidated_roots(): with slots_lock held, so that each is zapped by who has invalidated it. Where a worker does it,
 * tdp_mmu_schedule_zap_root().
 */
export function* kvmTdpMmuZapInvalidatedRoots(tdp: TdpMmu): Steps<void> {
  assertHeld(tdp.kvm.memslots.slotsLock);
  const { zapWork, zapsToQueue } = tdp;
  if (zapWork === null || zapsToQueue === null) {
    yield* zapScheduledRoots(tdp);
    return;
  }
  const queued = zapsToQueue.value;
  zapsToQueue.value = 0;
  yield* fetchAdd(zapWork, queued);
}

/**
 * tdp_mmu_zap_root_work(): a worker. There is a piece of work for each root, whichever worker gets it. @param work kvm->arch.tdp_mmu_zap_wq
 */
export function* tdpMmuZapRootWork(tdp: TdpMmu, work: Cell): Steps<void> {
  yield* awaitUntil(work, (queued) => queued > 0, "wait for work");
  yield* fetchAdd(work, -1);
  tdp.world.clock?.spend("wake a worker");
  tdp.world.clock?.enter("zap work");
  yield* zapScheduledRoots(tdp);
  tdp.world.clock?.leave("zap work");
}

function* zapScheduledRoots(tdp: TdpMmu): Steps<void> {
  const { kvm } = tdp;
  yield* readLock(kvm.mmuLock);
  let root = yield* tdpMmuNextRoot(tdp, null);
  while (root !== null) {
    if (root.tdp_mmu_scheduled_root_to_zap.value !== 0) {
      root.tdp_mmu_scheduled_root_to_zap.value = 0;
      if (kvm.variants.rootPut === "before-zap") {
        root = yield* putAndZapRoot(tdp, root);
        continue;
      }
      yield* tdpMmuZapRoot(tdp, root, true);
      // The TDP MMU's own reference; the walk has another one.
      yield* kvmTdpMmuPutRoot(tdp, root);
    }
    root = yield* tdpMmuNextRoot(tdp, root);
  }
  yield* readUnlock(kvm.mmuLock);
}

/** The design that gives all references back first: from then on nobody finds the root, and it is zapped all the same. Returns the next root. */
function* putAndZapRoot(tdp: TdpMmu, root: KvmMmuPage): Steps<KvmMmuPage | null> {
  yield* kvmTdpMmuPutRoot(tdp, root);
  const next = yield* tdpMmuNextRoot(tdp, root);
  yield* tdpMmuZapRoot(tdp, root, true);
  return next;
}

/** The levels that are zapped before the root's own: an entry of one of them takes a table with it that no step could be spared. */
const PASSES: Readonly<Record<RootZap, readonly number[]>> = {
  "per-level": [PG_LEVEL_4K, PG_LEVEL_2M, PG_LEVEL_1G],
  "two-passes": [PG_LEVEL_1G],
  "one-pass": [],
};

/** tdp_mmu_zap_root(). @param shared mmu_lock is held for read: faults in other roots go on, and so do walks in this one */
function* tdpMmuZapRoot(tdp: TdpMmu, root: KvmMmuPage, shared: boolean): Steps<void> {
  yield* rcuReadLock(tdp.kvm.kernel.rcu);
  const levels = [...PASSES[tdp.kvm.variants.rootZap], spLevel(root)];
  for (const [pass, zapLevel] of levels.entries()) yield* zapRootLevel(tdp, root, zapLevel, shared, pass > 0);
  yield* rcuReadUnlock(tdp.kvm.kernel.rcu);
}

/** What is measured of the removal of a table, which is one step: those that only the last pass takes, apart. */
function sectionOf({ level, rootLevel }: TdpIter): string {
  return level === rootLevel ? "zap an entry of the root" : "zap a table";
}

/** __tdp_mmu_zap_root(): one pass, over the entries of one level and below. @param visited an earlier pass was there */
function* zapRootLevel(
  tdp: TdpMmu,
  root: KvmMmuPage,
  zapLevel: number,
  shared: boolean,
  visited: boolean,
): Steps<void> {
  const iter = yield* tdpIterStart(tdp.world, root, zapLevel, gfn(0), tdp.gfnEnd);
  const again = startLoop(tdp.world);
  const { clock } = tdp.world;
  for (; iter.valid; yield* tdpIterNext(iter)) {
    if (tdp.world.comparesStates) again(...iter.position());
    clock?.spend("visit an entry");
    if (visited) clock?.spend("visit it again");
    for (;;) {
      if (tdp.kvm.variants.yields && (yield* tdpMmuIterCondResched(tdp, iter, { flush: false, shared }))) break;
      if (!isShadowPresentPte(iter.oldSpte) || iter.level > zapLevel) break;
      const table = clock !== null && !isLastSpte(iter.oldSpte, iter.level);
      if (table) clock.enter(sectionOf(iter));
      let isGone = true;
      if (shared) isGone = yield* tdpMmuSetSpteAtomic(tdp, iter, tdp.layout.nonPresent);
      else yield* tdpMmuIterSetSpte(tdp, iter, tdp.layout.nonPresent);
      if (table) clock.leave(sectionOf(iter));
      // Somebody else has changed the entry: look at what it is now.
      if (isGone) break;
    }
  }
}
