/**
 * mprotect(): other rights for part of a mapping.
 *
 * PROT_NONE takes the pages away from secondary users and keeps them in their entries; other protections give them (back). When writing is
 * allowed again, an entry becomes writable at once only if its page is this process's alone, else at the next write.
 * Stands for mprotect_fixup() and change_protection() of 6.12 and 7.2.
 */
import { load, type Steps, store } from "../../engine/index.ts";
import { type Hva, hva, PAGE_SIZE, type Pfn } from "../../machine/index.ts";
import { spinLock, spinUnlock, writeLock, writeUnlock } from "../locks.ts";
import {
  alignDown,
  hasPage,
  hiddenPte,
  isHiddenPte,
  makePte,
  PMD_SIZE,
  PTE_HUGE,
  PUD_SIZE,
  pteFrame,
} from "./entry.ts";
import type { Mm } from "./mm.ts";
import { MMU_NOTIFY_PROTECTION_VMA, type NotifierRange, notifyEnd, notifyStart } from "./notifier.ts";
import { allowFrame, PG_EXCLUSIVE, PG_FILE, PG_KSM } from "./page.ts";
import { isHugetlb, isMapped, modifyVma, PROT_NONE, PROT_WRITE, VM_SHARED, vmasIn } from "./vma.ts";
import { ENOMEM, revokeRange } from "./zap.ts";

/** @returns 0 or -errno */
export function* mprotect(mm: Mm, start: Hva, end: Hva, prot: number): Steps<number> {
  yield* writeLock(mm.mmapLock);
  const rc = isMapped(mm, start, end) ? 0 : -ENOMEM;
  for (const vma of rc === 0 ? vmasIn(mm, start, end) : []) {
    if (vma.vm_prot.value === prot) continue;
    const from = hva(Math.max(start, vma.vm_start.value));
    const to = hva(Math.min(end, vma.vm_end.value));
    const isShared = (vma.vm_flags.value & VM_SHARED) !== 0;
    const announce = isHugetlb(vma) || mm.hasPageTables(from) || mm.hasPageTables(hva(to - 1));
    yield* modifyVma(mm, vma, { start: from, end: to }, { prot });
    if (announce) yield* changeProtection(mm, from, to, { prot, isShared });
  }
  yield* writeUnlock(mm.mmapLock);
  return rc;
}

interface Rights {
  readonly prot: number;
  readonly isShared: boolean;
}

function* changeProtection(mm: Mm, start: Hva, end: Hva, rights: Rights): Steps<void> {
  const range: NotifierRange = { start, end, event: MMU_NOTIFY_PROTECTION_VMA };
  yield* notifyStart(mm, range);
  if (rights.prot === PROT_NONE) yield* revokeRange(mm, range, "mprotect(PROT_NONE)");
  yield* spinLock(mm.pageTableLock);
  for (let addr = start; addr < end; ) addr = yield* protectPage(mm, addr, rights);
  yield* spinUnlock(mm.pageTableLock);
  yield* notifyEnd(mm, range);
}

/** Frames of pages that mprotect(PROT_NONE) hides stay in their entries, as in Linux; only the present bit goes. Returns where the next begins. */
function* protectPage(mm: Mm, addr: Hva, rights: Rights): Steps<Hva> {
  const place = entryAt(mm, addr);
  const next = hva(alignDown(addr, place.bytes) + place.bytes);
  if (place.cell === null) return next;
  const old = yield* load(place.cell);
  const frame = pteFrame(old);
  if (!hasPage(old)) return next;
  const isHuge = place.bytes > PAGE_SIZE;
  // What may be written or executed may be read as well, on x86.
  const readable = rights.prot !== PROT_NONE;
  const writable = (rights.prot & PROT_WRITE) !== 0 && canChangeWritable(mm, frame, rights);
  yield* store(place.cell, readable ? makePte(frame, writable, isHuge) : hiddenPte(frame) + (isHuge ? PTE_HUGE : 0));
  const isAlone = isHuge || mm.frames.folioPages(frame) === 1;
  if (readable && isHiddenPte(old) && isAlone && !mm.isZeroPage(frame)) yield* allowFrame(mm.frames, frame);
  return next;
}

/** can_change_pte_writable() */
function canChangeWritable(mm: Mm, frame: Pfn, { isShared }: Rights): boolean {
  if (isShared) return true;
  return mm.frames.hasFlag(frame, PG_EXCLUSIVE) && !mm.frames.hasFlag(frame, PG_KSM | PG_FILE);
}

/** The entry that maps an address, huge or small; none where the table of small ones is missing. Page-table lock held. */
function entryAt(mm: Mm, addr: Hva): { readonly cell: ReturnType<Mm["pteOf"]> | null; readonly bytes: number } {
  if (mm.gigantic && hasHuge(mm.pudOf(addr).value)) return { cell: mm.pudOf(addr), bytes: PUD_SIZE };
  if (!mm.hugePages) return { cell: mm.pteOf(addr), bytes: PAGE_SIZE };
  const pmd = mm.pmdOf(addr);
  if (hasHuge(pmd.value)) return { cell: pmd, bytes: PMD_SIZE };
  return pmd.value === 0 ? { cell: null, bytes: PMD_SIZE } : { cell: mm.pteOf(addr), bytes: PAGE_SIZE };
}

/** Present or hidden: a huge page that PROT_NONE hides is still one. */
const hasHuge = (entry: number): boolean => (entry & PTE_HUGE) !== 0;
