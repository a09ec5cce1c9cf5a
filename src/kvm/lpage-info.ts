/**
 * lpage_info: for each large page that a memslot touches, how many reasons there are against mapping it by one entry.
 *
 *     level 2    one count for each 2M page of guest frames that the slot overlaps
 *     level 3    one for each 1G page
 *
 * A page at either end that the slot does not fill has a reason from the start; every page has one when the slot's place in the guest and
 * its place in the VMM's memory differ within a large page. Shadowed page tables and write tracking add theirs and take them away again.
 * Stands for struct kvm_lpage_info, kvm_alloc_memslot_metadata() and lpage_info_slot() of 6.12 and 7.2.
 */
import { Cell, type World } from "../engine/index.ts";
import {
  type Gfn,
  type Hva,
  PAGE_SIZE,
  PG_LEVEL_1G,
  PG_LEVEL_2M,
  PG_LEVEL_4K,
  pagesPerLevel,
} from "../machine/index.ts";
import type { KvmMemorySlot } from "./memslots.ts";

/** Levels that have counts. */
export const LPAGE_LEVELS = [PG_LEVEL_2M, PG_LEVEL_1G] as const;

/** Where a slot lies. */
export interface SlotPlace {
  readonly baseGfn: Gfn;
  readonly npages: number;
  readonly userspaceAddr: Hva;
}

/** What a slot keeps of it: for each level the address of its counts. */
export type LpageInfo = Pick<KvmMemorySlot, "base_gfn" | "lpage_info">;

/** gfn_to_index() */
function gfnToIndex(gfn: number, base: number, level: number): number {
  const pages = pagesPerLevel(level);
  return Math.floor(gfn / pages) - Math.floor(base / pages);
}

/** Makes the counts of a level for a new slot; returns their address. */
export function allocateLpageInfo(world: World, place: SlotPlace, level: number, name: string): number {
  const { baseGfn, npages, userspaceAddr } = place;
  const pages = pagesPerLevel(level);
  const count = gfnToIndex(baseGfn + npages - 1, baseGfn, level) + 1;
  const counts = new Uint32Array(2 * Math.ceil(count / 2));
  if (baseGfn % pages !== 0) counts[0] = 1;
  if ((baseGfn + npages) % pages !== 0) counts[count - 1] = 1;
  const hostFrame = Math.floor(userspaceAddr / PAGE_SIZE);
  if (baseGfn % pages !== hostFrame % pages) counts.fill(1, 0, count);
  const describe = (offset: number): string => `[${offset >>> 2}].disallow_lpage`;
  return world.allocate(4 * count, `${name}->lpage_info(l${level})`, describe, counts);
}

/** lpage_info_slot(): the count of the large page around a frame. */
function lpageInfoSlot(world: World, slot: LpageInfo, gfn: Gfn, level: number): Cell {
  const table = slot.lpage_info(level - PG_LEVEL_2M).value;
  return new Cell<number>(world, table + 4 * gfnToIndex(gfn, slot.base_gfn.value, level), 4, false);
}

/** Whether KVM's own rules forbid to map the frame by an entry of the level. */
export function isLpageDisallowed(world: World, slot: LpageInfo, gfn: Gfn, level: number): boolean {
  return level > PG_LEVEL_4K && lpageInfoSlot(world, slot, gfn, level).value !== 0;
}

/** update_gfn_disallow_lpage_count(): a shadowed or write-tracked frame comes (+1) or goes (-1). */
export function updateGfnDisallowLpageCount(world: World, slot: LpageInfo, gfn: Gfn, delta: 1 | -1): void {
  for (const level of LPAGE_LEVELS) lpageInfoSlot(world, slot, gfn, level).value += delta;
}
