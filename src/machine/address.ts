/**
 * Addresses and frame numbers, each a type of its own.
 *
 *      63        48 47      39 38      30 29      21 20      12 11          0
 *     +------------+----------+----------+----------+----------+-------------+
 *     | sign ext.  | level 4  | level 3  | level 2  | level 1  | page offset |
 *     +------------+----------+----------+----------+----------+-------------+
 *
 * A frame number is the address without its page offset. All fit 53 bits, so they are plain numbers at run time.
 */

type Brand<T, Name extends string> = T & { readonly __brand: Name };

/** Guest frame number. */
export type Gfn = Brand<number, "Gfn">;
/** Host page frame number. */
export type Pfn = Brand<number, "Pfn">;
/** Guest physical address. */
export type Gpa = Brand<number, "Gpa">;
/** Guest virtual address. */
export type Gva = Brand<number, "Gva">;
/** Host virtual address of the VMM's process. */
export type Hva = Brand<number, "Hva">;
/** Host physical address. In the modelled machine it is also where the kernel's direct map has the byte. */
export type Hpa = Brand<number, "Hpa">;

export const PAGE_SHIFT = 12;
export const PAGE_SIZE = 4096;
/** Entries of a page table. */
export const ENTRIES_PER_TABLE = 512;

/** Levels of page tables, as KVM numbers them: the entry of level 1 maps 4K. */
export const PG_LEVEL_4K = 1;
export const PG_LEVEL_2M = 2;
export const PG_LEVEL_1G = 3;
export const PG_LEVEL_512G = 4;

export const gfn = (n: number): Gfn => n as Gfn;
export const pfn = (n: number): Pfn => n as Pfn;
export const gpa = (n: number): Gpa => n as Gpa;
export const gva = (n: number): Gva => n as Gva;
export const hva = (n: number): Hva => n as Hva;
export const hpa = (n: number): Hpa => n as Hpa;

/** The low bits of an address of whatever kind. A bit operation: a remainder of numbers that may be large is a slow loop of the machine. */
export const offsetInPage = (addr: number): number => addr & (PAGE_SIZE - 1);

export const gpaToGfn = (addr: Gpa): Gfn => Math.floor(addr / PAGE_SIZE) as Gfn;
export const gfnToGpa = (frame: Gfn): Gpa => (frame * PAGE_SIZE) as Gpa;
export const pfnToHpa = (frame: Pfn): Hpa => (frame * PAGE_SIZE) as Hpa;
export const hpaToPfn = (addr: Hpa): Pfn => Math.floor(addr / PAGE_SIZE) as Pfn;

/** 4K pages that an entry of the level maps. */
export function pagesPerLevel(level: number): number {
  // A shift where it fits: asked for every entry of a walk, and a machine word then.
  return level <= PG_LEVEL_512G ? 1 << (9 * (level - 1)) : ENTRIES_PER_TABLE ** (level - 1);
}

/** Index into a table of the level for a frame number. */
export function tableIndex(frame: number, level: number): number {
  // Up to 1G the index is in the low half of the number, where a shift finds it.
  const places = level <= PG_LEVEL_1G ? frame >>> (9 * (level - 1)) : Math.floor(frame / pagesPerLevel(level));
  return places & (ENTRIES_PER_TABLE - 1);
}

/** The first frame that an entry of the level which maps `frame` covers. */
export function alignToLevel<F extends number>(frame: F, level: number): F {
  // Up to 1G the low bits of a frame, which a bit operation has at once.
  return (frame - (level <= PG_LEVEL_512G ? frame & (pagesPerLevel(level) - 1) : frame % pagesPerLevel(level))) as F;
}
