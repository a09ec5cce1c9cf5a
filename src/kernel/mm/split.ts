/**
 * Splitting a huge page: its entry of 2M becomes a table of 512 small ones, of the same frames; and what was one page becomes 512 that each go their
 * own way.
 *
 * Nothing is taken away from anybody, and yet secondary users are told: they may have mapped it by one entry. Stands for __split_huge_pmd() of
 * 6.12 and 7.2, which tells them even when it finds no huge page under the lock, and for split_huge_page(), which tells them of all of the page once
 * more (try_to_migrate_one()).
 */
import { load, type Steps, store } from "../../engine/index.ts";
import { type Hva, hva, PAGE_SIZE, type Pfn } from "../../machine/index.ts";
import { spinLock, spinUnlock } from "../locks.ts";
import {
  alignDown,
  ENTRIES,
  hiddenPte,
  isHiddenPte,
  isHugePte,
  isPresentPte,
  isWritablePte,
  makePte,
  PMD_SIZE,
  pteFrame,
  TABLE_ENTRY,
} from "./entry.ts";
import type { Mm } from "./mm.ts";
import { MMU_NOTIFY_CLEAR, type NotifierRange, notifyEnd, notifyStart } from "./notifier.ts";
import { addPageReferences, allowFrame, PG_EXCLUSIVE, PG_SPLIT } from "./page.ts";
import { vmaAt } from "./vma.ts";

/** __split_huge_pmd() @param start aligned to 2M */
export function* splitHugePmd(mm: Mm, start: Hva): Steps<void> {
  const range: NotifierRange = { start, end: hva(start + PMD_SIZE), event: MMU_NOTIFY_CLEAR };
  yield* notifyStart(mm, range);
  yield* spinLock(mm.pageTableLock);
  yield* splitHugePmdLocked(mm, start);
  yield* spinUnlock(mm.pageTableLock);
  yield* notifyEnd(mm, range);
}

/**
 * split_huge_page(), of the page around an address: from now on its parts may become different things. While it lasts its entries say "under
 * migration", so a page that somebody else holds besides stays whole. They keep one count of references together.
 * @returns whether the page at the address is one of its own now. mmap_lock held.
 */
export function* splitHugePage(mm: Mm, addr: Hva): Steps<boolean> {
  if (!mm.hugePages) return true;
  const { frames } = mm;
  const found = yield* folioAt(mm, addr);
  if (found === null) return true;
  const { frame, isHuge } = found;
  const head = frames.headOf(frame);
  if ((yield* load(head._refcount)) !== head._mapcount.value) return false;
  const first = hva(alignDown(addr, PMD_SIZE));
  if (isHuge) yield* splitHugePmd(mm, first);
  const vma = vmaAt(mm, addr);
  const start = hva(Math.max(first, vma?.vm_start.value ?? first));
  const end = hva(Math.min(first + PMD_SIZE, vma?.vm_end.value ?? first));
  const range: NotifierRange = { start, end, event: MMU_NOTIFY_CLEAR };
  yield* notifyStart(mm, range);
  yield* spinLock(mm.pageTableLock);
  // Entries under migration are told apart from these by nobody but who faults meanwhile, and that one would wait for the page-table lock as well.
  frames.setFlag(frames.folioStart(frame), PG_SPLIT, true);
  yield* spinUnlock(mm.pageTableLock);
  yield* notifyEnd(mm, range);
  return true;
}

/** The page at an address, if it is part of one that is still whole. */
function* folioAt(mm: Mm, addr: Hva): Steps<{ readonly frame: Pfn; readonly isHuge: boolean } | null> {
  yield* spinLock(mm.pageTableLock);
  const huge = mm.hugeEntryAt(addr);
  const entry = huge === null ? yield* load(mm.pteOf(addr)) : huge.entry;
  const frame = pteFrame(entry);
  const isWhole =
    isPresentPte(entry) &&
    !mm.isZeroPage(frame) &&
    mm.frames.folioPages(frame) > 1 &&
    !mm.frames.hasFlag(mm.frames.folioStart(frame), PG_SPLIT);
  yield* spinUnlock(mm.pageTableLock);
  return isWhole ? { frame, isHuge: huge !== null } : null;
}

/** __split_huge_pmd_locked(). The table is filled before it is linked, so nobody sees it half filled. */
function* splitHugePmdLocked(mm: Mm, start: Hva): Steps<void> {
  if (!mm.hugePages) return;
  const pmd = mm.pmdOf(start);
  const huge = pmd.value;
  if (!isHugePte(huge)) return;
  const frame = pteFrame(huge);
  const isZero = frame === mm.hugeZeroPage;
  const exclusive = !isZero && mm.frames.hasFlag(frame, PG_EXCLUSIVE);
  const isHidden = isHiddenPte(huge);
  for (let i = 0; i < ENTRIES; i++) {
    const small = isZero ? mm.zeroPage : ((frame + i) as Pfn);
    mm.pteOf(hva(start + i * PAGE_SIZE)).value = isHidden ? hiddenPte(small) : makePte(small, isWritablePte(huge));
    if (exclusive) mm.frames.setFlag(small, PG_EXCLUSIVE, true);
  }
  if (!isZero) {
    yield* addPageReferences(mm.frames, frame, ENTRIES - 1);
    mm.frames.countMapping(frame, ENTRIES - 1);
  }
  yield* store(pmd, TABLE_ENTRY);
  // A huge page that PROT_NONE hides was taken away as a whole. From here on its parts may be given back one by one.
  if (isHidden && !isZero) yield* allowFrame(mm.frames, frame);
}
