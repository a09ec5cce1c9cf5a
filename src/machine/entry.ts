/**
 * Page-table entries as the hardware reads them.
 *
 * Legacy (and so NPT) layout:
 *
 *      63   62        52 51             12 11   9  8  7  6  5  4   3   2  1  0
 *     +----+------------+-----------------+------+--+--+--+--+---+---+--+--+--+
 *     | NX | ignored    | frame           | ign. | G|PS| D| A|PCD|PWT| U| W| P|
 *     +----+------------+-----------------+------+--+--+--+--+---+---+--+--+--+
 */
import { bitU64, testU64, type U64, u64 } from "../engine/index.ts";
import type { Pfn } from "./address.ts";

export const PT_PRESENT_MASK: U64 = bitU64(0);
export const PT_WRITABLE_MASK: U64 = bitU64(1);
export const PT_USER_MASK: U64 = bitU64(2);
export const PT_ACCESSED_MASK: U64 = bitU64(5);
export const PT_DIRTY_MASK: U64 = bitU64(6);
export const PT_PAGE_SIZE_MASK: U64 = bitU64(7);
export const PT64_NX_MASK: U64 = bitU64(63);

/** Bits 12 to 51 of the high half. */
const FRAME_HI = 0x000fffff;

export function entryFrame(entry: U64): Pfn {
  return ((entry.hi & FRAME_HI) * 0x10_0000 + (entry.lo >>> 12)) as Pfn;
}

/** The entry's bits that hold a frame number. */
export function frameBits(frame: Pfn): U64 {
  return u64(Math.floor(frame / 0x10_0000), frame << 12);
}

export function isPresent(entry: U64): boolean {
  return (entry.lo & 1) !== 0;
}

export function isWritable(entry: U64): boolean {
  return (entry.lo & 2) !== 0;
}

export function isUser(entry: U64): boolean {
  return (entry.lo & 4) !== 0;
}

export function isExecutable(entry: U64): boolean {
  return !testU64(entry, PT64_NX_MASK);
}

export function isAccessed(entry: U64): boolean {
  return (entry.lo & 0x20) !== 0;
}

export function isDirty(entry: U64): boolean {
  return (entry.lo & 0x40) !== 0;
}

export function hasPageSize(entry: U64): boolean {
  return (entry.lo & 0x80) !== 0;
}
