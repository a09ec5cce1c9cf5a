/**
 * Huge pages of the TDP MMU are split: one entry becomes a table of 512 that map the same.
 *
 * The table is filled before it is linked, so nothing is unmapped at any moment, and no TLB need be flushed: an old translation of the whole page and
 * a new one of a part of it say the same. Whoever changes the huge entry first wins; the loser looks again.
 * Stands for tdp_mmu_split_huge_page(), tdp_mmu_split_huge_pages_root() of 6.12 and 7.2.
 */
import type { Steps } from "../engine/index.ts";
import {
  assertHeld,
  rcuReadLock,
  rcuReadUnlock,
  readLock,
  readUnlock,
  writeLock,
  writeUnlock,
} from "../kernel/index.ts";
import { ENTRIES_PER_TABLE, type Gfn, pagesPerLevel } from "../machine/index.ts";
import type { KvmMmuPage } from "./mmu-page.ts";
import { isLargePte, isShadowPresentPte, makeSmallSpte } from "./spte.ts";
import { type TdpIter, tdpIterNext, tdpIterStart } from "./tdp-iter.ts";
import { pagesStat, type TdpMmu, tdpMmuAllocChildSp, tdpMmuLinkSp } from "./tdp-mmu.ts";
import { isInvalidRoot, tdpMmuNextRoot } from "./tdp-roots.ts";
import { tdpMmuIterCondResched } from "./tdp-zap.ts";

/** What the table holds that the huge entry at hand is split into. */
export function splitTable(tdp: TdpMmu, iter: TdpIter): Uint32Array {
  const table = new Uint32Array(2 * ENTRIES_PER_TABLE);
  const level = iter.level - 1;
  const pages = pagesPerLevel(level);
  const { nxHugePages } = tdp.kvm.params;
  const { nonPresent } = tdp.layout;
  const count = smallEntries(tdp, iter);
  for (let index = 0; index < ENTRIES_PER_TABLE; index++) {
    const spte =
      index < count ? makeSmallSpte(tdp.layout, { huge: iter.oldSpte, level, index, pages, nxHugePages }) : nonPresent;
    table[2 * index] = spte.lo;
    table[2 * index + 1] = spte.hi;
  }
  return table;
}

/** How many entries the huge one at hand becomes: all of a table's, but for frames that do not exist. */
function smallEntries(tdp: TdpMmu, { gfn, level }: Pick<TdpIter, "gfn" | "level">): number {
  return Math.min(ENTRIES_PER_TABLE, Math.ceil((tdp.gfnEnd - gfn) / pagesPerLevel(level - 1)));
}

/** tdp_mmu_split_huge_page(): links the table, which is filled already; false when the entry has changed meanwhile. */
export function* tdpMmuSplitHugePage(tdp: TdpMmu, iter: TdpIter, sp: KvmMmuPage, shared: boolean): Steps<boolean> {
  const { gfn, level, oldSpte } = iter;
  const linked = yield* tdpMmuLinkSp(tdp, iter, sp, shared);
  // The link has taken the huge page off the statistics.
  if (linked) tdp.count(pagesStat(level - 1), smallEntries(tdp, { gfn, level }));
  tdp.emit({ name: "kvm_mmu_split_huge_page", gfn, spte: oldSpte, level, errno: linked ? 0 : EBUSY });
  return linked;
}

const EBUSY = -16;

/** kvm_tdp_mmu_try_split_huge_pages(): all huge pages of a range, down to the level. mmu_lock held, for read when `shared`. */
export function* kvmTdpMmuTrySplitHugePages(
  tdp: TdpMmu,
  range: { readonly start: Gfn; readonly end: Gfn; readonly targetLevel: number; readonly shared: boolean },
): Steps<void> {
  assertHeld(tdp.kvm.mmuLock, range.shared ? "shared" : "exclusive");
  let root = yield* tdpMmuNextRoot(tdp, null);
  while (root !== null) {
    if (!isInvalidRoot(tdp, root)) yield* splitHugePagesRoot(tdp, root, range);
    root = yield* tdpMmuNextRoot(tdp, root);
  }
}

/** tdp_mmu_split_huge_pages_root(): mmu_lock is dropped to allocate each table, so what was to be split is looked up again with the table at hand. */
function* splitHugePagesRoot(
  tdp: TdpMmu,
  root: KvmMmuPage,
  { start, end, targetLevel, shared }: Parameters<typeof kvmTdpMmuTrySplitHugePages>[1],
): Steps<void> {
  yield* rcuReadLock(tdp.kvm.kernel.rcu);
  const { yields } = tdp.kvm.variants;
  let hasTable = !yields;
  const iter = yield* tdpIterStart(tdp.world, root, targetLevel + 1, start, end);
  for (; iter.valid; yield* tdpIterNext(iter)) {
    for (;;) {
      if (yields && (yield* tdpMmuIterCondResched(tdp, iter, { flush: false, shared }))) break;
      if (!isShadowPresentPte(iter.oldSpte) || !isLargePte(iter.oldSpte)) break;
      if (!hasTable) {
        yield* dropLocksToAllocate(tdp, shared);
        hasTable = true;
        iter.yielded = true;
        break;
      }
      const sp = tdpMmuAllocChildSp(tdp, iter, splitTable(tdp, iter));
      if (yield* tdpMmuSplitHugePage(tdp, iter, sp, shared)) {
        hasTable = !yields;
        break;
      }
      yield* tdp.pages.free(sp);
    }
  }
  yield* rcuReadUnlock(tdp.kvm.kernel.rcu);
}

/** Nobody sleeps for memory under mmu_lock. */
function* dropLocksToAllocate({ kvm }: TdpMmu, shared: boolean): Steps<void> {
  yield* rcuReadUnlock(kvm.kernel.rcu);
  if (shared) {
    yield* readUnlock(kvm.mmuLock);
    yield* readLock(kvm.mmuLock);
  } else {
    yield* writeUnlock(kvm.mmuLock);
    yield* writeLock(kvm.mmuLock);
  }
  yield* rcuReadLock(kvm.kernel.rcu);
}
