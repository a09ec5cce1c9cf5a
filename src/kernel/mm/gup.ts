/**
 * get_user_pages as KVM uses it: the page behind an address of the VMM, with a reference, and whether it may be written.
 *
 *     hva_to_pfn
 *       1  fast, no lock          asks for a writable page even when the guest only reads: then the next write needs no fault
 *       2  under mmap_lock        asks for what the guest does; brings the page in, or copies it (fault.ts)
 *       3  fast again             after a read: is it writable after all?
 *
 * Stands for hva_to_pfn_fast() and hva_to_pfn_slow() with what they call, of 6.12 and 7.2.
 */
import { awaitUntil, type Cell, load, type Steps, store } from "../../engine/index.ts";
import type { Hva, Pfn } from "../../machine/index.ts";
import { readLock, readUnlock, spinLock, spinUnlock } from "../locks.ts";
import {
  frameInHuge,
  isHugePte,
  isMigrationPte,
  isPresentPte,
  isSpecialPte,
  isWritablePte,
  makePte,
  pteFrame,
} from "./entry.ts";
import { doHugeWpPage, fillEntry, mayReuse, wpPageCopy } from "./fault.ts";
import type { Mm } from "./mm.ts";
import { putPage, tryGetPage } from "./page.ts";
import { PROT_READ, PROT_WRITE, VM_PFNMAP, type Vma, vmaAt } from "./vma.ts";

/** What get_user_pages found. */
export interface UserPage {
  readonly pfn: Pfn;
  readonly writable: boolean;
  /** Level of the host's mapping: 1 for 4K, 2 for 2M, 3 for 1G. */
  readonly level: number;
}

/**
 * get_user_pages_fast_only(): looks at the page tables with interrupts off and no lock. The frame may be unmapped and freed at any moment,
 * so a reference is taken only if there is one left, and the entry is read again afterwards.
 */
export function* getUserPageFast(mm: Mm, addr: Hva, write: boolean): Steps<UserPage | null> {
  if (mm.gigantic) {
    const pud = mm.pudOf(addr);
    const entry = yield* load(pud);
    if (isHugePte(entry)) return yield* grabHuge(mm, pud, entry, { addr, level: 3, write });
  }
  const index = mm.indexOf(addr);
  const pmd = mm.pmdAbove(index);
  const entry = yield* load(pmd);
  if (isHugePte(entry)) return yield* grabHuge(mm, pmd, entry, { addr, level: 2, write });
  const cell = mm.pteAt(index);
  const pte = yield* load(cell);
  if (!isPresentPte(pte) || isSpecialPte(pte) || (write && !isWritablePte(pte))) return null;
  return yield* grabStable(mm, cell, pte, pteFrame(pte), 1);
}

function* grabHuge(
  mm: Mm,
  cell: Cell,
  entry: number,
  { addr, level, write }: { readonly addr: Hva; readonly level: number; readonly write: boolean },
): Steps<UserPage | null> {
  if (!isPresentPte(entry) || (write && !isWritablePte(entry))) return null;
  return yield* grabStable(mm, cell, entry, frameInHuge(entry, addr, level), level);
}

function* grabStable(mm: Mm, cell: Cell, entry: number, frame: Pfn, level: number): Steps<UserPage | null> {
  if (!(yield* tryGetPage(mm.frames, frame))) return null;
  if ((yield* load(cell)) !== entry) {
    yield* putPage(mm.frames, frame);
    return null;
  }
  return { pfn: frame, writable: isWritablePte(entry), level };
}

/** host_pfn_mapping_level(): the level of the host's own mapping, looked at without a lock; a hint, checked by the caller's sequence number. */
export function* hostMappingLevel(mm: Mm, addr: Hva): Steps<number> {
  if (mm.policy !== null) yield* mm.policy.beforeLevel(addr);
  if (mm.gigantic && isHugePte(yield* load(mm.pudOf(addr)))) return 3;
  return isHugePte(yield* load(mm.pmdOf(addr))) ? 2 : 1;
}

/** hva_to_pfn(): brings the page in if need be. Null when the address is not mapped that way. */
export function* getUserPage(mm: Mm, addr: Hva, write: boolean): Steps<UserPage | null> {
  mm.world.clock?.spend("look up a host page");
  if (mm.policy !== null) yield* mm.policy.beforeLookup(addr, write);
  // Whoever follows a recording has put the very entry there that the guest was given.
  const fast = yield* getUserPageFast(mm, addr, write || mm.policy === null);
  if (fast !== null) return fast;
  yield* readLock(mm.mmapLock);
  const page = yield* followOrFault(mm, addr, write);
  yield* readUnlock(mm.mmapLock);
  if (page === null || write) return page;
  const writable = yield* getUserPageFast(mm, addr, true);
  if (writable === null) return { ...page, writable: false };
  yield* putPage(mm.frames, page.pfn);
  return writable;
}

/** get_user_pages_unlocked(), under mmap_lock; also what an access by the VMM itself amounts to. Null: no access there. */
export function* followOrFault(mm: Mm, addr: Hva, write: boolean): Steps<UserPage | null> {
  const vma = vmaAt(mm, addr);
  if (vma !== null && (vma.vm_flags.value & VM_PFNMAP) !== 0) return null;
  if (vma === null || (vma.vm_prot.value & (write ? PROT_WRITE : PROT_READ)) === 0) return null;
  for (;;) {
    yield* spinLock(mm.pageTableLock);
    const huge = mm.hugeEntryAt(addr);
    if (huge === null) {
      const page = yield* followSmall(mm, vma, addr, write);
      if (page !== null) return page;
    } else if (!write || isWritablePte(huge.entry)) {
      const frame = frameInHuge(huge.entry, addr, huge.level);
      yield* tryGetPage(mm.frames, frame);
      yield* spinUnlock(mm.pageTableLock);
      return { pfn: frame, writable: isWritablePte(huge.entry), level: huge.level };
    } else {
      yield* doHugeWpPage(mm, vma, addr, huge);
    }
  }
}

const isSettled = (pte: number): boolean => !isMigrationPte(pte);

/** handle_pte_fault() and follow_page_pte(). The page-table lock is held, and dropped; null: look again. */
function* followSmall(mm: Mm, vma: Vma, addr: Hva, write: boolean): Steps<UserPage | null> {
  const cell = mm.pteOf(addr);
  let pte = yield* load(cell);
  if (isMigrationPte(pte)) {
    yield* spinUnlock(mm.pageTableLock);
    yield* awaitUntil(cell, isSettled, "migration_entry_wait()");
    return null;
  }
  if (!isPresentPte(pte)) {
    pte = yield* fillEntry(mm, vma, addr, write, pte);
    if (isHugePte(pte)) {
      yield* spinUnlock(mm.pageTableLock);
      return null;
    }
  }
  const frame = pteFrame(pte);
  if (write && !isWritablePte(pte)) {
    if (!(yield* mayReuse(mm, vma, frame))) {
      yield* wpPageCopy(mm, vma, addr, pte);
      return null;
    }
    pte = makePte(frame, true);
    yield* store(cell, pte);
  }
  yield* tryGetPage(mm.frames, frame);
  yield* spinUnlock(mm.pageTableLock);
  return { pfn: frame, writable: isWritablePte(pte), level: 1 };
}
