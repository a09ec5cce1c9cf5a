/**
 * mremap(MREMAP_MAYMOVE | MREMAP_FIXED): the pages of a range go to another place, and the old one is unmapped.
 *
 * What was mapped at the new place goes first. Huge pages move whole where both places are aligned to 2M, and are split before otherwise.
 * Stands for move_vma() and move_page_tables() of 6.12 and 7.2.
 */
import { exchange, load, type Steps, store } from "../../engine/index.ts";
import { type Hva, hva, PAGE_SIZE } from "../../machine/index.ts";
import { spinLock, spinUnlock, writeLock, writeUnlock } from "../locks.ts";
import { hasPage, isHugePte, PMD_SIZE, pteFrame, TABLE_ENTRY } from "./entry.ts";
import type { Mm } from "./mm.ts";
import { MMU_NOTIFY_UNMAP, type NotifierRange, notifyEnd, notifyStart } from "./notifier.ts";
import { allowFrame } from "./page.ts";
import { splitHugePmd } from "./split.ts";
import { insertVma, mergeNeighbours, vmaAt } from "./vma.ts";
import { EINVAL, revokeRange, unmapRange } from "./zap.ts";

/** @returns 0 or -errno */
export function* mremap(mm: Mm, from: Hva, bytes: number, to: Hva): Steps<number> {
  yield* writeLock(mm.mmapLock);
  const rc = yield* moveLocked(mm, from, bytes, to);
  yield* writeUnlock(mm.mmapLock);
  return rc;
}

function* moveLocked(mm: Mm, from: Hva, bytes: number, to: Hva): Steps<number> {
  const vma = vmaAt(mm, from);
  const overlaps = from < to + bytes && to < from + bytes;
  if (overlaps || vma === null || vma.vm_end.value < from + bytes) return -EINVAL;
  yield* unmapRange(mm, to, hva(to + bytes), "mremap()");
  const moved = insertVma(mm, {
    start: to,
    end: hva(to + bytes),
    prot: vma.vm_prot.value,
    flags: vma.vm_flags.value,
    file: vma.vm_file.value,
    pgoff: vma.vm_pgoff.value + (from - vma.vm_start.value) / PAGE_SIZE,
  });
  moved.anon_vma.value = vma.anon_vma.value;
  const range: NotifierRange = { start: from, end: hva(from + bytes), event: MMU_NOTIFY_UNMAP };
  yield* notifyStart(mm, range);
  yield* revokeRange(mm, range, "mremap()");
  for (let offset = 0; offset < bytes; )
    offset += yield* moveEntry(mm, hva(from + offset), hva(to + offset), bytes - offset);
  yield* notifyEnd(mm, range);
  yield* unmapRange(mm, from, hva(from + bytes), "mremap()");
  mergeNeighbours(mm, to, hva(to + bytes));
  return 0;
}

/** Moves one entry; returns the bytes that it mapped. */
function* moveEntry(mm: Mm, from: Hva, to: Hva, left: number): Steps<number> {
  if (mm.hugePages) {
    const entry = yield* load(mm.pmdOf(from));
    const isAligned = from % PMD_SIZE === 0 && to % PMD_SIZE === 0 && left >= PMD_SIZE;
    if (isHugePte(entry) && isAligned) {
      yield* spinLock(mm.pageTableLock);
      const moved = yield* exchange(mm.pmdOf(from), 0);
      yield* store(mm.pmdOf(to), moved);
      mm.notePageTables(to);
      yield* spinUnlock(mm.pageTableLock);
      if (!mm.isZeroPage(pteFrame(moved))) yield* allowFrame(mm.frames, pteFrame(moved));
      return PMD_SIZE;
    }
    if (isHugePte(entry)) yield* splitHugePmd(mm, hva(from - (from % PMD_SIZE)));
    else if (entry === 0) return Math.min(left, PMD_SIZE - (from % PMD_SIZE));
  }
  yield* spinLock(mm.pageTableLock);
  const pte = yield* exchange(mm.pteOf(from), 0);
  if (pte !== 0) {
    if (mm.hugePages && mm.pmdOf(to).value === 0) yield* store(mm.pmdOf(to), TABLE_ENTRY);
    yield* store(mm.pteOf(to), pte);
    mm.notePageTables(to);
  }
  yield* spinUnlock(mm.pageTableLock);
  const isAlone = hasPage(pte) && mm.frames.folioPages(pteFrame(pte)) === 1;
  if (isAlone && !mm.isZeroPage(pteFrame(pte))) yield* allowFrame(mm.frames, pteFrame(pte));
  return PAGE_SIZE;
}
