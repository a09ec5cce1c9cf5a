/**
 * Page faults of the host: what comes to back an address, and what a write to a page that others share does.
 *
 *     nothing there, anonymous     read: the zero page, read-only; write: a fresh frame. In a THP mapping the same with 2M,
 *                                  where no table hangs there already and the aligned 2M lie in the mapping
 *     nothing there, a file        shared: the page of the cache, writable; private: read-only, or a copy of it for a write
 *     nothing there, hugetlbfs     a fresh huge page; read-only after a read
 *     swapped out                  read back, writable if nobody else had it
 *     a write, entry read-only     nobody else has the page: made writable. Otherwise copied: start(), entry, end()
 *
 * Only the last kind tells secondary users: they may map what is replaced. The first ones fill an empty entry, of which nobody can know.
 * Stands for handle_mm_fault() of 6.12 and 7.2; fault-around is left out (it saves faults and changes nothing else), so are large folios below 2M.
 */
import { load, type Steps, store } from "../../engine/index.ts";
import { type Hva, hva, PAGE_SIZE, type Pfn } from "../../machine/index.ts";
import { spinLock, spinUnlock } from "../locks.ts";
import {
  alignDown,
  ENTRIES,
  isHiddenPte,
  isSwapPte,
  isWritablePte,
  makePte,
  PMD_SIZE,
  PUD_SIZE,
  pteFrame,
  TABLE_ENTRY,
} from "./entry.ts";
import type { HugeEntry, Mm } from "./mm.ts";
import { MMU_NOTIFY_CLEAR, type NotifierRange, notifyEnd, notifyStart } from "./notifier.ts";
import {
  allowFrame,
  copyPages,
  copyRevokedPages,
  PG_EXCLUSIVE,
  PG_FILE,
  PG_KSM,
  putPage,
  revokeFrame,
  tryGetPage,
} from "./page.ts";
import { splitHugePmd } from "./split.ts";
import { isHugetlb, PROT_WRITE, pageSizeOf, VM_HUGEPAGE, VM_NOHUGEPAGE, VM_SHARED, type Vma } from "./vma.ts";

const pageOf = (addr: Hva): Hva => hva(alignDown(addr, PAGE_SIZE));
const nameOf = (addr: Hva): string => `frame@${pageOf(addr).toString(16)}`;

// --- nothing there ---------------------------------------------------------------------------------------------------

/** Fills an entry in which nothing is present; returns it (a huge one may have been made instead). Page-table lock held. */
export function* fillEntry(mm: Mm, vma: Vma, addr: Hva, write: boolean, old: number): Steps<number> {
  mm.notePageTables(addr);
  if (isHugetlb(vma)) return yield* hugetlbNoPage(mm, vma, addr, write);
  const cell = mm.pteOf(addr);
  if (isHiddenPte(old)) {
    // Left over from PROT_NONE, where the protection was given back without the entry: none of the paths here does that.
    const pte = makePte(pteFrame(old), false);
    yield* store(cell, pte);
    return pte;
  }
  if (mm.hugePages) {
    const pmd = mm.pmdOf(addr);
    if (pmd.value === 0) {
      if (isThpPossible(mm, vma, addr)) return yield* doHugePmdAnonymousPage(mm, vma, addr, write);
      yield* store(pmd, TABLE_ENTRY);
    }
  }
  const pte = isSwapPte(old)
    ? yield* doSwapPage(mm, vma, addr, old)
    : vma.vm_file.value === 0
      ? doAnonymousPage(mm, vma, addr, write)
      : yield* doFault(mm, vma, addr, write);
  yield* store(cell, pte);
  if (isSwapPte(old)) yield* putPage(mm.frames, pteFrame(old));
  return pte;
}

function noteAnonymous(mm: Mm, vma: Vma, frame: Pfn): void {
  mm.frames.setFlag(frame, PG_EXCLUSIVE, true);
  mm.frames.countMapping(frame, 1);
  if (vma.anon_vma.value === 0) vma.anon_vma.value = 1;
}

/** do_anonymous_page() */
function doAnonymousPage(mm: Mm, vma: Vma, addr: Hva, write: boolean): number {
  if (!write) return makePte(mm.zeroPage, false);
  const frame = mm.frames.allocate(nameOf(addr));
  noteAnonymous(mm, vma, frame);
  return makePte(frame, (vma.vm_prot.value & PROT_WRITE) !== 0);
}

/** thp_vma_allowable_order() */
function isThpPossible(mm: Mm, vma: Vma, addr: Hva): boolean {
  const flags = vma.vm_flags.value;
  const isWanted = mm.thp.mode === "always" || (mm.thp.mode === "madvise" && (flags & VM_HUGEPAGE) !== 0);
  if (!isWanted || (flags & VM_NOHUGEPAGE) !== 0 || vma.vm_file.value !== 0) return false;
  const first = alignDown(addr, PMD_SIZE);
  return first >= vma.vm_start.value && first + PMD_SIZE <= vma.vm_end.value;
}

/** do_huge_pmd_anonymous_page() */
function* doHugePmdAnonymousPage(mm: Mm, vma: Vma, addr: Hva, write: boolean): Steps<number> {
  const first = hva(alignDown(addr, PMD_SIZE));
  let entry = makePte(mm.hugeZeroPage, false, true);
  if (write || !mm.thp.usesZeroPage) {
    const frame = mm.frames.allocate(nameOf(first), ENTRIES);
    noteAnonymous(mm, vma, frame);
    entry = makePte(frame, (vma.vm_prot.value & PROT_WRITE) !== 0, true);
  }
  yield* store(mm.pmdOf(addr), entry);
  return entry;
}

/** do_swap_page(): writable at once, also after a read, when nobody else had it. */
function* doSwapPage(mm: Mm, vma: Vma, addr: Hva, old: number): Steps<number> {
  const frame = mm.frames.allocate(nameOf(addr));
  yield* copyPages(mm.frames, pteFrame(old), frame);
  noteAnonymous(mm, vma, frame);
  const isExclusive = isWritablePte(old);
  if (!isExclusive) mm.frames.setFlag(frame, PG_EXCLUSIVE, false);
  return makePte(frame, isExclusive && (vma.vm_prot.value & PROT_WRITE) !== 0);
}

/** do_read_fault(), do_cow_fault(), do_shared_fault() */
function* doFault(mm: Mm, vma: Vma, addr: Hva, write: boolean): Steps<number> {
  const file = mm.files[vma.vm_file.value - 1] as (typeof mm.files)[number];
  const index = vma.vm_pgoff.value + (pageOf(addr) - vma.vm_start.value) / PAGE_SIZE;
  const cached = file.getPage(index);
  const isShared = (vma.vm_flags.value & VM_SHARED) !== 0;
  if (write && !isShared) {
    const frame = mm.frames.allocate(nameOf(addr));
    // Mapped nowhere, it may have been taken away from secondary users; the kernel itself still reads its cache.
    if (mm.frames.headOf(cached)._mapcount.value === 0) copyRevokedPages(mm.frames, cached, frame);
    else yield* copyPages(mm.frames, cached, frame);
    noteAnonymous(mm, vma, frame);
    return makePte(frame, true);
  }
  yield* tryGetPage(mm.frames, cached);
  // It may have been mapped before, and taken away: the page stays in the cache all the while.
  if (mm.frames.headOf(cached)._mapcount.value === 0) yield* allowFrame(mm.frames, cached);
  mm.frames.countMapping(cached, 1);
  return makePte(cached, isShared && (vma.vm_prot.value & PROT_WRITE) !== 0);
}

/** hugetlb_no_page() */
function* hugetlbNoPage(mm: Mm, vma: Vma, addr: Hva, write: boolean): Steps<number> {
  const bytes = pageSizeOf(vma);
  const frame = mm.frames.allocate(nameOf(hva(alignDown(addr, bytes))), bytes / PAGE_SIZE);
  noteAnonymous(mm, vma, frame);
  const entry = makePte(frame, write, true);
  yield* store(bytes === PUD_SIZE ? mm.pudOf(addr) : mm.pmdOf(addr), entry);
  return entry;
}

// --- a write to what is read-only ------------------------------------------------------------------------------------

/** wp_can_reuse_anon_folio(), and shared mappings: may the entry simply be made writable? Page-table lock held. */
export function* mayReuse(mm: Mm, vma: Vma, frame: Pfn): Steps<boolean> {
  if ((vma.vm_flags.value & VM_SHARED) !== 0) return true;
  const { frames } = mm;
  if (mm.isZeroPage(frame) || frames.hasFlag(frame, PG_KSM | PG_FILE)) return false;
  if (frames.hasFlag(frame, PG_EXCLUSIVE)) return true;
  const head = frames.headOf(frame);
  const mappings = head._mapcount.value;
  // 6.12 copies small pages of what was a huge one; later kernels see that all its mappings are this process's.
  if (mappings > 1 && mm.kernel === "6.12") return false;
  if ((yield* load(head._refcount)) !== mappings) return false;
  frames.setFlag(frame, PG_EXCLUSIVE, true);
  return true;
}

/** Whether the replaced page is then mapped nowhere any more in this process, so that secondary users must have let go of it. */
function isLastMapping(mm: Mm, frame: Pfn): boolean {
  return mm.frames.headOf(frame)._mapcount.value === 1 && !mm.isZeroPage(frame);
}

/** wp_page_copy(). The page-table lock is held, and dropped. */
export function* wpPageCopy(mm: Mm, vma: Vma, addr: Hva, old: number): Steps<void> {
  const { frames } = mm;
  const oldFrame = pteFrame(old);
  const isZero = mm.isZeroPage(oldFrame);
  const isLast = isLastMapping(mm, oldFrame);
  if (!isZero) yield* tryGetPage(frames, oldFrame);
  yield* spinUnlock(mm.pageTableLock);
  const fresh = frames.allocate(nameOf(addr));
  if (!isZero) yield* copyPages(frames, oldFrame, fresh);
  const start = pageOf(addr);
  const range: NotifierRange = { start, end: hva(start + PAGE_SIZE), event: MMU_NOTIFY_CLEAR };
  yield* notifyStart(mm, range);
  if (isLast) yield* revokeFrame(frames, oldFrame, "copy on write");
  yield* spinLock(mm.pageTableLock);
  const cell = mm.pteOf(addr);
  const isSame = (yield* load(cell)) === old;
  if (isSame) {
    if (!isZero) frames.countMapping(oldFrame, -1);
    noteAnonymous(mm, vma, fresh);
    yield* store(cell, makePte(fresh, true));
  }
  yield* spinUnlock(mm.pageTableLock);
  if (isSame && !isZero) yield* putPage(frames, oldFrame);
  yield* notifyEnd(mm, range);
  if (!isZero) yield* putPage(frames, oldFrame);
  if (!isSame) yield* putPage(frames, fresh);
}

/** A write to a huge page that is mapped read-only. The page-table lock is held, and dropped; the caller looks again. */
export function* doHugeWpPage(mm: Mm, vma: Vma, addr: Hva, huge: HugeEntry): Steps<void> {
  const frame = pteFrame(huge.entry);
  const isZero = mm.isZeroPage(frame);
  const first = hva(alignDown(addr, huge.level === 3 ? PUD_SIZE : PMD_SIZE));
  if (!isZero && (yield* mayReuse(mm, vma, frame))) {
    yield* store(huge.cell, makePte(frame, true, true));
    yield* spinUnlock(mm.pageTableLock);
    return;
  }
  const isLast = isLastMapping(mm, frame);
  yield* spinUnlock(mm.pageTableLock);
  // Up to 6.12 the huge zero page is split; later it is replaced. A huge page that others have too is split, and copied in small pages.
  const isReplaced = isHugetlb(vma) || (isZero && mm.kernel !== "6.12");
  if (isReplaced) yield* replaceHugePage(mm, vma, first, huge, isLast);
  else yield* splitHugePmd(mm, first);
}

/** do_huge_zero_wp_pmd(), hugetlb_wp() */
function* replaceHugePage(mm: Mm, vma: Vma, start: Hva, huge: HugeEntry, isLast: boolean): Steps<void> {
  const { frames } = mm;
  const old = pteFrame(huge.entry);
  const isZero = mm.isZeroPage(old);
  const bytes = huge.level === 3 ? PUD_SIZE : PMD_SIZE;
  const fresh = frames.allocate(nameOf(start), bytes / PAGE_SIZE);
  if (!isZero) yield* copyPages(frames, old, fresh, bytes / PAGE_SIZE);
  const range: NotifierRange = { start, end: hva(start + bytes), event: MMU_NOTIFY_CLEAR };
  yield* notifyStart(mm, range);
  if (isLast) yield* revokeFrame(frames, old, "copy on write");
  yield* spinLock(mm.pageTableLock);
  const isSame = (yield* load(huge.cell)) === huge.entry;
  if (isSame) {
    if (!isZero) frames.countMapping(old, -1);
    noteAnonymous(mm, vma, fresh);
    yield* store(huge.cell, makePte(fresh, true, true));
  }
  yield* spinUnlock(mm.pageTableLock);
  yield* notifyEnd(mm, range);
  if (!isSame) yield* putPage(frames, fresh);
  else if (!isZero) yield* putPage(frames, old);
}
