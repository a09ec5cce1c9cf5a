/**
 * KSM: equal pages are merged into one, read-only.
 *
 *     first of a pair   write-protected; it becomes the merged page
 *     each other one    write-protected; compared again; its entry replaced by the merged page
 *
 * Both steps are invalidations. A page is considered once its contents have not changed between two rounds. A huge page is looked at in small
 * pages, and split when one of them is to be merged. Stands for cmp_and_merge_page(), write_protect_page() and replace_page() of 6.12 and 7.2;
 * smart scanning and the limit on how often a page is shared are left out.
 */
import { assert, load, type Steps, store } from "../../engine/index.ts";
import { type Hva, hva, PAGE_SIZE, type Pfn } from "../../machine/index.ts";
import { readLock, readUnlock, spinLock, spinUnlock } from "../locks.ts";
import { frameInHuge, isPresentPte, isWritablePte, makePte, pteFrame, TABLE_ENTRY } from "./entry.ts";
import { wpPageCopy } from "./fault.ts";
import type { Mm } from "./mm.ts";
import { MMU_NOTIFY_CLEAR, type NotifierRange, notifyEnd, notifyStart } from "./notifier.ts";
import { arePagesEqual, checksumOf, PG_EXCLUSIVE, PG_FILE, PG_KSM, putPage, revokeFrame, tryGetPage } from "./page.ts";
import { splitHugePage } from "./split.ts";
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
        yield* this.consider(mm, addr, unstable);
      }
    }
  }

  /** cmp_and_merge_page() */
  private *consider(mm: Mm, addr: Hva, unstable: Hva[]): Steps<void> {
    const frame = yield* mergeableFrame(mm, addr);
    if (frame === null) return;
    for (const merged of [...this.stable]) {
      if (!(yield* this.holdStable(mm, merged))) continue;
      const isEqual = yield* arePagesEqual(mm.frames, merged, frame);
      if (isEqual) yield* mergeInto(mm, addr, merged);
      yield* putPage(mm.frames, merged);
      if (isEqual) return;
    }
    const checksum = yield* checksumOf(mm.frames, frame);
    if (this.checksums.get(addr) !== checksum) {
      this.checksums.set(addr, checksum);
      return;
    }
    for (const other of unstable) {
      const partner = yield* mergeableFrame(mm, other);
      if (partner === null || !(yield* arePagesEqual(mm.frames, partner, frame))) continue;
      const made = yield* makeMerged(mm, addr);
      if (made !== null) {
        this.stable.push(made);
        if (!(yield* this.holdStable(mm, made))) return;
        yield* mergeInto(mm, other, made);
        yield* putPage(mm.frames, made);
      }
      return;
    }
    unstable.push(addr);
  }

  /** ksm_get_folio(): a reference to a merged page; false when the last who had it is gone, and the frame may be something else by now. */
  private *holdStable(mm: Mm, merged: Pfn): Steps<boolean> {
    if (yield* tryGetPage(mm.frames, merged)) {
      if (mm.frames.hasFlag(merged, PG_KSM)) return true;
      yield* putPage(mm.frames, merged);
    }
    this.stable.splice(this.stable.indexOf(merged), 1);
    return false;
  }
}

/** The anonymous page at an address that is not merged yet; null: none. */
function* mergeableFrame(mm: Mm, addr: Hva): Steps<Pfn | null> {
  yield* spinLock(mm.pageTableLock);
  const huge = mm.hugeEntryAt(addr);
  const pte = huge === null ? yield* load(mm.pteOf(addr)) : huge.entry;
  const frame = huge === null ? pteFrame(pte) : frameInHuge(pte, addr, huge.level);
  const isOne = isPresentPte(pte) && !mm.isZeroPage(frame) && !mm.frames.hasFlag(frame, PG_KSM | PG_FILE);
  yield* spinUnlock(mm.pageTableLock);
  return isOne ? frame : null;
}

const rangeOf = (start: Hva): NotifierRange => ({ start, end: hva(start + PAGE_SIZE), event: MMU_NOTIFY_CLEAR });

/**
 * write_protect_page(): the entry as it is then, which must still be there when it is replaced; null when somebody else holds the page.
 * @param held a frame that the caller has a reference to; it may count together with this one, as parts of what was a huge page do
 */
export function* writeProtectPage(mm: Mm, addr: Hva, held: Pfn | null = null): Steps<number | null> {
  const range = rangeOf(addr);
  yield* notifyStart(mm, range);
  yield* spinLock(mm.pageTableLock);
  const cell = mm.pteOf(addr);
  const pte = yield* load(cell);
  const head = isPresentPte(pte) ? mm.frames.headOf(pteFrame(pte)) : null;
  const own = head !== null && held !== null && mm.frames.headOf(held).addr === head.addr ? 1 : 0;
  const isAlone = head !== null && (yield* load(head._refcount)) === head._mapcount.value + own;
  if (isAlone && isWritablePte(pte)) yield* store(cell, makePte(pteFrame(pte), false));
  if (isAlone) mm.frames.setFlag(pteFrame(pte), PG_EXCLUSIVE, false);
  yield* spinUnlock(mm.pageTableLock);
  yield* notifyEnd(mm, range);
  return isAlone ? makePte(pteFrame(pte), false) : null;
}

/** try_to_merge_one_page() of a page with itself: it becomes one that others are merged into. Null: somebody else holds it. */
export function* makeMerged(mm: Mm, addr: Hva): Steps<Pfn | null> {
  assert(mm.sharedPages, "KSM needs an mm with sharedPages");
  yield* readLock(mm.mmapLock);
  const pte = (yield* splitHugePage(mm, addr)) ? yield* writeProtectPage(mm, addr) : null;
  let merged: Pfn | null = null;
  if (pte !== null) {
    yield* spinLock(mm.pageTableLock);
    if ((yield* load(mm.pteOf(addr))) === pte) {
      merged = pteFrame(pte);
      mm.frames.setFlag(merged, PG_KSM, true);
    }
    yield* spinUnlock(mm.pageTableLock);
  }
  yield* readUnlock(mm.mmapLock);
  return merged;
}

/** try_to_merge_with_ksm_page(): write_protect_page(), then replace_page(). The caller has a reference to the merged page. */
export function* mergeInto(mm: Mm, addr: Hva, merged: Pfn): Steps<void> {
  yield* readLock(mm.mmapLock);
  const isPossible = vmaAt(mm, addr) !== null && (yield* splitHugePage(mm, addr));
  const old = isPossible ? yield* writeProtectPage(mm, addr, merged) : null;
  if (old !== null && (yield* arePagesEqual(mm.frames, pteFrame(old), merged)))
    yield* replacePage(mm, addr, old, merged);
  yield* readUnlock(mm.mmapLock);
}

/** replace_page() */
function* replacePage(mm: Mm, addr: Hva, old: number, merged: Pfn): Steps<void> {
  const range = rangeOf(addr);
  yield* notifyStart(mm, range);
  yield* spinLock(mm.pageTableLock);
  const isSame = (yield* load(mm.pteOf(addr))) === old;
  if (isSame) {
    // Others of what was a huge page stay mapped, and share its life.
    if (mm.frames.headOf(pteFrame(old))._mapcount.value === 1)
      yield* revokeFrame(mm.frames, pteFrame(old), "merged by KSM");
    // The caller holds the merged page.
    yield* tryGetPage(mm.frames, merged);
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
    yield* spinLock(mm.pageTableLock);
    const hasTable = !mm.hugePages || mm.pmdOf(addr).value === TABLE_ENTRY;
    const pte = hasTable ? yield* load(mm.pteOf(addr)) : 0;
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
