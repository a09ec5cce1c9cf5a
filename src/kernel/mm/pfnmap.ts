/**
 * Memory of a driver in a process: VMAs with VM_PFNMAP, whose entries name frames and hold no reference on them.
 *
 *     remap_pfn_range()            frames in a row: page n of the VMA is frame vm_pgoff + n
 *     vmf_insert_pfn()             any frame at any page: vm_pgoff means nothing
 *     unmap_mapping_range()        the driver takes a page away; the VMA stays
 *
 * The process, and the kernel in its name, may access such memory through the entries, like any other. get_user_pages() refuses it. Not modelled: that KVM
 * maps it into the guest (hva_to_pfn_remapped()), and what else may be done to such a VMA besides unmapping it.
 */
import { exchange, load, type Steps } from "../../engine/index.ts";
import { type Hva, hva, PAGE_SIZE, type Pfn } from "../../machine/index.ts";
import { spinLock, spinUnlock } from "../locks.ts";
import { isPresentPte, isSpecialPte, isWritablePte, pteFrame, specialPte } from "./entry.ts";
import type { Mm } from "./mm.ts";
import { MMU_NOTIFY_CLEAR, notifyEnd, notifyStart } from "./notifier.ts";
import { putPage, tryGetPage } from "./page.ts";

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
