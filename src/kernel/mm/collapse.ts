/**
 * madvise(MADV_COLLAPSE): 512 small pages become one huge page.
 *
 *     mmap_lock for write      nobody faults
 *     start(); entries cleared; end()
 *     copy; the huge entry set; the small frames freed
 *
 * The invalidation ends before the copy: secondary users that fault now wait for mmap_lock. A small page that somebody else holds makes it give up, and
 * the entries come back. Stands for collapse_huge_page() of 6.12 and 7.2, for anonymous memory; khugepaged, which does the same by itself, does not run.
 */
import { exchange, load, type Steps, store } from "../../engine/index.ts";
import { type Hva, hva, PAGE_SIZE, type Pfn } from "../../machine/index.ts";
import { spinLock, spinUnlock, writeLock, writeUnlock } from "../locks.ts";
import {
  alignDown,
  alignUp,
  ENTRIES,
  isHugePte,
  isPresentPte,
  isSwapPte,
  makePte,
  PMD_SIZE,
  pteFrame,
  TABLE_ENTRY,
} from "./entry.ts";
import type { Mm } from "./mm.ts";
import { MMU_NOTIFY_CLEAR, type NotifierRange, notifyEnd, notifyStart } from "./notifier.ts";
import { allowFrame, copyRevokedPages, PG_EXCLUSIVE, PG_KSM, putPage } from "./page.ts";
import { isAnonymous, PROT_WRITE, VM_NOHUGEPAGE, vmaAt } from "./vma.ts";
import { EINVAL, revokeRange } from "./zap.ts";

/** @returns 0 or -errno */
export function* madviseCollapse(mm: Mm, start: Hva, end: Hva): Steps<number> {
  let rc = 0;
  for (let addr = alignUp(start, PMD_SIZE); addr + PMD_SIZE <= end; addr += PMD_SIZE) {
    yield* writeLock(mm.mmapLock);
    if (!(yield* collapseHugePage(mm, hva(addr)))) rc = -EINVAL;
    yield* writeUnlock(mm.mmapLock);
  }
  return alignUp(start, PMD_SIZE) < alignDown(end, PMD_SIZE) ? rc : -EINVAL;
}

/** collapse_huge_page(): true when there is a huge page now. */
function* collapseHugePage(mm: Mm, start: Hva): Steps<boolean> {
  const vma = vmaAt(mm, start);
  const isPossible = vma !== null && isAnonymous(vma) && (vma.vm_flags.value & VM_NOHUGEPAGE) === 0;
  if (!isPossible || start < vma.vm_start.value || start + PMD_SIZE > vma.vm_end.value) return false;
  const pmd = yield* load(mm.pmdOf(start));
  if (isHugePte(pmd)) return true;
  if (pmd === 0 || vma.anon_vma.value === 0) return false;
  const fresh = mm.frames.allocate(`frame@${start.toString(16)}`, ENTRIES);
  const range: NotifierRange = { start, end: hva(start + PMD_SIZE), event: MMU_NOTIFY_CLEAR };
  yield* notifyStart(mm, range);
  yield* revokeRange(mm, range, "madvise(MADV_COLLAPSE)");
  yield* spinLock(mm.pageTableLock);
  const small: number[] = [];
  for (let i = 0; i < ENTRIES; i++) small.push(yield* exchange(mm.pteOf(hva(start + i * PAGE_SIZE)), 0));
  yield* spinUnlock(mm.pageTableLock);
  yield* notifyEnd(mm, range);
  if (!(yield* areAlone(mm, small))) {
    yield* putBack(mm, start, small);
    yield* putPage(mm.frames, fresh);
    return false;
  }
  const freed: Pfn[] = [];
  for (const [i, pte] of small.entries()) {
    const frame = pteFrame(pte);
    if (pte === 0 || mm.isZeroPage(frame)) continue;
    copyRevokedPages(mm.frames, frame, (fresh + i) as Pfn);
    if (!isSwapPte(pte)) freed.push(frame);
  }
  yield* spinLock(mm.pageTableLock);
  for (const frame of freed) mm.frames.countMapping(frame, -1);
  mm.frames.setFlag(fresh, PG_EXCLUSIVE, true);
  mm.frames.countMapping(fresh, 1);
  yield* store(mm.pmdOf(start), makePte(fresh, (vma.vm_prot.value & PROT_WRITE) !== 0, true));
  yield* spinUnlock(mm.pageTableLock);
  for (const frame of freed) yield* putPage(mm.frames, frame);
  return true;
}

/** __collapse_huge_page_isolate(): nobody but the process's own mappings holds the pages. */
function* areAlone(mm: Mm, small: readonly number[]): Steps<boolean> {
  for (const pte of small) {
    const frame = pteFrame(pte);
    if (!isPresentPte(pte) || mm.isZeroPage(frame) || mm.frames.hasFlag(frame, PG_KSM)) continue;
    const head = mm.frames.headOf(frame);
    if ((yield* load(head._refcount)) !== head._mapcount.value) return false;
  }
  return true;
}

function* putBack(mm: Mm, start: Hva, small: readonly number[]): Steps<void> {
  yield* spinLock(mm.pageTableLock);
  for (const [i, pte] of small.entries()) {
    if (pte === 0) continue;
    yield* store(mm.pteOf(hva(start + i * PAGE_SIZE)), pte);
    const isAlone = isPresentPte(pte) && mm.frames.folioPages(pteFrame(pte)) === 1;
    if (isAlone && !mm.isZeroPage(pteFrame(pte))) yield* allowFrame(mm.frames, pteFrame(pte));
  }
  yield* store(mm.pmdOf(start), TABLE_ENTRY);
  yield* spinUnlock(mm.pageTableLock);
}
