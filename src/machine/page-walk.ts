/**
 * The hardware's page walkers: nested page tables (NPT), the guest's own tables, and the two-dimensional walk through both.
 *
 * A walk reads each entry once, at the moment when it gets there, so another CPU can change the tables under it. Accessed and
 * dirty bits are set by a locked update of the very entry that was read; if it has changed meanwhile the walk starts over. A walk of the
 * guest's tables treats each table entry as a guest-physical access of its own, made as a user write (the table entry may need its A bit
 * set), which is why a page-table page faults as a write even when the guest reads.
 *
 * Modelled: 4-level NPT; a guest without paging; 4-level guest paging with 4K, 2M and 1G pages. Guest permissions (U/S, W with CR0.WP, NX)
 * are checked; a violation is the guest's own page fault.
 */
import { Cell, compareExchange, load, orU64, type Steps, sameU64, type U64, type World } from "../engine/index.ts";
import { type Gpa, type Gva, type Hpa, PAGE_SIZE, PG_LEVEL_4K, pagesPerLevel, tableIndex } from "./address.ts";
import {
  entryFrame,
  hasPageSize,
  hasReservedBits,
  isExecutable,
  isPresent,
  isUser,
  isWritable,
  PT_ACCESSED_MASK,
  PT_DIRTY_MASK,
} from "./entry.ts";

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

export interface Translation {
  readonly kind: "translated";
  readonly hpa: Hpa;
  /** Level of the entry that maps it: the smaller one of the two dimensions. */
  readonly level: number;
  readonly writable: boolean;
  readonly executable: boolean;
}

/** The nested walk failed: the guest exits with these. */
export interface NestedFault {
  readonly kind: "nested-fault";
  readonly gpa: Gpa;
  readonly errorCode: number;
}

/** The guest's own walk failed: it gets a #PF. */
export interface GuestFault {
  readonly kind: "guest-fault";
  readonly gva: Gva;
  readonly errorCode: number;
}

/** The registers that decide how a guest address is translated. */
export interface PagingMode {
  /** CR0.PG: false means that guest-virtual is guest-physical. */
  readonly paging: boolean;
  readonly cr3: Gpa;
  readonly wp: boolean;
  readonly nx: boolean;
}

export const NPT_ROOT_LEVEL = 4;

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
): Steps<Translation | NestedFault> {
  const frame = Math.floor(addr / PAGE_SIZE);
  for (;;) {
    let table = root as number;
    let writable = true;
    let executable = true;
    for (let level = NPT_ROOT_LEVEL; ; level--) {
      const cell = new Cell<U64>(world, table + 8 * tableIndex(frame, level), 8, true);
      const entry = yield* load(cell);
      if (!isPresent(entry)) {
        return { kind: "nested-fault", gpa: addr, errorCode: stage + PFERR_USER + errorBits(kind) };
      }
      // This machine reports a reserved bit without the present bit.
      if (hasReservedBits(entry)) {
        return { kind: "nested-fault", gpa: addr, errorCode: stage + PFERR_RSVD + PFERR_USER + errorBits(kind) };
      }
      writable &&= isWritable(entry);
      executable &&= isExecutable(entry);
      const isLeaf = level === PG_LEVEL_4K || hasPageSize(entry);
      const denied = !isUser(entry) || (kind === "write" && !writable) || (kind === "exec" && !executable);
      if (isLeaf && denied) {
        return { kind: "nested-fault", gpa: addr, errorCode: stage + PFERR_PRESENT + PFERR_USER + errorBits(kind) };
      }
      const wanted = isLeaf && kind === "write" ? orU64(PT_ACCESSED_MASK, PT_DIRTY_MASK) : PT_ACCESSED_MASK;
      if (!(yield* setAccessedDirty(cell, entry, wanted))) break;
      if (isLeaf) {
        const offset = addr % (PAGE_SIZE * pagesPerLevel(level));
        return {
          kind: "translated",
          hpa: (entryFrame(entry) * PAGE_SIZE + offset) as Hpa,
          level,
          writable,
          executable,
        };
      }
      table = entryFrame(entry) * PAGE_SIZE;
    }
  }
}

/** Sets the bits in the entry that was read; false when the entry is no longer the same. */
function* setAccessedDirty(cell: Cell<U64>, entry: U64, wanted: U64): Steps<boolean> {
  const updated = orU64(entry, wanted);
  if (sameU64(updated, entry)) return true;
  return sameU64(yield* compareExchange(cell, entry, updated), entry);
}

/** Translates a guest-virtual address through the guest's tables and the nested ones. */
export function* guestWalk(
  world: World,
  root: Hpa,
  mode: PagingMode,
  addr: Gva,
  kind: AccessKind,
  user: boolean,
): Steps<Translation | NestedFault | GuestFault> {
  if (!mode.paging) return yield* nptWalk(world, root, addr as number as Gpa, kind, PFERR_GUEST_FINAL);
  const frame = Math.floor(addr / PAGE_SIZE);
  for (;;) {
    let table = mode.cr3 as number;
    let writable = true;
    let executable = true;
    let userOk = true;
    for (let level = 4; ; level--) {
      const place = yield* nptWalk(
        world,
        root,
        (table + 8 * tableIndex(frame, level)) as Gpa,
        "write",
        PFERR_GUEST_PAGE,
      );
      if (place.kind === "nested-fault") return place;
      const cell = new Cell<U64>(world, place.hpa, 8, true);
      const entry = yield* load(cell);
      const userBit = user ? PFERR_USER : 0;
      if (!isPresent(entry)) return { kind: "guest-fault", gva: addr, errorCode: userBit + errorBits(kind) };
      writable &&= isWritable(entry);
      executable &&= isExecutable(entry) || !mode.nx;
      userOk &&= isUser(entry);
      const isLeaf = level === PG_LEVEL_4K || (level < 4 && hasPageSize(entry));
      if (isLeaf) {
        const writeDenied = kind === "write" && !writable && (user || mode.wp);
        if (writeDenied || (kind === "exec" && !executable) || (user && !userOk)) {
          return { kind: "guest-fault", gva: addr, errorCode: PFERR_PRESENT + userBit + errorBits(kind) };
        }
      }
      const wanted = isLeaf && kind === "write" ? orU64(PT_ACCESSED_MASK, PT_DIRTY_MASK) : PT_ACCESSED_MASK;
      if (!(yield* setAccessedDirty(cell, entry, wanted))) break;
      if (isLeaf) {
        const offset = addr % (PAGE_SIZE * pagesPerLevel(level));
        const final = (entryFrame(entry) * PAGE_SIZE + offset) as Gpa;
        const nested = yield* nptWalk(world, root, final, kind, PFERR_GUEST_FINAL);
        if (nested.kind === "nested-fault") return nested;
        return { ...nested, level: Math.min(level, nested.level), writable: writable && nested.writable };
      }
      table = entryFrame(entry) * PAGE_SIZE;
    }
  }
}
