/**
 * Entries of the host's page tables, as this model keeps them.
 *
 *     bits 12..52  frame      bit 11 special: a driver's frame, without a reference
 *                             bit 10 under migration: who faults waits
 *                             bit 9  swapped out: the frame is the swap slot
 *                             bit 8  hidden by mprotect(PROT_NONE)
 *                             bit 7  huge (above the 4K entries)
 *                             bit 1  writable
 *                             bit 0  present
 *
 * An entry of 2M that is present and not huge says that there is a table of 4K entries; in a process without huge pages the tables are always
 * there and such entries stay 0.
 */
import { PAGE_SIZE, type Pfn } from "../../machine/index.ts";

const PTE_PRESENT = 1;
const PTE_WRITABLE = 2;
export const PTE_HUGE = 0x80;
const PTE_PROTNONE = 0x100;
const PTE_SWAP = 0x200;
const PTE_MIGRATION = 0x400;
const PTE_SPECIAL = 0x800;

/** An entry of 2M, or 1G, that points to a table. */
export const TABLE_ENTRY = PTE_PRESENT;

export const ENTRIES = 512;
export const PMD_SIZE = PAGE_SIZE * ENTRIES;
export const PUD_SIZE = PMD_SIZE * ENTRIES;

export const pteFrame = (pte: number): Pfn => Math.floor(pte / PAGE_SIZE) as Pfn;

export const makePte = (frame: Pfn, writable: boolean, huge = false): number =>
  frame * PAGE_SIZE + PTE_PRESENT + (writable ? PTE_WRITABLE : 0) + (huge ? PTE_HUGE : 0);

export const specialPte = (frame: Pfn, writable: boolean): number => makePte(frame, writable) + PTE_SPECIAL;
export const hiddenPte = (frame: Pfn): number => frame * PAGE_SIZE + PTE_PROTNONE;
export const swapPte = (slot: Pfn, exclusive: boolean): number =>
  slot * PAGE_SIZE + PTE_SWAP + (exclusive ? PTE_WRITABLE : 0);

export const migrationPte = (frame: Pfn, writable: boolean): number =>
  frame * PAGE_SIZE + PTE_MIGRATION + (writable ? PTE_WRITABLE : 0);

export const isPresentPte = (pte: number): boolean => (pte & PTE_PRESENT) !== 0;
export const isWritablePte = (pte: number): boolean => (pte & PTE_WRITABLE) !== 0;
export const isHugePte = (pte: number): boolean => (pte & PTE_HUGE) !== 0;
export const isSpecialPte = (pte: number): boolean => (pte & PTE_SPECIAL) !== 0;
export const isHiddenPte = (pte: number): boolean => (pte & PTE_PROTNONE) !== 0;
export const isMigrationPte = (pte: number): boolean => (pte & PTE_MIGRATION) !== 0;
export const isSwapPte = (pte: number): boolean => (pte & PTE_SWAP) !== 0;

/** Present, or hidden by mprotect(PROT_NONE): there is a page behind it. */
export const hasPage = (pte: number): boolean => (pte & (PTE_PRESENT | PTE_PROTNONE)) !== 0;

/** The small frame behind an address that a huge entry of the level maps. */
export const frameInHuge = (entry: number, addr: number, level: number): Pfn =>
  (pteFrame(entry) + (Math.floor(addr / PAGE_SIZE) % ENTRIES ** (level - 1))) as Pfn;

export const alignDown = (addr: number, size: number): number => addr - (addr % size);
export const alignUp = (addr: number, size: number): number => Math.ceil(addr / size) * size;

/** An entry in words, for reports. */
export function pteText(entry: number): string {
  if (entry === 0) return "empty";
  if (entry === TABLE_ENTRY) return "a table";
  const kinds = [
    isPresentPte(entry) ? "present" : "",
    isWritablePte(entry) ? "W" : "",
    isHugePte(entry) ? "huge" : "",
    isHiddenPte(entry) ? "PROT_NONE" : "",
    isSwapPte(entry) ? "swapped out" : "",
    isMigrationPte(entry) ? "under migration" : "",
    isSpecialPte(entry) ? "special" : "",
  ];
  return `frame ${pteFrame(entry).toString(16)}: ${kinds.filter((kind) => kind !== "").join(" ")}`;
}
