/**
 * How the guest's paging works at the moment: what its control registers say.
 *
 *     CR0.PG  CR4.PAE  EFER.LMA  CR4.LA57      levels of tables, bytes of an entry
 *       0        -         -        -          none: guest-virtual is guest-physical
 *       1        0         0        -          2, 4        (pages of 4K, and 4M with CR4.PSE)
 *       1        1         0        -          3, 8        (the third level is four entries, the PDPTEs: no A, W, U)
 *       1        1         1        0          4, 8
 *       1        1         1        1          5, 8
 *
 * A value of this type is immutable; a MOV to a control register makes another one.
 */
import type { U64 } from "../engine/index.ts";
import { type Gpa, type Pfn, PG_LEVEL_1G, PG_LEVEL_2M, PG_LEVEL_4K, pagesPerLevel, tableIndex } from "./address.ts";
import { entryFrame, hasPageSize, isPresent, PT64_NX_MASK } from "./entry.ts";

/** The control registers that paging depends on. */
export interface ControlRegisters {
  readonly cr0: number;
  readonly cr3: number;
  readonly cr4: number;
  readonly efer: number;
}

/** The same, and what follows from them. */
export interface PagingMode extends ControlRegisters {
  readonly cr3: Gpa;
  /** CR0.PG: false means that guest-virtual is guest-physical. */
  readonly paging: boolean;
  /** CR0.WP: the supervisor, too, needs W to write. */
  readonly wp: boolean;
  /** EFER.NXE: bit 63 of an entry forbids execution. */
  readonly nx: boolean;
  /** Levels of the guest's tables; without meaning when there is no paging. */
  readonly levels: 2 | 3 | 4 | 5;
  /** EFER.LMA: code of 64 bits. */
  readonly longMode: boolean;
  readonly pae: boolean;
  /** Bytes of one entry of the tables. */
  readonly entrySize: 4 | 8;
  readonly pse: boolean;
  readonly pge: boolean;
  readonly pcide: boolean;
  readonly smep: boolean;
  readonly smap: boolean;
}

export const X86_CR0_WP = 1 << 16;
export const X86_CR0_PG = 0x8000_0000;
export const X86_CR4_PSE = 1 << 4;
export const X86_CR4_PAE = 1 << 5;
export const X86_CR4_PGE = 1 << 7;
export const X86_CR4_LA57 = 1 << 12;
export const X86_CR4_PCIDE = 1 << 17;
export const X86_CR4_SMEP = 1 << 20;
export const X86_CR4_SMAP = 1 << 21;
export const X86_CR4_PKE = 1 << 22;
const EFER_LMA = 1 << 10;
const EFER_NX = 1 << 11;

export function pagingModeOf({ cr0, cr3, cr4, efer }: ControlRegisters): PagingMode {
  const pae = (cr4 & X86_CR4_PAE) !== 0;
  const longMode = (efer & EFER_LMA) !== 0;
  const la57 = (cr4 & X86_CR4_LA57) !== 0;
  return {
    cr0,
    cr3: cr3 as Gpa,
    cr4,
    efer,
    paging: (cr0 & X86_CR0_PG) !== 0,
    wp: (cr0 & X86_CR0_WP) !== 0,
    nx: (efer & EFER_NX) !== 0,
    levels: longMode ? (la57 ? 5 : 4) : pae ? 3 : 2,
    longMode,
    pae,
    entrySize: pae || longMode ? 8 : 4,
    pse: (cr4 & X86_CR4_PSE) !== 0,
    pge: (cr4 & X86_CR4_PGE) !== 0,
    pcide: (cr4 & X86_CR4_PCIDE) !== 0,
    smep: (cr4 & X86_CR4_SMEP) !== 0,
    smap: (cr4 & X86_CR4_SMAP) !== 0,
  };
}

/** Protected mode without paging. */
export const NO_PAGING: PagingMode = pagingModeOf({ cr0: 0x11 | X86_CR0_WP, cr3: 0, cr4: 0, efer: EFER_NX });

/** Bits of a physical address: those above are reserved in every entry. As on the machine of the recordings. */
export const PHYSICAL_ADDRESS_BITS = 40;

/** Bytes of one entry of the guest's tables. */
export function guestEntrySize(mode: PagingMode): 4 | 8 {
  return mode.entrySize;
}

/** 4K frames that an entry of the level maps or leads to. */
export function guestPagesPerEntry(mode: PagingMode, level: number): number {
  if (mode.entrySize === 8) return pagesPerLevel(level);
  return level === PG_LEVEL_4K ? 1 : 1024;
}

/** Index into a table of the level, for the number of a page of the address space. */
export function guestTableIndex(mode: PagingMode, page: number, level: number): number {
  if (mode.entrySize === 8) return isPdpteOf(mode, level) ? tableIndex(page, level) & 3 : tableIndex(page, level);
  return (level === PG_LEVEL_4K ? page : page >>> 10) & 1023;
}

/** Whether an entry of that level maps a page and does not lead to a table. */
export function isLastGuestEntry(mode: PagingMode, entry: U64, level: number): boolean {
  if (level === PG_LEVEL_4K) return true;
  if (!hasPageSize(entry)) return false;
  if (level === PG_LEVEL_2M) return mode.levels > 2 || mode.pse;
  return level === PG_LEVEL_1G && mode.levels >= 4;
}

/** The first frame of the page that an entry maps; bits that are not part of its address are left out. */
export function guestEntryFrame(mode: PagingMode, entry: U64, level: number): Pfn {
  const frame = entryFrame(entry);
  if (!isLastGuestEntry(mode, entry, level)) return frame;
  return (level === PG_LEVEL_4K ? frame : frame - (frame % guestPagesPerEntry(mode, level))) as Pfn;
}

const HIGH_ADDRESS_BITS = 0x000f_ffff & ~(2 ** (PHYSICAL_ADDRESS_BITS - 32) - 1);

/** Whether a present entry has a bit set that must be clear. */
export function hasReservedBits(mode: PagingMode, entry: U64, level: number): boolean {
  if (guestEntrySize(mode) === 4) return false;
  return (entry.lo & reservedLow(mode, entry, level)) !== 0 || (entry.hi & reservedHigh(mode, level)) !== 0;
}

function isPdpteOf(mode: PagingMode, level: number): boolean {
  return mode.levels === 3 && level === 3;
}

function reservedLow(mode: PagingMode, entry: U64, level: number): number {
  if (isPdpteOf(mode, level)) return 0x1e6;
  if (level >= 4) return 0x80;
  if (level === PG_LEVEL_4K || !hasPageSize(entry)) return 0;
  return level === PG_LEVEL_1G ? 0x3fff_e000 : 0x001f_e000;
}

function reservedHigh(mode: PagingMode, level: number): number {
  if (isPdpteOf(mode, level)) return 0xfff0_0000 | HIGH_ADDRESS_BITS;
  // In PAE paging, bits that long mode leaves to software are reserved.
  return (mode.nx ? 0 : PT64_NX_MASK.hi) | HIGH_ADDRESS_BITS | (mode.levels === 3 ? 0x7ff0_0000 : 0);
}

/** Whether an entry that the walk of KVM's own tables meets has a bit above the physical addresses. */
export function hasAddressReservedBits(entry: U64): boolean {
  return isPresent(entry) && (entry.hi & HIGH_ADDRESS_BITS) !== 0;
}
