/**
 * Paging as Intel's manual defines it (SDM volume 3, chapter 4), written from the manual alone: what entries say, and what accesses they allow.
 *
 *     4.1.1   which of the four modes
 *     4.3     32-bit paging: entries of 4 bytes, 10 bits of the address each; pages of 4M with CR4.PSE
 *     4.4     PAE paging: entries of 8 bytes, 9 bits each; four PDPTE registers, loaded by MOV to CR3; pages of 2M
 *     4.5     4-level and 5-level paging; pages of 2M and 1G
 *     4.6     access rights
 *     4.7     error codes
 *
 * The code that KVM and the modelled CPU walk with is src/kvm/guest-walk.ts and src/machine/page-walk.ts. Nothing of it is used here: an oracle that shared
 * their mistakes would not see them.
 */
import type { AccessKind, ControlRegisters } from "../../machine/index.ts";
import type { Word } from "./guest-memory.ts";

/** Physical addresses of the modelled machine: MAXPHYADDR. */
const ADDRESS_BITS = 40;
const PAGE = 4096;

export interface PagingRules {
  /** 0: no paging. */
  readonly levels: 0 | 2 | 3 | 4 | 5;
  readonly entryBytes: 4 | 8;
  readonly nxe: boolean;
  readonly pse: boolean;
  readonly pge: boolean;
  readonly wp: boolean;
  readonly smep: boolean;
  readonly smap: boolean;
}

const bit = (value: number, n: number): boolean => Math.floor(value / 2 ** n) % 2 === 1;

/** SDM 4.1.1, 4.1.3 */
export function rulesOf({ cr0, cr4, efer }: ControlRegisters): PagingRules {
  const pae = bit(cr4, 5);
  const lma = bit(efer, 10);
  const levels = !bit(cr0, 31) ? 0 : !pae ? 2 : !lma ? 3 : bit(cr4, 12) ? 5 : 4;
  return {
    levels,
    entryBytes: levels === 2 ? 4 : 8,
    // 32-bit paging has no execute-disable (4.1.3).
    nxe: bit(efer, 11) && levels !== 2,
    pse: bit(cr4, 4),
    pge: bit(cr4, 7),
    wp: bit(cr0, 16),
    smep: bit(cr4, 20),
    smap: bit(cr4, 21),
  };
}

/** Bytes of address space that an entry of the level stands for. */
export function bytesOfEntry(rules: PagingRules, level: number): number {
  return PAGE * (rules.levels === 2 ? 1024 : 512) ** (level - 1);
}

/** Offset, in its table, of the entry of the level for a linear address. */
export function offsetOfEntry(rules: PagingRules, level: number, gva: number): number {
  const entries = rules.levels === 2 ? 1024 : 512;
  return (Math.floor(gva / bytesOfEntry(rules, level)) % entries) * rules.entryBytes;
}

/** The first table, from CR3. In PAE paging it is not a table of the walk: its four entries are in registers. */
export function firstTable(rules: PagingRules, cr3: number): number {
  const alignment = rules.levels === 3 ? 32 : PAGE;
  return Math.floor((cr3 % 2 ** ADDRESS_BITS) / alignment) * alignment;
}

/** An entry, taken apart. */
export type Entry =
  | { readonly kind: "absent" }
  | { readonly kind: "reserved" }
  | { readonly kind: "table"; readonly address: number; readonly flags: EntryFlags }
  | { readonly kind: "page"; readonly address: number; readonly flags: EntryFlags };

export interface EntryFlags {
  readonly writable: boolean;
  readonly user: boolean;
  readonly executable: boolean;
  readonly accessed: boolean;
  /** Of a page: its D and G. */
  readonly dirty: boolean;
  readonly global: boolean;
}

/** Bits 12 and up of an entry, as an address. */
function addressOf({ lo, hi }: Word): number {
  return (hi % 2 ** (ADDRESS_BITS - 32)) * 2 ** 32 + Math.floor(lo / PAGE) * PAGE;
}

/** @param level of the table that it stands in, 1 for the last */
export function readEntry(rules: PagingRules, level: number, word: Word): Entry {
  if (!bit(word.lo, 0)) return { kind: "absent" };
  // A PDPTE register that is present was checked when it was loaded; it has no rights and no A (4.4.1).
  if (rules.levels === 3 && level === 3) return { kind: "table", address: addressOf(word), flags: NO_FLAGS };
  const isPage = level === 1 || (bit(word.lo, 7) && hasLargePages(rules, level));
  if (isReserved(rules, level, word, isPage)) return { kind: "reserved" };
  const flags: EntryFlags = {
    writable: bit(word.lo, 1),
    user: bit(word.lo, 2),
    executable: !(rules.nxe && bit(word.hi, 31)),
    accessed: bit(word.lo, 5),
    dirty: bit(word.lo, 6),
    global: bit(word.lo, 8),
  };
  if (!isPage) return { kind: "table", address: addressOf(word), flags };
  const bytes = bytesOfEntry(rules, level);
  return { kind: "page", address: Math.floor(addressOf(word) / bytes) * bytes, flags };
}

const NO_FLAGS: EntryFlags = {
  writable: true,
  user: true,
  executable: true,
  accessed: true,
  dirty: false,
  global: false,
};

function hasLargePages(rules: PagingRules, level: number): boolean {
  if (rules.levels === 2) return level === 2 && rules.pse;
  return level === 2 || (level === 3 && rules.levels >= 4);
}

/** Tables 4-4 to 4-20: address bits above MAXPHYADDR, PS where no page can be, the low address bits of a large page, XD without NXE. */
function isReserved(rules: PagingRules, level: number, word: Word, isPage: boolean): boolean {
  if (rules.entryBytes === 4) return false;
  if (Math.floor(word.hi / 2 ** (ADDRESS_BITS - 32)) % 2 ** (52 - ADDRESS_BITS) !== 0) return true;
  if (bit(word.hi, 31) && !rules.nxe) return true;
  if (rules.levels === 3 && Math.floor(word.hi / 2 ** 20) % 2 ** 11 !== 0) return true;
  if (level >= 4 && bit(word.lo, 7)) return true;
  if (!isPage || level === 1) return false;
  // Bit 12 is PAT; from 13 on the address must be a multiple of the size.
  const inPage = (word.lo % bytesOfEntry(rules, level)) - (word.lo % 8192);
  return inPage !== 0;
}

// --- rights ----------------------------------------------------------------------------------------------------------

/** What all entries on the way allow together. */
export interface Rights {
  readonly writable: boolean;
  readonly user: boolean;
  readonly executable: boolean;
}

export interface AccessOf {
  readonly kind: AccessKind;
  readonly user: boolean;
}

/** SDM 4.6.1. EFLAGS.AC is clear. */
export function isAllowed(rules: PagingRules, rights: Rights, { kind, user }: AccessOf): boolean {
  if (user && !rights.user) return false;
  if (!user && rights.user && (kind === "exec" ? rules.smep : rules.smap)) return false;
  if (kind === "write") return rights.writable || (!user && !rules.wp);
  return kind === "read" || rights.executable;
}

/** SDM 4.7, its bits but for P and RSVD: W/R, U/S, I/D. */
export function errorCodeOf(rules: PagingRules, { kind, user }: AccessOf): number {
  const fetch = kind === "exec" && (rules.smep || rules.nxe) ? 16 : 0;
  return (kind === "write" ? 2 : 0) + (user ? 4 : 0) + fetch;
}
