/**
 * Memory of a driver in a process: VMAs with VM_PFNMAP, whose entries name frames and hold no reference on them.
 *
 *     remap_pfn_range()            frames in a row: page n of the VMA is frame vm_pgoff + n
 *     vmf_insert_pfn()             any frame at any page: vm_pgoff means nothing
 *     unmap_mapping_range()        the driver takes a page away; the VMA stays
 *
 * The process, and the kernel in its name, may access such memory through the entries, like any other. get_user_pages() refuses it; KVM maps it into the
 * guest by hva_to_pfn_remapped(). Not modelled: what else may be done to such a VMA besides unmapping it.
 */
import { exchange, load, type Steps } from "../../engine/index.ts";
import { type Hva, hva, PAGE_SIZE, type Pfn, PG_LEVEL_4K } from "../../machine/index.ts";
import { readLock, readUnlock, spinLock, spinUnlock } from "../locks.ts";
import { isPresentPte, isSpecialPte, isWritablePte, pteFrame, specialPte } from "./entry.ts";
import type { UserPage } from "./gup.ts";
import type { Mm } from "./mm.ts";
import { MMU_NOTIFY_CLEAR, notifyEnd, notifyStart } from "./notifier.ts";
import { putPage, tryGetPage } from "./page.ts";
import { VM_PFNMAP, vmaAt } from "./vma.ts";

/** A driver's frame is mapped, during set-up. */
export function insertPfn(mm: Mm, addr: Hva, frame: Pfn, writable: boolean): void {
  mm.pteOf(addr).value = specialPte(frame, writable);
  mm.hasPfnMaps = true;
}

/** unmap_mapping_range(), of one page: nobody has it mapped when it returns. The frame is the driver's as before. */
export function* unmapPfn(mm: Mm, addr: Hva): Steps<Pfn | null> {
  const range = { start: addr, end: hva(addr + PAGE_SIZE), event: MMU_NOTIFY_CLEAR };
  yield* notifyStart(mm, range);
  yield* spinLock(mm.pageTableLock);
  const pte = yield* exchange(mm.pteOf(addr), 0);
  yield* spinUnlock(mm.pageTableLock);
  yield* notifyEnd(mm, range);
  return isPresentPte(pte) ? pteFrame(pte) : null;
}

/** follow_pfnmap_start(), as KVM asks: the frame behind an address of such a VMA, without a reference. The driver fills in nothing. */
export function* followPfn(mm: Mm, addr: Hva, write: boolean): Steps<UserPage | null> {
  yield* readLock(mm.mmapLock);
  const vma = vmaAt(mm, addr);
  const isMapped = vma !== null && (vma.vm_flags.value & VM_PFNMAP) !== 0;
  const pte = isMapped ? yield* load(mm.pteOf(addr)) : 0;
  yield* readUnlock(mm.mmapLock);
  if (!isPresentPte(pte) || (write && !isWritablePte(pte))) return null;
  return { pfn: pteFrame(pte), writable: isWritablePte(pte), level: PG_LEVEL_4K };
}

/**
 * The frame behind an address for one access through the process's page tables, with a reference that stands for the TLB entry which the unmapping
 * flushes; null: there is no such entry.
 */
export function* usePfn(mm: Mm, addr: Hva, write: boolean): Steps<Pfn | null> {
  const cell = mm.pteOf(addr);
  const pte = yield* load(cell);
  if (!isPresentPte(pte) || !isSpecialPte(pte) || (write && !isWritablePte(pte))) return null;
  const frame = pteFrame(pte);
  if (!(yield* tryGetPage(mm.frames, frame))) return null;
  if ((yield* load(cell)) === pte) return frame;
  yield* putPage(mm.frames, frame);
  return null;
}
