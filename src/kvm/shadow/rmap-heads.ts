/** The heads of the reverse maps of a range of frames, in the order in which for_each_slot_rmap_range() visits them: level by level, frame by frame. */
import type { Cell } from "../../engine/index.ts";
import { alignToLevel, type Gfn, PG_LEVEL_1G, PG_LEVEL_4K, pagesPerLevel } from "../../machine/index.ts";
import type { KvmMemorySlot } from "../memslots.ts";
import type { GfnRange } from "../mmu-ops.ts";
import type { ShadowMmu } from "./shadow-mmu.ts";
import { gfnToRmap } from "./slot-arch.ts";

/** for_each_slot_rmap_range(): the heads of a range that lies in one slot. */
export function* headsIn(
  shadow: ShadowMmu,
  slot: KvmMemorySlot,
  { start, end }: GfnRange,
): Generator<{ head: Cell; level: number }> {
  for (let level = PG_LEVEL_4K; level <= PG_LEVEL_1G; level++) {
    const pages = pagesPerLevel(level);
    for (let frame: number = alignToLevel(start, level); frame < end; frame += pages) {
      const first = Math.max(frame, slot.base_gfn.value) as Gfn;
      yield { head: gfnToRmap(shadow.world, slot, first, level), level };
    }
  }
}
