/**
 * MMIO SPTEs: entries for guest frames that no memslot has. They make every access fault by a reserved bit (NPT, shadow paging) or as a misconfiguration
 * (EPT), and say by themselves what it is.
 *
 *      63 62        52 51 50            12 11 10         3  2  1  0
 *     +--+------------+--+----------------+--+------------+--+--+--+
 *     |  | gen, high  | 1| gfn            | 0| gen, low   | U| W| 1|      6.12: 19 bits of generation, 8 of them low
 *     +--+------------+--+----------------+--+------------+--+--+--+      7.2:  18 bits, 7 of them low (bits 3 to 9)
 *
 * The generation is that of the memslots when the entry was made. A fault on an entry of another generation does not trust it: a slot may be there
 * by now. The picture is that of NPT with physical addresses narrower than 52 bits; with EPT bits 2 to 0 are 110 and bit 51 is 0 (spte-layout.ts).
 */
import { andU64, clearU64, orU64, sameU64, type U64, u64 } from "../engine/index.ts";
import { entryFrame, frameBits, type Gfn, type Pfn } from "../machine/index.ts";
import type { SpteLayout } from "./spte-layout.ts";
import type { KernelVersion } from "./variants.ts";

const LOW_START = 3;
const HIGH_BITS = 11;
/** Bits of the generation in the entry's low part. */
const LOW_BITS: Readonly<Record<KernelVersion, number>> = { "6.12": 8, "7.2": 7 };

/** The part of a memslot generation that an entry can hold (MMIO_SPTE_GEN_MASK). */
export function mmioGenerationOf(kernel: KernelVersion, generation: number): number {
  return generation % 2 ** (LOW_BITS[kernel] + HIGH_BITS);
}

/** make_mmio_spte() */
export function makeMmioSpte(layout: SpteLayout, gfn: Gfn, access: number, generation: number): U64 {
  const { kernel, mmioValue, mmioAccess } = layout;
  const stored = mmioGenerationOf(kernel, generation);
  const lowBits = LOW_BITS[kernel];
  const low = (stored % 2 ** lowBits) << LOW_START;
  const high = Math.floor(stored / 2 ** lowBits) << 20;
  const address = frameBits(gfn as number as Pfn);
  return orU64(orU64(mmioValue, address), u64(high, low | (access & mmioAccess)));
}

/** is_mmio_spte() */
export function isMmioSpte({ mmioMask, mmioValue }: SpteLayout, spte: U64): boolean {
  return sameU64(andU64(spte, mmioMask), mmioValue);
}

/** get_mmio_spte_gfn() */
export function getMmioSpteGfn({ mmioValue }: SpteLayout, spte: U64): Gfn {
  return entryFrame(clearU64(spte, mmioValue)) as number as Gfn;
}

/** get_mmio_spte_access() */
export function getMmioSpteAccess({ mmioAccess }: SpteLayout, spte: U64): number {
  return spte.lo & mmioAccess;
}

/** get_mmio_spte_generation() */
export function getMmioSpteGeneration(kernel: KernelVersion, spte: U64): number {
  const lowBits = LOW_BITS[kernel];
  const low = (spte.lo >>> LOW_START) & (2 ** lowBits - 1);
  return low + ((spte.hi >>> 20) & (2 ** HIGH_BITS - 1)) * 2 ** lowBits;
}
