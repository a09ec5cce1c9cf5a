/**
 * fork() and the child's exit, as the parent sees them.
 *
 * The child shares every anonymous page: the parent's entries lose their write access, under an invalidation for each mapping that has such pages, and
 * the next write copies. The child itself does nothing; it is the references that it holds. Stands for dup_mmap(), copy_page_range() and
 * copy_hugetlb_page_range() of 6.12 and 7.2.
 */
import { load, type Steps, store } from "../../engine/index.ts";
import { type Hva, hva, PAGE_SIZE, type Pfn } from "../../machine/index.ts";
import { spinLock, spinUnlock, writeLock, writeUnlock } from "../locks.ts";
import { isPresentPte, makePte, PMD_SIZE, PUD_SIZE, pteFrame } from "./entry.ts";
import type { Mm } from "./mm.ts";
import {
  MMU_NOTIFY_CLEAR,
  MMU_NOTIFY_PROTECTION_PAGE,
  type NotifierRange,
  notifyEnd,
  notifyStart,
} from "./notifier.ts";
import { PG_EXCLUSIVE, putPage, tryGetPage } from "./page.ts";
import { isHugetlb, VM_DONTFORK, VM_SHARED, VM_WIPEONFORK, vmasIn } from "./vma.ts";

/** A child: the pages that it has in common with its parent. */
export interface Child {
  readonly frames: readonly Pfn[];
}

/** dup_mmap() */
export function* fork(mm: Mm): Steps<Child> {
  const frames: Pfn[] = [];
  yield* writeLock(mm.mmapLock);
  for (const vma of vmasIn(mm, mm.base, hva(mm.base + mm.pages * PAGE_SIZE))) {
    const isCopied = (vma.vm_flags.value & (VM_SHARED | VM_DONTFORK | VM_WIPEONFORK)) === 0;
    if (!isCopied || vma.anon_vma.value === 0) continue;
    const event = isHugetlb(vma) ? MMU_NOTIFY_CLEAR : MMU_NOTIFY_PROTECTION_PAGE;
    const range: NotifierRange = { start: hva(vma.vm_start.value), end: hva(vma.vm_end.value), event };
    yield* notifyStart(mm, range);
    yield* spinLock(mm.pageTableLock);
    for (let addr = range.start; addr < range.end; ) addr = yield* shareEntry(mm, addr, frames);
    yield* spinUnlock(mm.pageTableLock);
    yield* notifyEnd(mm, range);
  }
  yield* writeUnlock(mm.mmapLock);
  return { frames };
}

/** copy_present_pte(), copy_huge_pmd(): the entry is write-protected, its page shared. Returns where the next one begins. */
function* shareEntry(mm: Mm, addr: Hva, frames: Pfn[]): Steps<Hva> {
  const huge = mm.hugeEntryAt(addr);
  const bytes = huge === null ? PAGE_SIZE : huge.level === 3 ? PUD_SIZE : PMD_SIZE;
  const next = hva(addr - (addr % bytes) + bytes);
  if (huge === null && mm.hugePages && mm.pmdOf(addr).value === 0) return hva(addr - (addr % PMD_SIZE) + PMD_SIZE);
  const cell = huge?.cell ?? mm.pteOf(addr);
  const entry = yield* load(cell);
  if (!isPresentPte(entry)) return next;
  const frame = pteFrame(entry);
  yield* store(cell, makePte(frame, false, huge !== null));
  if (mm.isZeroPage(frame)) return next;
  mm.frames.setFlag(frame, PG_EXCLUSIVE, false);
  yield* tryGetPage(mm.frames, frame);
  frames.push(frame);
  return next;
}

/** exit_mmap() of the child: it lets go of everything. */
export function* exitChild(mm: Mm, child: Child): Steps<void> {
  for (const frame of child.frames) yield* putPage(mm.frames, frame);
}
