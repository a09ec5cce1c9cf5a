/**
 * The heads of the reverse maps of a range of frames, in the order in which for_each_slot_rmap_range() visits them: level by level, frame by frame.
 *
 *     const heads = headsIn(shadow, slot, range);
 *     while (heads.next()) yield* something(heads.head, heads.level);
 */
import type { Cell, World } from "../../engine/index.ts";
import { alignToLevel, type Gfn, PG_LEVEL_1G, PG_LEVEL_4K, pagesPerLevel } from "../../machine/index.ts";
import type { KvmMemorySlot } from "../memslots.ts";
import type { GfnRange } from "../mmu-ops.ts";
import type { ShadowMmu } from "./shadow-mmu.ts";
import { gfnToRmap } from "./slot-arch.ts";

/** No generator: most ranges are one page, and have three heads. */
class RmapHeads {
  level: number = PG_LEVEL_4K;
  private readonly world: World;
  private readonly slot: KvmMemorySlot;
  private readonly range: GfnRange;
  private readonly base: number;
  /** The frame whose head comes next. */
  private frame: number;
  private current: number;

  constructor(world: World, slot: KvmMemorySlot, range: GfnRange) {
    this.world = world;
    this.slot = slot;
    this.range = range;
    this.base = slot.base_gfn.value;
    this.frame = range.start;
    this.current = range.start;
  }

  /** Goes on to the next head; false when there is none. */
  next(): boolean {
    while (this.frame >= this.range.end) {
      if (this.level === PG_LEVEL_1G) return false;
      this.level++;
      this.frame = alignToLevel(this.range.start, this.level);
    }
    this.current = Math.max(this.frame, this.base);
    this.frame += pagesPerLevel(this.level);
    return true;
  }

  get head(): Cell {
    return gfnToRmap(this.world, this.slot, this.current as Gfn, this.level);
  }
}

/** for_each_slot_rmap_range(): the heads of a range that lies in one slot. */
export function headsIn({ world }: ShadowMmu, slot: KvmMemorySlot, range: GfnRange): RmapHeads {
  return new RmapHeads(world, slot, range);
}
