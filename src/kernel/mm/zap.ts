/**
 * Taking pages away: munmap(), mmap() over something, madvise(MADV_DONTNEED).
 *
 * Order, as the contract of the notifiers allows at its widest: start(), entries cleared, frames freed, end(). A huge page of which only a part goes
 * is split inside, which is an invalidation of its own, nested in the first. Stands for zap_page_range_single(), unmap_vmas() and what calls them in
 * 6.12 and 7.2.
 */
import { assert, exchange, load, type Steps, store } from "../../engine/index.ts";
import { type Hva, hva, PAGE_SIZE, type Pfn } from "../../machine/index.ts";
import { readLock, readUnlock, spinLock, spinUnlock, writeLock, writeUnlock } from "../locks.ts";
import {
  alignDown,
  alignUp,
  hasPage,
  isHugePte,
  isPresentPte,
  isSpecialPte,
  isSwapPte,
  PMD_SIZE,
  PUD_SIZE,
  pteFrame,
  TABLE_ENTRY,
} from "./entry.ts";
import type { Mm } from "./mm.ts";
import {
  MMU_NOTIFY_CLEAR,
  MMU_NOTIFY_UNMAP,
  type NotifierRange,
  notifyEnd,
  notifyStart,
  notifyStartNonblock,
} from "./notifier.ts";
import { PG_FILE, PG_KSM, putPage, revokeFrame } from "./page.ts";
import { splitHugePmd } from "./split.ts";
import {
  cutOut,
  insertVma,
  isHugetlb,
  isMapped,
  mergeNeighbours,
  pageSizeOf,
  removeVma,
  type VmaInit,
  vmasIn,
} from "./vma.ts";

/** Whether nobody may touch the frame once this mapping is announced to go: it is neither the zero page nor mapped elsewhere too. */
function isRevocable(mm: Mm, frame: Pfn): boolean {
  if (mm.isZeroPage(frame)) return false;
  if (!mm.sharedPages || !mm.frames.hasFlag(frame, PG_KSM | PG_FILE)) return true;
  return mm.frames.headOf(frame)._mapcount.value === 1;
}

/** From the moment when start() has returned, nobody may touch what is mapped in the range. */
export function* revokeRange(mm: Mm, range: NotifierRange, because: string): Steps<void> {
  // Who else maps a page is written under the lock.
  if (mm.sharedPages) yield* spinLock(mm.pageTableLock);
  yield* revokeEntries(mm, range, because);
  if (mm.sharedPages) yield* spinUnlock(mm.pageTableLock);
}

function* revokeEntries(mm: Mm, range: NotifierRange, because: string): Steps<void> {
  for (let addr = range.start; addr < range.end; ) {
    const huge = yield* hugeEntryUnlocked(mm, addr);
    if (huge === null) {
      const pte = yield* load(mm.pteOf(addr));
      const frame = pteFrame(pte);
      const isAlone = isPresentPte(pte) && !isSpecialPte(pte) && mm.frames.folioPages(frame) === 1;
      if (isAlone && isRevocable(mm, frame)) yield* revokeFrame(mm.frames, frame, because);
      addr = hva(addr + PAGE_SIZE);
      continue;
    }
    const isWhole = addr % huge.bytes === 0 && addr + huge.bytes <= range.end;
    if (huge.entry !== 0 && isWhole && isRevocable(mm, pteFrame(huge.entry))) {
      yield* revokeFrame(mm.frames, pteFrame(huge.entry), because);
    }
    addr = hva(alignDown(addr, huge.bytes) + huge.bytes);
  }
}

/** A huge entry, or an empty one of that level; null: look at the small entries. */
function* hugeEntryUnlocked(mm: Mm, addr: Hva): Steps<{ readonly entry: number; readonly bytes: number } | null> {
  if (mm.gigantic) {
    const entry = yield* load(mm.pudOf(addr));
    if (isHugePte(entry)) return { entry, bytes: PUD_SIZE };
  }
  if (!mm.hugePages) return null;
  const entry = yield* load(mm.pmdOf(addr));
  return entry === TABLE_ENTRY ? null : { entry, bytes: PMD_SIZE };
}

/** Huge pages that the range cuts become small ones. */
function* splitAtEdges(mm: Mm, range: NotifierRange): Steps<void> {
  for (const edge of [range.start, range.end]) {
    const first = hva(alignDown(edge, PMD_SIZE));
    if (first === edge || !mm.covers(first)) continue;
    if (isHugePte(yield* load(mm.pmdOf(first)))) yield* splitHugePmd(mm, first);
  }
}

/** Which pages go: all, or only those of files, and not the copies that a private mapping has made. */
export type ZapWhat = "all" | "file pages";

/**
 * zap_page_range_single(): start(), clear the entries, free the frames, end().
 * @param started done when start() has returned; for scenarios
 */
export function* zapRange(
  mm: Mm,
  range: NotifierRange,
  because: string,
  started: (() => Steps<void>) | null = null,
  what: ZapWhat = "all",
): Steps<void> {
  yield* notifyStart(mm, range);
  yield* zapStarted(mm, range, because, started, what);
}

/** __oom_reap_task_mm(), of one range: the memory of a process that is to be killed goes, unless somebody would have to sleep for it; then false. */
export function* oomReapRange(mm: Mm, range: NotifierRange): Steps<boolean> {
  if (!(yield* notifyStartNonblock(mm, range))) return false;
  yield* zapStarted(mm, range, "the OOM reaper", null, "all");
  return true;
}

/** The rest, when start() has returned. */
function* zapStarted(
  mm: Mm,
  range: NotifierRange,
  because: string,
  started: (() => Steps<void>) | null,
  what: ZapWhat,
): Steps<void> {
  if (what === "all") yield* revokeRange(mm, range, because);
  if (started !== null) yield* started();
  if (mm.hugePages) yield* splitAtEdges(mm, range);
  yield* spinLock(mm.pageTableLock);
  const freed: Pfn[] = [];
  for (let addr = range.start; addr < range.end; ) addr = yield* zapEntry(mm, addr, what, freed);
  yield* spinUnlock(mm.pageTableLock);
  for (const frame of freed) yield* putPage(mm.frames, frame);
  yield* notifyEnd(mm, range);
}

/** Clears the entry at an address; returns where the next one begins. */
function* zapEntry(mm: Mm, addr: Hva, what: ZapWhat, freed: Pfn[]): Steps<Hva> {
  const huge = mm.hugeEntryAt(addr);
  if (huge !== null) {
    const bytes = huge.level === 3 ? PUD_SIZE : PMD_SIZE;
    assert(addr % bytes === 0, "a huge page is zapped in part");
    yield* exchange(huge.cell, 0);
    noteUnmapped(mm, pteFrame(huge.entry), freed);
    return hva(addr + bytes);
  }
  if (mm.hugePages && mm.pmdOf(addr).value === 0) return hva(alignDown(addr, PMD_SIZE) + PMD_SIZE);
  const cell = mm.pteOf(addr);
  const next = hva(addr + PAGE_SIZE);
  if (what === "file pages") {
    const old = cell.value;
    if (!hasPage(old) || !mm.frames.hasFlag(pteFrame(old), PG_FILE)) return next;
  }
  const pte = yield* exchange(cell, 0);
  if (hasPage(pte) && !isSpecialPte(pte)) noteUnmapped(mm, pteFrame(pte), freed);
  if (isSwapPte(pte)) freed.push(pteFrame(pte));
  return next;
}

function noteUnmapped(mm: Mm, frame: Pfn, freed: Pfn[]): void {
  if (mm.isZeroPage(frame)) return;
  mm.frames.countMapping(frame, -1);
  freed.push(frame);
}

/**
 * madvise(MADV_DONTNEED): the pages go, the mapping stays. Since 6.14, a table of small entries that is emptied whole goes too, so that
 * a huge page can take its place (try_to_free_pte()).
 * @returns 0 or -errno
 */
export function* madviseDontneed(mm: Mm, start: Hva, end: Hva): Steps<number> {
  yield* readLock(mm.mmapLock);
  for (const vma of vmasIn(mm, start, end)) {
    const from = hva(Math.max(start, vma.vm_start.value));
    const to = hva(alignDown(Math.min(end, vma.vm_end.value), pageSizeOf(vma)));
    if (from % pageSizeOf(vma) !== 0 || from >= to) continue;
    yield* zapRange(mm, { start: from, end: to, event: MMU_NOTIFY_CLEAR }, "madvise(MADV_DONTNEED)");
    if (mm.kernel !== "6.12" && !isHugetlb(vma)) yield* freeTables(mm, from, to);
  }
  const rc = isMapped(mm, start, end) ? 0 : -ENOMEM;
  yield* readUnlock(mm.mmapLock);
  return rc;
}

/** The tables of small entries of all aligned 2M in the range, which are empty. */
function* freeTables(mm: Mm, start: Hva, end: Hva): Steps<void> {
  if (!mm.hugePages) return;
  const first = alignUp(start, PMD_SIZE);
  if (first + PMD_SIZE > end) return;
  yield* spinLock(mm.pageTableLock);
  for (let addr = hva(first); addr + PMD_SIZE <= end; addr = hva(addr + PMD_SIZE)) {
    const pmd = mm.pmdOf(addr);
    if (pmd.value === TABLE_ENTRY) yield* store(pmd, 0);
  }
  yield* spinUnlock(mm.pageTableLock);
}

/** free_pgtables(): the tables of every 2M that no mapping touches any more. mmap_lock held for write. */
function* freeTablesAround(mm: Mm, start: Hva, end: Hva): Steps<void> {
  const limit = mm.base + mm.pages * PAGE_SIZE;
  for (let addr = alignDown(start, PMD_SIZE); addr < Math.min(end, limit); addr += PMD_SIZE) {
    const block = { start: hva(addr), end: hva(Math.min(addr + PMD_SIZE, limit)) };
    if (vmasIn(mm, block.start, block.end).length === 0) yield* freeTables(mm, block.start, hva(addr + PMD_SIZE));
  }
}

/** do_munmap(), under mmap_lock held for write: the mapping goes, then its pages. */
export function* unmapRange(mm: Mm, start: Hva, end: Hva, because: string): Steps<void> {
  const gone = yield* cutOut(mm, start, end);
  for (const vma of gone) removeVma(mm, vma);
  if (gone.length === 0) return;
  yield* zapRange(mm, { start, end, event: MMU_NOTIFY_UNMAP }, because);
  if (mm.hugePages) yield* freeTablesAround(mm, start, end);
}

/** munmap() */
export function* munmap(mm: Mm, start: Hva, end: Hva): Steps<number> {
  yield* writeLock(mm.mmapLock);
  yield* unmapRange(mm, start, end, "munmap()");
  yield* writeUnlock(mm.mmapLock);
  return 0;
}

/** mmap(MAP_FIXED) over what was there: of fresh private anonymous memory, unless told otherwise. */
export function* mmapFixed(
  mm: Mm,
  start: Hva,
  end: Hva,
  prot: number,
  more: Pick<VmaInit, "flags" | "file" | "pgoff"> = {},
): Steps<number> {
  yield* writeLock(mm.mmapLock);
  yield* unmapRange(mm, start, end, "mmap(MAP_FIXED)");
  insertVma(mm, { start, end, prot, ...more });
  mergeNeighbours(mm, start, end);
  yield* writeUnlock(mm.mmapLock);
  return 0;
}

/** A bare invalidation of a range in which nothing changes: what an unrelated thread's invalidations are to everybody else. */
export function* invalidateRange(mm: Mm, start: Hva, end: Hva): Steps<void> {
  const range: NotifierRange = { start, end, event: MMU_NOTIFY_CLEAR };
  yield* notifyStart(mm, range);
  yield* notifyEnd(mm, range);
}

export const ENOMEM = 12;
export const EINVAL = 22;
