/**
 * What the entries of nested page tables mean to the hardware: AMD's NPT, Intel's EPT with accessed and dirty flags, EPT without.
 *
 *            present        R        W        X          A, D       an access to a guest page-table entry is
 *     NPT    bit 0          bit 0    bit 1    not 63     5, 6       a write by the user
 *     EPT    R, W or X      bit 0    bit 1    bit 2      8, 9       a write with A/D flags, a read without them
 *
 * EPT entries that allow writes but no reads are misconfigured. Bit 7 says that an entry above the lowest level is a leaf, in both.
 */
import { bitU64, type U64, U64_ZERO } from "../engine/index.ts";
import type { Gpa } from "./address.ts";
import { isExecutable, isPresent, isUser, isWritable, PT_ACCESSED_MASK, PT_DIRTY_MASK } from "./entry.ts";

/** Entries of the log. */
export const PML_LOG_NR_ENTRIES = 512;

/**
 * A CPU's page-modification log: addresses whose dirty flag a write has set, and nobody has taken yet, oldest first. When it is full, the CPU leaves the guest
 * instead of setting an accessed or dirty flag.
 */
export class PageModificationLog {
  readonly entries: Gpa[] = [];

  /** The index is past the last entry. */
  get isFull(): boolean {
    return this.entries.length === PML_LOG_NR_ENTRIES;
  }

  /** Everything that was logged, oldest first; the index is at the first entry again. */
  take(): Gpa[] {
    return this.entries.splice(0);
  }
}

export interface NestedFormat {
  readonly kind: "npt" | "ept";
  /** Levels of a walk: NPT has as many as the host's own tables, EPT what the EPTP says. */
  readonly levels: 4 | 5;
  /** The hardware keeps accessed and dirty flags; where it does not, any translation may be used to write. */
  readonly keepsAccessedDirty: boolean;
  readonly accessed: U64;
  readonly dirty: U64;
  /** Page-modification logging; null where that is off. */
  readonly pml: PageModificationLog | null;
  isPresent(entry: U64): boolean;
  isMisconfigured(entry: U64): boolean;
  isReadable(entry: U64): boolean;
  isWritable(entry: U64): boolean;
  isExecutable(entry: U64): boolean;
}

export const NPT_FORMAT: NestedFormat = {
  kind: "npt",
  levels: 4,
  keepsAccessedDirty: true,
  accessed: PT_ACCESSED_MASK,
  dirty: PT_DIRTY_MASK,
  pml: null,
  isPresent,
  isMisconfigured: () => false,
  // Nested walks are made with the user's rights.
  isReadable: isUser,
  isWritable,
  isExecutable,
};

export const EPT_FORMAT: NestedFormat = {
  kind: "ept",
  levels: 4,
  keepsAccessedDirty: true,
  accessed: bitU64(8),
  dirty: bitU64(9),
  pml: null,
  isPresent: (entry) => (entry.lo & 7) !== 0,
  isMisconfigured: (entry) => (entry.lo & 3) === 2,
  isReadable: (entry) => (entry.lo & 1) !== 0,
  isWritable,
  isExecutable: (entry) => (entry.lo & 4) !== 0,
};

export const EPT_NO_AD_FORMAT: NestedFormat = {
  ...EPT_FORMAT,
  keepsAccessedDirty: false,
  accessed: U64_ZERO,
  dirty: U64_ZERO,
};
