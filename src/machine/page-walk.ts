/**
 * The hardware's page walkers: nested page tables (NPT, EPT), the guest's own tables, the two-dimensional walk through both, and the walk of
 * the tables that a hypervisor without nested paging puts in the place of the guest's.
 *
 * A walk reads each entry once, at the moment when it gets there, so another CPU can change the tables under it. Accessed and
 * dirty bits are set by a locked update of the very entry that was read; if it has changed meanwhile the walk starts over. A walk of the
 * guest's tables treats each table entry as a guest-physical access of its own, made as a user write (the table entry may need its A bit
 * set), which is why a page-table page faults as a write even when the guest reads.
 *
 * Modelled: NPT and EPT of 4 and 5 levels (nested-format.ts); guests without paging, with 32-bit, PAE, 4-level and 5-level paging; shadow tables of 3
 * (PAE), 4 and 5 levels. Rights are checked at the end of a walk (U/S, W with CR0.WP, NX, SMEP, SMAP with EFLAGS.AC clear); a violation is
 * the guest's own page fault. PDPTEs are read from memory in every two-dimensional walk, as AMD does. A reserved bit is reported without the
 * present bit, as the emulated CPU of the recordings does.
 */
import {
  Cell,
  compareExchange,
  compareExchangeEntry,
  load,
  loadEntry,
  orU64,
  type Steps,
  sameU64,
  testU64,
  type U64,
  u64,
  type World,
} from "../engine/index.ts";
import { type Gpa, type Gva, type Hpa, PAGE_SIZE, PG_LEVEL_4K, pagesPerLevel, tableIndex } from "./address.ts";
import {
  entryFrame,
  hasPageSize,
  isDirty,
  isExecutable,
  isPresent,
  isUser,
  isWritable,
  PT_ACCESSED_MASK,
  PT_DIRTY_MASK,
} from "./entry.ts";
import { type NestedFormat, NPT_FORMAT } from "./nested-format.ts";
import {
  guestEntryFrame,
  guestEntrySize,
  guestPagesPerEntry,
  guestTableIndex,
  hasAddressReservedBits,
  hasReservedBits,
  isLastGuestEntry,
  type PagingMode,
} from "./paging-mode.ts";

export type AccessKind = "read" | "write" | "exec";

/** Bits of a page-fault error code. */
export const PFERR_PRESENT = 1;
export const PFERR_WRITE = 2;
export const PFERR_USER = 4;
export const PFERR_RSVD = 8;
export const PFERR_FETCH = 16;
/** Nested page faults only: on the guest's final access, or on one of its page-table entries. */
export const PFERR_GUEST_FINAL = 2 ** 32;
export const PFERR_GUEST_PAGE = 2 ** 33;

/** Bits of an EPT violation's exit qualification: a guest-virtual address was being translated; its final access failed, not one to a table. */
const QUALIFICATION_GVA_VALID = 1 << 7;
const QUALIFICATION_GVA_TRANSLATED = 1 << 8;

export interface Translation {
  readonly kind: "translated";
  readonly hpa: Hpa;
  /** Level of the entry that maps it: the smaller one of the two dimensions. */
  readonly level: number;
  readonly writable: boolean;
  readonly executable: boolean;
  /** User mode may use it. */
  readonly user: boolean;
  /** A write need not set a dirty flag any more, in neither dimension. */
  readonly dirty: boolean;
}

/** The nested walk failed: the guest exits with these. */
export interface NestedFault {
  readonly kind: "nested-fault";
  readonly gpa: Gpa;
  /** As NPT reports it; of EPT, what the exit qualification says in the same terms. */
  readonly errorCode: number;
  /** What the exit itself reports: the error code, or the exit qualification; null for an EPT misconfiguration, which says nothing more. */
  readonly reported: number | null;
}

/** The walk of the tables that CR3 leads to failed: a #PF. */
export interface GuestFault {
  readonly kind: "guest-fault";
  readonly gva: Gva;
  readonly errorCode: number;
}

/** A flag would have to be set, and the log of such writes is full: the guest exits, and nothing is set. */
export interface LogFull {
  readonly kind: "pml-full";
}

const LOG_FULL: LogFull = { kind: "pml-full" };

function errorBits(kind: AccessKind): number {
  return kind === "write" ? PFERR_WRITE : kind === "exec" ? PFERR_FETCH : 0;
}

/**
 * Translates a guest-physical address through the nested tables.
 * @param root host-physical address of the root table
 * @param stage PFERR_GUEST_FINAL or PFERR_GUEST_PAGE, which the error code carries
 */
export function* nptWalk(
  world: World,
  root: Hpa,
  addr: Gpa,
  kind: AccessKind,
  stage: number,
  format: NestedFormat = NPT_FORMAT,
): Steps<Translation | NestedFault | LogFull> {
  const frame = Math.floor(addr / PAGE_SIZE);
  for (;;) {
    let table = root as number;
    let readable = true;
    let writable = true;
    let executable = true;
    for (let level: number = format.levels; ; level--) {
      const at = table + 8 * tableIndex(frame, level);
      const entry = yield* loadEntry(world, at);
      if (!format.isPresent(entry)) return nestedFault(format, addr, kind, stage, 0);
      if (hasAddressReservedBits(entry) || format.isMisconfigured(entry))
        return reservedFault(format, addr, kind, stage);
      readable &&= format.isReadable(entry);
      writable &&= format.isWritable(entry);
      executable &&= format.isExecutable(entry);
      const isLeaf = level === PG_LEVEL_4K || hasPageSize(entry);
      const allowed = kind === "write" ? readable && writable : kind === "exec" ? executable : readable;
      if (isLeaf && !allowed) {
        const rights = (readable ? 1 : 0) + (writable ? 2 : 0) + (executable ? 4 : 0);
        return nestedFault(format, addr, kind, stage, rights, true);
      }
      const dirty = kind === "write" || !format.keepsAccessedDirty || testU64(entry, format.dirty);
      const wanted = isLeaf && kind === "write" ? orU64(format.accessed, format.dirty) : format.accessed;
      if (format.pml?.isFull && !sameU64(orU64(entry, wanted), entry)) return LOG_FULL;
      if (!(yield* setAccessedDirty(world, at, entry, wanted))) break;
      if (isLeaf) {
        if (format.pml !== null && kind === "write" && !testU64(entry, format.dirty)) format.pml.entries.push(addr);
        const offset = addr % (PAGE_SIZE * pagesPerLevel(level));
        return {
          kind: "translated",
          hpa: (entryFrame(entry) * PAGE_SIZE + offset) as Hpa,
          level,
          writable,
          executable,
          user: true,
          dirty,
        };
      }
      table = entryFrame(entry) * PAGE_SIZE;
    }
  }
}

/**
 * A violation.
 * @param rights what the entries up to the last one allow: read 1, write 2, execute 4; nothing when one is not present
 * @param denied every entry was present, and one did not allow the access
 */
function nestedFault(
  format: NestedFormat,
  gpa: Gpa,
  kind: AccessKind,
  stage: number,
  rights: number,
  denied = false,
): NestedFault {
  const isPresentError = format.kind === "npt" ? denied : rights !== 0;
  const errorCode = stage + (isPresentError ? PFERR_PRESENT : 0) + PFERR_USER + errorBits(kind);
  if (format.kind === "npt") return { kind: "nested-fault", gpa, errorCode, reported: errorCode };
  // An access to a guest page-table entry is a read, even where it counts as a write.
  const isTable = stage === PFERR_GUEST_PAGE;
  const access = (kind === "read" || isTable ? 1 : 0) + (kind === "write" ? 2 : 0) + (kind === "exec" ? 4 : 0);
  const reported = access + rights * 8 + QUALIFICATION_GVA_VALID + (isTable ? 0 : QUALIFICATION_GVA_TRANSLATED);
  const read = (access & 1) !== 0 ? PFERR_USER : 0;
  return { kind: "nested-fault", gpa, errorCode: errorCode - PFERR_USER + read, reported };
}

/** NPT on this machine reports a reserved bit without the present bit; EPT calls it a misconfiguration. */
function reservedFault(format: NestedFormat, gpa: Gpa, kind: AccessKind, stage: number): NestedFault {
  if (format.kind === "ept") return { kind: "nested-fault", gpa, errorCode: PFERR_RSVD, reported: null };
  const errorCode = stage + PFERR_RSVD + PFERR_USER + errorBits(kind);
  return { kind: "nested-fault", gpa, errorCode, reported: errorCode };
}

/** Sets the bits in the entry that was read; false when the entry is no longer the same. */
function* setAccessedDirty(world: World, at: number, entry: U64, wanted: U64): Steps<boolean> {
  if ((entry.lo & wanted.lo) === wanted.lo && (entry.hi & wanted.hi) === wanted.hi) return true;
  return sameU64(yield* compareExchangeEntry(world, at, entry, orU64(entry, wanted)), entry);
}

// --- rights ----------------------------------------------------------------------------------------------------------

/** What the entries on the way allow, all together: a bit each. */
const RIGHT_TO_WRITE = 1;
const RIGHT_TO_EXECUTE = 2;
/** User mode may use it. */
const RIGHT_OF_USER = 4;
const ALL_RIGHTS = RIGHT_TO_WRITE | RIGHT_TO_EXECUTE | RIGHT_OF_USER;

function narrowed(rights: number, entry: U64, nx: boolean): number {
  let left = rights;
  if (!isWritable(entry)) left &= ~RIGHT_TO_WRITE;
  if (nx && !isExecutable(entry)) left &= ~RIGHT_TO_EXECUTE;
  if (!isUser(entry)) left &= ~RIGHT_OF_USER;
  return left;
}

function isAllowed(rights: number, right: number): boolean {
  return (rights & right) !== 0;
}

/** Bits that the walk sets in a leaf through which it writes. */
const ACCESSED_AND_DIRTY = orU64(PT_ACCESSED_MASK, PT_DIRTY_MASK);

/** Who accesses, and what protects the supervisor from itself. */
export interface Accessor {
  readonly kind: AccessKind;
  /** CPL 3. */
  readonly user: boolean;
  readonly wp: boolean;
  readonly smep: boolean;
  readonly smap: boolean;
}

function isDenied(rights: number, { kind, user, wp, smep, smap }: Accessor): boolean {
  if (kind === "write" && !isAllowed(rights, RIGHT_TO_WRITE) && (user || wp)) return true;
  if (kind === "exec" && !isAllowed(rights, RIGHT_TO_EXECUTE)) return true;
  if (user) return !isAllowed(rights, RIGHT_OF_USER);
  return isAllowed(rights, RIGHT_OF_USER) && (kind === "exec" ? smep : smap);
}

// --- the guest's own tables ------------------------------------------------------------------------------------------

/** Translates a guest-virtual address through the guest's tables and the nested ones. */
export function* guestWalk(
  world: World,
  root: Hpa,
  mode: PagingMode,
  addr: Gva,
  kind: AccessKind,
  user: boolean,
  format: NestedFormat = NPT_FORMAT,
): Steps<Translation | NestedFault | GuestFault | LogFull> {
  if (!mode.paging) return yield* nptWalk(world, root, addr as number as Gpa, kind, PFERR_GUEST_FINAL, format);
  const tableAccess = format.keepsAccessedDirty ? "write" : "read";
  const accessor: Accessor = { kind, user, wp: mode.wp, smep: mode.smep, smap: mode.smap };
  const userBit = user ? PFERR_USER : 0;
  const fetch = mode.nx || mode.smep ? PFERR_FETCH : 0;
  const error = userBit + (kind === "exec" ? fetch : errorBits(kind));
  const fault = (extra: number): GuestFault => ({ kind: "guest-fault", gva: addr, errorCode: error + extra });
  const size = guestEntrySize(mode);
  const page = Math.floor(addr / PAGE_SIZE);
  for (;;) {
    let table = mode.cr3 - (mode.cr3 % (mode.levels === 3 ? 32 : PAGE_SIZE));
    let rights = ALL_RIGHTS;
    for (let level: number = mode.levels; ; level--) {
      const at = (table + size * guestTableIndex(mode, page, level)) as Gpa;
      const place = yield* nptWalk(world, root, at, tableAccess, PFERR_GUEST_PAGE, format);
      if (place.kind !== "translated") return place;
      const entry = yield* readGuestEntry(world, place.hpa, size);
      if (!isPresent(entry)) return fault(0);
      if (hasReservedBits(mode, entry, level)) return fault(PFERR_RSVD);
      const isPdpte = mode.levels === 3 && level === 3;
      if (!isPdpte) rights = narrowed(rights, entry, mode.nx);
      const isLeaf = isLastGuestEntry(mode, entry, level);
      if (isLeaf && isDenied(rights, accessor)) return fault(PFERR_PRESENT);
      const wanted = isLeaf && kind === "write" ? ACCESSED_AND_DIRTY : PT_ACCESSED_MASK;
      if (!isPdpte && !place.writable && !sameU64(orU64(entry, wanted), entry)) {
        // Only now does the walk want to write to the table.
        const denied = yield* nptWalk(world, root, at, "write", PFERR_GUEST_PAGE, format);
        if (denied.kind !== "translated") return denied;
      }
      if (!isPdpte && !(yield* setGuestAccessedDirty(world, place.hpa, size, entry, wanted))) break;
      if (isLeaf) {
        const offset = addr % (PAGE_SIZE * guestPagesPerEntry(mode, level));
        const final = (guestEntryFrame(mode, entry, level) * PAGE_SIZE + offset) as Gpa;
        const nested = yield* nptWalk(world, root, final, kind, PFERR_GUEST_FINAL, format);
        if (nested.kind !== "translated") return nested;
        return {
          ...nested,
          level: Math.min(level, nested.level),
          writable: nested.writable && (isAllowed(rights, RIGHT_TO_WRITE) || (!mode.wp && !user)),
          executable: isAllowed(rights, RIGHT_TO_EXECUTE) && nested.executable,
          user: isAllowed(rights, RIGHT_OF_USER),
          dirty: nested.dirty && (kind === "write" || isDirty(entry)),
        };
      }
      table = guestEntryFrame(mode, entry, level) * PAGE_SIZE;
    }
  }
}

function* readGuestEntry(world: World, at: Hpa, size: 4 | 8): Steps<U64> {
  if (size === 8) return yield* loadEntry(world, at);
  return u64(0, yield* load(new Cell<number>(world, at, 4, false)));
}

function* setGuestAccessedDirty(world: World, at: Hpa, size: 4 | 8, entry: U64, wanted: U64): Steps<boolean> {
  if (size === 8) return yield* setAccessedDirty(world, at, entry, wanted);
  const old = entry.lo >>> 0;
  const updated = orU64(entry, wanted).lo >>> 0;
  if (updated === old) return true;
  return (yield* compareExchange(new Cell<number>(world, at, 4, false), old, updated)) === old;
}

// --- shadow tables ---------------------------------------------------------------------------------------------------

/** The tables that CR3 really leads to while the guest believes in its own: 3 levels (PAE), 4 or 5, entries of 8 bytes. */
export interface ShadowRoot {
  readonly hpa: Hpa;
  readonly levels: 3 | 4 | 5;
}

function guestFault(gva: Gva, errorCode: number): GuestFault {
  return { kind: "guest-fault", gva, errorCode };
}

/**
 * Translates a guest-virtual address in one dimension. WP and NX are on, whatever the guest has: the hypervisor emulates both.
 * @param mode of the guest: SMEP and SMAP are its own
 */
export function* shadowWalk(
  world: World,
  root: ShadowRoot,
  mode: PagingMode,
  addr: Gva,
  kind: AccessKind,
  user: boolean,
): Steps<Translation | GuestFault> {
  const accessor: Accessor = { kind, user, wp: true, smep: mode.smep, smap: mode.smap };
  const error = errorBits(kind) + (user ? PFERR_USER : 0);
  const frame = Math.floor(addr / PAGE_SIZE);
  for (;;) {
    let table = root.hpa as number;
    let rights = ALL_RIGHTS;
    for (let level: number = root.levels; ; level--) {
      const isPdpte = root.levels === 3 && level === 3;
      const index = isPdpte ? tableIndex(frame, 3) & 3 : tableIndex(frame, level);
      const at = table + 8 * index;
      const entry = yield* loadEntry(world, at);
      if (!isPresent(entry)) return guestFault(addr, error);
      if (hasAddressReservedBits(entry)) return guestFault(addr, error + PFERR_RSVD);
      if (!isPdpte) rights = narrowed(rights, entry, true);
      const isLeaf = level === PG_LEVEL_4K || (!isPdpte && hasPageSize(entry));
      if (isLeaf && isDenied(rights, accessor)) return guestFault(addr, error + PFERR_PRESENT);
      const wanted = isLeaf && kind === "write" ? ACCESSED_AND_DIRTY : PT_ACCESSED_MASK;
      if (!isPdpte && !(yield* setAccessedDirty(world, at, entry, wanted))) break;
      if (isLeaf) {
        const offset = addr & (PAGE_SIZE * pagesPerLevel(level) - 1);
        return {
          kind: "translated",
          hpa: (entryFrame(entry) * PAGE_SIZE + offset) as Hpa,
          level,
          writable: isAllowed(rights, RIGHT_TO_WRITE),
          executable: isAllowed(rights, RIGHT_TO_EXECUTE),
          user: isAllowed(rights, RIGHT_OF_USER),
          dirty: kind === "write" || isDirty(entry),
        };
      }
      table = entryFrame(entry) * PAGE_SIZE;
    }
  }
}
