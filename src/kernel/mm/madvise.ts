/**
 * madvise(): each advice that changes pages or mappings, and mmu notifiers' other users in it.
 *
 *     DONTNEED (zap.ts)   REMOVE (file.ts)   COLLAPSE (collapse.ts)
 *     FREE                told like DONTNEED; the pages stay until memory is short, which it never is here
 *     PAGEOUT             each anonymous page that nobody else has is unmapped and written to swap
 *     COLD                ages pages; no secondary user is told, unless a huge page is cut
 *     POPULATE_READ/WRITE as if each page were touched
 *     HUGEPAGE, NOHUGEPAGE, MERGEABLE and the like: flags of the mapping, which may cut it
 *
 * Stands for madvise_vma_behavior() of 6.12 and 7.2.
 */
import { load, type Steps, store } from "../../engine/index.ts";
import { type Hva, hva, PAGE_SIZE, type Pfn } from "../../machine/index.ts";
import { readLock, readUnlock, spinLock, spinUnlock, writeLock, writeUnlock } from "../locks.ts";
import { alignDown, ENTRIES, isHugePte, isPresentPte, PMD_SIZE, pteFrame, swapPte, TABLE_ENTRY } from "./entry.ts";
import { followOrFault } from "./gup.ts";
import { unmergePages } from "./ksm.ts";
import type { Mm } from "./mm.ts";
import { MMU_NOTIFY_CLEAR, type NotifierRange, notifyEnd, notifyStart } from "./notifier.ts";
import { copyRevokedPages, PG_EXCLUSIVE, PG_FILE, PG_KSM, putPage, revokeFrame } from "./page.ts";
import { splitHugePmd } from "./split.ts";
import {
  isAnonymous,
  isHugetlb,
  isMapped,
  modifyVma,
  VM_DONTDUMP,
  VM_DONTFORK,
  VM_HUGEPAGE,
  VM_MERGEABLE,
  VM_NOHUGEPAGE,
  VM_RAND_READ,
  VM_SEQ_READ,
  VM_WIPEONFORK,
  vmasIn,
} from "./vma.ts";
import { EINVAL, ENOMEM } from "./zap.ts";

/** Advice that only changes a mapping's flags: those it sets, and those it clears. */
export const ADVICE_FLAGS = {
  normal: { set: 0, clear: VM_RAND_READ | VM_SEQ_READ },
  random: { set: VM_RAND_READ, clear: VM_SEQ_READ },
  sequential: { set: VM_SEQ_READ, clear: VM_RAND_READ },
  dontfork: { set: VM_DONTFORK, clear: 0 },
  dofork: { set: 0, clear: VM_DONTFORK },
  wipeonfork: { set: VM_WIPEONFORK, clear: 0 },
  keeponfork: { set: 0, clear: VM_WIPEONFORK },
  dontdump: { set: VM_DONTDUMP, clear: 0 },
  dodump: { set: 0, clear: VM_DONTDUMP },
  hugepage: { set: VM_HUGEPAGE, clear: VM_NOHUGEPAGE },
  nohugepage: { set: VM_NOHUGEPAGE, clear: VM_HUGEPAGE },
  mergeable: { set: VM_MERGEABLE, clear: 0 },
  unmergeable: { set: 0, clear: VM_MERGEABLE },
} as const;

export type FlagAdvice = keyof typeof ADVICE_FLAGS;

/** madvise() with an advice that changes flags. @returns 0 or -errno */
export function* madviseFlags(mm: Mm, start: Hva, end: Hva, advice: FlagAdvice): Steps<number> {
  const { set, clear } = ADVICE_FLAGS[advice];
  yield* writeLock(mm.mmapLock);
  let rc = isMapped(mm, start, end) ? 0 : -ENOMEM;
  for (const vma of vmasIn(mm, start, end)) {
    const needsAnonymous = advice === "mergeable" || advice === "unmergeable" || advice === "wipeonfork";
    if (isHugetlb(vma) && (advice === "hugepage" || advice === "nohugepage" || needsAnonymous)) {
      if (advice === "hugepage" || advice === "nohugepage" || advice === "wipeonfork") rc = -EINVAL;
      continue;
    }
    const flags = (vma.vm_flags.value | set) & ~clear;
    if (flags === vma.vm_flags.value) continue;
    const range = { start: hva(Math.max(start, vma.vm_start.value)), end: hva(Math.min(end, vma.vm_end.value)) };
    if (advice === "unmergeable") yield* unmergePages(mm, range.start, range.end);
    yield* modifyVma(mm, vma, range, { flags });
  }
  yield* writeUnlock(mm.mmapLock);
  return rc;
}

/** madvise(MADV_FREE) */
export function* madviseFree(mm: Mm, start: Hva, end: Hva): Steps<number> {
  yield* readLock(mm.mmapLock);
  let rc = isMapped(mm, start, end) ? 0 : -ENOMEM;
  for (const vma of vmasIn(mm, start, end)) {
    if (!isAnonymous(vma)) {
      rc = -EINVAL;
      break;
    }
    const from = hva(Math.max(start, vma.vm_start.value));
    const range: NotifierRange = { start: from, end: hva(Math.min(end, vma.vm_end.value)), event: MMU_NOTIFY_CLEAR };
    yield* notifyStart(mm, range);
    yield* splitPartHuge(mm, range);
    yield* notifyEnd(mm, range);
  }
  yield* readUnlock(mm.mmapLock);
  return rc;
}

/** Huge pages that a range only partly covers become small ones: an advice about a part of them concerns no other part. */
function* splitPartHuge(mm: Mm, range: { readonly start: Hva; readonly end: Hva }): Steps<void> {
  if (!mm.hugePages) return;
  for (const edge of [range.start, range.end]) {
    const first = hva(alignDown(edge, PMD_SIZE));
    if (first === edge) continue;
    const entry = yield* load(mm.pmdOf(first));
    if (isHugePte(entry) && !mm.isZeroPage(pteFrame(entry))) yield* splitHugePmd(mm, first);
  }
}

/** madvise(MADV_COLD) */
export function* madviseCold(mm: Mm, start: Hva, end: Hva): Steps<number> {
  yield* readLock(mm.mmapLock);
  const rc = isMapped(mm, start, end) ? 0 : -ENOMEM;
  yield* splitPartHuge(mm, { start, end });
  yield* readUnlock(mm.mmapLock);
  return rc;
}

/** madvise(MADV_PAGEOUT) */
export function* madvisePageout(mm: Mm, start: Hva, end: Hva): Steps<number> {
  yield* readLock(mm.mmapLock);
  const rc = isMapped(mm, start, end) ? 0 : -ENOMEM;
  yield* splitPartHuge(mm, { start, end });
  for (const vma of vmasIn(mm, start, end)) {
    if (!isAnonymous(vma)) continue;
    const to = Math.min(end, vma.vm_end.value);
    for (let addr = hva(Math.max(start, vma.vm_start.value)); addr < to; ) addr = yield* reclaimPage(mm, addr);
  }
  yield* readUnlock(mm.mmapLock);
  return rc;
}

/** shrink_folio_list(), try_to_unmap() of the page at an address. Returns where the next one begins. */
function* reclaimPage(mm: Mm, addr: Hva): Steps<Hva> {
  const pmd = mm.hugePages ? yield* load(mm.pmdOf(addr)) : TABLE_ENTRY;
  const bytes = pmd === TABLE_ENTRY ? PAGE_SIZE : PMD_SIZE;
  const next = hva(alignDown(addr, bytes) + bytes);
  const entry = bytes === PMD_SIZE ? pmd : yield* load(mm.pteOf(addr));
  const frame = pteFrame(entry);
  if (!isPresentPte(entry) || mm.isZeroPage(frame)) return next;
  // Pages that another process has too are left alone, and so are the merged ones and those of files.
  const head = mm.frames.headOf(frame);
  const isShared = mm.frames.hasFlag(frame, PG_KSM | PG_FILE);
  if (isShared || (yield* load(head._refcount)) !== head._mapcount.value) return next;
  const range: NotifierRange = { start: hva(alignDown(addr, bytes)), end: next, event: MMU_NOTIFY_CLEAR };
  yield* notifyStart(mm, range);
  if (mm.frames.folioPages(frame) === bytes / PAGE_SIZE) yield* revokeFrame(mm.frames, frame, "swapped out");
  yield* spinLock(mm.pageTableLock);
  yield* swapOut(mm, range.start, frame, bytes / PAGE_SIZE);
  yield* spinUnlock(mm.pageTableLock);
  yield* notifyEnd(mm, range);
  yield* putPage(mm.frames, frame);
  return next;
}

/** The page's contents go to swap slots, small page by small page, and its entries say where. */
function* swapOut(mm: Mm, start: Hva, frame: Pfn, pages: number): Steps<void> {
  const exclusive = mm.frames.hasFlag(frame, PG_EXCLUSIVE);
  for (let i = 0; i < pages; i++) {
    const slot = mm.frames.allocate(`swap slot of ${(start + i * PAGE_SIZE).toString(16)}`);
    copyRevokedPages(mm.frames, (frame + i) as Pfn, slot);
    yield* store(mm.pteOf(hva(start + i * PAGE_SIZE)), swapPte(slot, exclusive));
  }
  if (pages === ENTRIES) yield* store(mm.pmdOf(start), TABLE_ENTRY);
  mm.frames.countMapping(frame, -1);
}

/** madvise(MADV_POPULATE_READ), madvise(MADV_POPULATE_WRITE) */
export function* madvisePopulate(mm: Mm, start: Hva, end: Hva, write: boolean): Steps<number> {
  for (let addr = start; addr < end; addr = hva(addr + PAGE_SIZE)) {
    yield* readLock(mm.mmapLock);
    const page = yield* followOrFault(mm, addr, write);
    yield* readUnlock(mm.mmapLock);
    if (page === null) return isMapped(mm, start, end) ? -EINVAL : -ENOMEM;
    yield* putPage(mm.frames, page.pfn);
  }
  return 0;
}
