/**
 * KSM: equal pages are merged into one, read-only.
 *
 *     first of a pair   write-protected; it becomes the merged page
 *     each other one    write-protected; compared again; its entry replaced by the merged page
 *
 * Both steps are invalidations. A page is considered once its contents have not changed between two rounds. Stands for cmp_and_merge_page(),
 * write_protect_page() and replace_page() of 6.12 and 7.2; smart scanning and the limit on how often a page is shared are left out, and huge pages
 * are passed by.
 */
import { load, type Steps, store } from "../../engine/index.ts";
import { type Hva, hva, PAGE_SIZE, type Pfn } from "../../machine/index.ts";
import { readLock, readUnlock, spinLock, spinUnlock } from "../locks.ts";
import { isPresentPte, isWritablePte, makePte, PMD_SIZE, pteFrame, TABLE_ENTRY } from "./entry.ts";
import { wpPageCopy } from "./fault.ts";
import type { Mm } from "./mm.ts";
import { MMU_NOTIFY_CLEAR, type NotifierRange, notifyEnd, notifyStart } from "./notifier.ts";
import { PG_EXCLUSIVE, PG_FILE, PG_KSM, putPage, revokeFrame, tryGetPage } from "./page.ts";
import { isAnonymous, VM_MERGEABLE, vmaAt, vmasIn } from "./vma.ts";

/** What ksmd remembers from one round to the next: it is one thread's own. */
export class KsmScan {
  /** Contents seen in the last round, as a number, by address. */
  private readonly checksums = new Map<Hva, number>();
  /** Frames that pages were merged into. */
  private readonly stable: Pfn[] = [];

  /** One round over all mergeable mappings. */
  *round(mm: Mm): Steps<void> {
    const unstable: Hva[] = [];
    for (const vma of vmasIn(mm, mm.base, hva(mm.base + mm.pages * PAGE_SIZE))) {
      if ((vma.vm_flags.value & VM_MERGEABLE) === 0 || !isAnonymous(vma)) continue;
      const end = vma.vm_end.value;
      for (let addr = hva(vma.vm_start.value); addr < end; addr = hva(addr + PAGE_SIZE)) {
        if (mm.hugePages && mm.hugeEntryAt(addr) !== null) addr = hva(addr - (addr % PMD_SIZE) + PMD_SIZE - PAGE_SIZE);
        else yield* this.consider(mm, addr, unstable);
      }
    }
  }

  /** cmp_and_merge_page() */
  private *consider(mm: Mm, addr: Hva, unstable: Hva[]): Steps<void> {
    const frame = yield* mergeableFrame(mm, addr);
    if (frame === null) return;
    const merged = this.stable.find((each) => mm.frames.areEqual(each, frame));
    if (merged !== undefined) {
      yield* mergeInto(mm, addr, merged);
      return;
    }
    const checksum = checksumOf(mm, frame);
    if (this.checksums.get(addr) !== checksum) {
      this.checksums.set(addr, checksum);
      return;
    }
    for (const other of unstable) {
      const partner = yield* mergeableFrame(mm, other);
      if (partner === null || !mm.frames.areEqual(partner, frame)) continue;
      if (yield* makeMerged(mm, addr)) {
        this.stable.push(frame);
        yield* mergeInto(mm, other, frame);
      }
      return;
    }
    unstable.push(addr);
  }
}

function checksumOf(mm: Mm, frame: Pfn): number {
  let sum = 0;
  const { world } = mm;
  for (let offset = 0; offset < PAGE_SIZE; offset += 8) {
    sum = (Math.imul(sum, 31) + world.plainRead(frame * PAGE_SIZE + offset, 8)) | 0;
    sum = (Math.imul(sum, 31) + world.heap.high) | 0;
  }
  return sum;
}

/** The anonymous page at an address that is not merged yet; null: none. */
function* mergeableFrame(mm: Mm, addr: Hva): Steps<Pfn | null> {
  const pte = yield* load(mm.pteOf(addr));
  const frame = pteFrame(pte);
  if (!isPresentPte(pte) || mm.isZeroPage(frame)) return null;
  return mm.frames.hasFlag(frame, PG_KSM | PG_FILE) ? null : frame;
}

const rangeOf = (start: Hva): NotifierRange => ({ start, end: hva(start + PAGE_SIZE), event: MMU_NOTIFY_CLEAR });

/** write_protect_page(): false when somebody else holds the page. */
export function* writeProtectPage(mm: Mm, addr: Hva): Steps<boolean> {
  const range = rangeOf(addr);
  yield* notifyStart(mm, range);
  yield* spinLock(mm.pageTableLock);
  const cell = mm.pteOf(addr);
  const pte = yield* load(cell);
  const head = mm.frames.headOf(pteFrame(pte));
  const isAlone = isPresentPte(pte) && (yield* load(head._refcount)) === head._mapcount.value;
  if (isAlone && isWritablePte(pte)) yield* store(cell, makePte(pteFrame(pte), false));
  if (isAlone) mm.frames.setFlag(pteFrame(pte), PG_EXCLUSIVE, false);
  yield* spinUnlock(mm.pageTableLock);
  yield* notifyEnd(mm, range);
  return isAlone;
}

/** try_to_merge_one_page() of a page with itself: it becomes one that others are merged into. */
function* makeMerged(mm: Mm, addr: Hva): Steps<boolean> {
  yield* readLock(mm.mmapLock);
  const done = yield* writeProtectPage(mm, addr);
  if (done) {
    yield* spinLock(mm.pageTableLock);
    mm.frames.setFlag(pteFrame(yield* load(mm.pteOf(addr))), PG_KSM, true);
    yield* spinUnlock(mm.pageTableLock);
  }
  yield* readUnlock(mm.mmapLock);
  return done;
}

/** try_to_merge_with_ksm_page(): write_protect_page(), then replace_page(). */
export function* mergeInto(mm: Mm, addr: Hva, merged: Pfn): Steps<void> {
  yield* readLock(mm.mmapLock);
  if (vmaAt(mm, addr) !== null && (yield* writeProtectPage(mm, addr))) {
    const old = yield* load(mm.pteOf(addr));
    if (mm.frames.areEqual(pteFrame(old), merged)) yield* replacePage(mm, addr, old, merged);
  }
  yield* readUnlock(mm.mmapLock);
}

/** replace_page() */
function* replacePage(mm: Mm, addr: Hva, old: number, merged: Pfn): Steps<void> {
  const range = rangeOf(addr);
  yield* notifyStart(mm, range);
  yield* revokeFrame(mm.frames, pteFrame(old), "merged by KSM");
  yield* spinLock(mm.pageTableLock);
  const isSame = (yield* load(mm.pteOf(addr))) === old;
  if (isSame && (yield* tryGetPage(mm.frames, merged))) {
    mm.frames.countMapping(merged, 1);
    mm.frames.countMapping(pteFrame(old), -1);
    yield* store(mm.pteOf(addr), makePte(merged, false));
  }
  yield* spinUnlock(mm.pageTableLock);
  if (isSame) yield* putPage(mm.frames, pteFrame(old));
  yield* notifyEnd(mm, range);
}

/** unmerge_ksm_pages(): every merged page of the range is copied, as a write would. mmap_lock held. */
export function* unmergePages(mm: Mm, start: Hva, end: Hva): Steps<void> {
  for (let addr = start; addr < end; addr = hva(addr + PAGE_SIZE)) {
    if (mm.hugePages && mm.pmdOf(addr).peek() !== TABLE_ENTRY) continue;
    yield* spinLock(mm.pageTableLock);
    const pte = yield* load(mm.pteOf(addr));
    const vma = vmaAt(mm, addr);
    const isMerged = vma !== null && isPresentPte(pte) && mm.frames.hasFlag(pteFrame(pte), PG_KSM);
    if (isMerged) yield* wpPageCopy(mm, vma, addr, pte);
    else yield* spinUnlock(mm.pageTableLock);
  }
}

/** unmerge_and_remove_all_rmap_items(): what writing 2 to ksm/run does. */
export function* unmergeAll(mm: Mm): Steps<void> {
  yield* readLock(mm.mmapLock);
  for (const vma of vmasIn(mm, mm.base, hva(mm.base + mm.pages * PAGE_SIZE))) {
    if ((vma.vm_flags.value & VM_MERGEABLE) === 0) continue;
    yield* unmergePages(mm, hva(vma.vm_start.value), hva(vma.vm_end.value));
  }
  yield* readUnlock(mm.mmapLock);
}
