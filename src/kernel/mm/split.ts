/**
 * Splitting a huge page: its entry of 2M becomes a table of 512 small ones, of the same frames.
 *
 * Nothing is taken away from anybody, and yet secondary users are told: they may have mapped it by one entry. Stands for __split_huge_pmd() of
 * 6.12 and 7.2, which tells them even when it finds no huge page under the lock.
 */
import { type Steps, store } from "../../engine/index.ts";
import { type Hva, hva, PAGE_SIZE, type Pfn } from "../../machine/index.ts";
import { spinLock, spinUnlock } from "../locks.ts";
import {
  ENTRIES,
  hiddenPte,
  isHiddenPte,
  isHugePte,
  isWritablePte,
  makePte,
  PMD_SIZE,
  pteFrame,
  TABLE_ENTRY,
} from "./entry.ts";
import type { Mm } from "./mm.ts";
import { MMU_NOTIFY_CLEAR, type NotifierRange, notifyEnd, notifyStart } from "./notifier.ts";
import { addPageReferences, PG_EXCLUSIVE } from "./page.ts";

/** __split_huge_pmd() @param start aligned to 2M */
export function* splitHugePmd(mm: Mm, start: Hva): Steps<void> {
  const range: NotifierRange = { start, end: hva(start + PMD_SIZE), event: MMU_NOTIFY_CLEAR };
  yield* notifyStart(mm, range);
  yield* spinLock(mm.pageTableLock);
  yield* splitHugePmdLocked(mm, start);
  yield* spinUnlock(mm.pageTableLock);
  yield* notifyEnd(mm, range);
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
  for (let i = 0; i < ENTRIES; i++) {
    const small = isZero ? mm.zeroPage : ((frame + i) as Pfn);
    const isHidden = isHiddenPte(huge);
    mm.pteOf(hva(start + i * PAGE_SIZE)).value = isHidden ? hiddenPte(small) : makePte(small, isWritablePte(huge));
    if (exclusive) mm.frames.setFlag(small, PG_EXCLUSIVE, true);
  }
  if (!isZero) {
    yield* addPageReferences(mm.frames, frame, ENTRIES - 1);
    mm.frames.countMapping(frame, ENTRIES - 1);
  }
  yield* store(pmd, TABLE_ENTRY);
}
