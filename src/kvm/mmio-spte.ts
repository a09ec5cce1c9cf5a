/**
 * MMIO SPTEs: entries for guest frames that no memslot has. They make every access fault by a reserved bit, and say by themselves what it is.
 *
 *      63 62        52 51 50            12 11 10         3  2  1  0
 *     +--+------------+--+----------------+--+------------+--+--+--+
 *     |  | gen, high  | 1| gfn            | 0| gen, low   | U| W| 1|      6.12: 19 bits of generation, 8 of them low
 *     +--+------------+--+----------------+--+------------+--+--+--+      7.2:  18 bits, 7 of them low (bits 3 to 9)
 *
 * The generation is that of the memslots when the entry was made. A fault on an entry of another generation does not trust it: a slot may be there
 * by now. Bits are those of NPT with physical addresses narrower than 52 bits.
 */
import { orU64, type U64, u64 } from "../engine/index.ts";
import { entryFrame, frameBits, type Gfn, type Pfn } from "../machine/index.ts";
import type { KernelVersion } from "./variants.ts";

/** shadow_mmio_value and shadow_mmio_mask: bit 51, and the present bit. */
const MMIO_VALUE: U64 = u64(1 << 19, 1);
/** shadow_mmio_access_mask: W and U. */
export const MMIO_ACCESS_MASK = 6;

const LOW_START = 3;
const HIGH_BITS = 11;
/** Bits of the generation in the entry's low part. */
const LOW_BITS: Readonly<Record<KernelVersion, number>> = { "6.12": 8, "7.2": 7 };

/** The part of a memslot generation that an entry can hold (MMIO_SPTE_GEN_MASK). */
export function mmioGenerationOf(kernel: KernelVersion, generation: number): number {
  return generation % 2 ** (LOW_BITS[kernel] + HIGH_BITS);
}

/** make_mmio_spte() */
export function makeMmioSpte(kernel: KernelVersion, gfn: Gfn, access: number, generation: number): U64 {
  const stored = mmioGenerationOf(kernel, generation);
  const lowBits = LOW_BITS[kernel];
  const low = (stored % 2 ** lowBits) << LOW_START;
  const high = Math.floor(stored / 2 ** lowBits) << 20;
  const address = frameBits(gfn as number as Pfn);
  return orU64(orU64(MMIO_VALUE, address), u64(high, low | (access & MMIO_ACCESS_MASK)));
}

/** is_mmio_spte() */
export function isMmioSpte(spte: U64): boolean {
  return (spte.hi & MMIO_VALUE.hi) !== 0 && (spte.lo & MMIO_VALUE.lo) !== 0;
}

/** get_mmio_spte_gfn() */
export function getMmioSpteGfn(spte: U64): Gfn {
  return entryFrame(u64(spte.hi & ~MMIO_VALUE.hi, spte.lo)) as number as Gfn;
}

/** get_mmio_spte_access() */
export function getMmioSpteAccess(spte: U64): number {
  return spte.lo & MMIO_ACCESS_MASK;
}

/** get_mmio_spte_generation() */
export function getMmioSpteGeneration(kernel: KernelVersion, spte: U64): number {
  const lowBits = LOW_BITS[kernel];
  const low = (spte.lo >>> LOW_START) & (2 ** lowBits - 1);
  return low + ((spte.hi >>> 20) & (2 ** HIGH_BITS - 1)) * 2 ** lowBits;
}
