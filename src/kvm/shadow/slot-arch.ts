/**
 * What a memslot keeps for the shadow MMU: a reverse map for each page of each size, and a count of the reasons against writable mappings of each
 * frame.
 *
 *     rmap[level - 1]      one head for each page of the level that the slot touches
 *     gfn_write_track      one count for each frame: how many shadow pages of upper tables it has
 *
 * Both are made with the first shadow root (mmu_first_shadow_root_alloc()) for the slots that there are, and with each slot after that. Stands for
 * memslot_rmap_alloc(), kvm_page_track_write_tracking_alloc(), gfn_to_rmap(), update_gfn_write_track() of 6.12 and 7.2.
 */
import { Cell, load, type Steps, store, type World } from "../../engine/index.ts";
import { assertHeldWrite, mutexLock, mutexUnlock } from "../../kernel/index.ts";
import { type Gfn, PG_LEVEL_1G, PG_LEVEL_4K, pagesPerLevel } from "../../machine/index.ts";
import { updateGfnDisallowLpageCount } from "../lpage-info.ts";
import type { KvmMemorySlot } from "../memslots.ts";
import type { ShadowMmu } from "./shadow-mmu.ts";

function rmapIndexOf(gfn: number, base: number, level: number): number {
  const pages = pagesPerLevel(level);
  return level === PG_LEVEL_4K ? gfn - base : Math.floor(gfn / pages) - Math.floor(base / pages);
}

function hasArrays(slot: KvmMemorySlot): boolean {
  return slot.gfn_write_track.value !== 0;
}

/** Gives a slot that nobody uses yet, or that no SPTE maps, its arrays. */
function allocateSlotArrays(world: World, slot: KvmMemorySlot): void {
  if (hasArrays(slot)) return;
  const base = slot.base_gfn.value;
  const npages = slot.npages.value;
  const name = `memslot ${slot.id.value}`;
  for (let level = PG_LEVEL_4K; level <= PG_LEVEL_1G; level++) {
    const heads = rmapIndexOf(base + npages - 1, base, level) + 1;
    const describe = (offset: number): string => `rmap(l${level})[${offset >>> 3}]`;
    slot.rmap(level - 1).value = world.allocate(8 * heads, name, describe);
  }
  slot.gfn_write_track.value = world.allocate(4 * npages, name, (offset) => `gfn_write_track[${offset >>> 2}]`);
}

/** mmu_first_shadow_root_alloc(): every slot gets its arrays before the first shadow page is made. */
export function* mmuFirstShadowRootAlloc(shadow: ShadowMmu): Steps<void> {
  const { memslots } = shadow.kvm;
  if ((yield* load(shadow.shadowRootAllocated)) !== 0) return;
  yield* mutexLock(memslots.slotsArchLock);
  if ((yield* load(shadow.shadowRootAllocated)) === 0) {
    const set = memslots.setAt(yield* load(memslots.active));
    for (const slot of memslots.slotsOf(set)) allocateSlotArrays(shadow.world, slot);
    // A release: who sees the flag without the lock sees the arrays.
    yield* store(shadow.shadowRootAllocated, 1);
  }
  yield* mutexUnlock(memslots.slotsArchLock);
}

/**
 * A new or moved slot, with slots_arch_lock held. There are reverse maps before there is a root: without the TDP MMU kvm_memslots_have_rmaps()
 * always says so, and a dirty log may be cleared first.
 */
export function prepareSlotForShadowing(shadow: ShadowMmu, slot: KvmMemorySlot): void {
  allocateSlotArrays(shadow.world, slot);
}

/** gfn_to_rmap() */
export function gfnToRmap(world: World, slot: KvmMemorySlot, gfn: Gfn, level: number): Cell {
  const heads = slot.rmap(level - 1).value;
  return new Cell<number>(world, heads + 8 * rmapIndexOf(gfn, slot.base_gfn.value, level), 8, false);
}

function writeTrackOf(world: World, slot: KvmMemorySlot, counts: number, gfn: Gfn): Cell {
  return new Cell<number>(world, counts + 4 * (gfn - slot.base_gfn.value), 4, false);
}

/** kvm_gfn_is_write_tracked(): also looked at without mmu_lock, as a hint. */
export function* kvmGfnIsWriteTracked(shadow: ShadowMmu, slot: KvmMemorySlot | null, gfn: Gfn): Steps<boolean> {
  if (slot === null) return false;
  const counts = slot.gfn_write_track.value;
  return counts !== 0 && (yield* load(writeTrackOf(shadow.world, slot, counts, gfn))) !== 0;
}

/** update_gfn_write_track() */
export function* updateGfnWriteTrack(shadow: ShadowMmu, slot: KvmMemorySlot, gfn: Gfn, delta: 1 | -1): Steps<void> {
  assertHeldWrite(shadow.kvm.mmuLock);
  const count = writeTrackOf(shadow.world, slot, slot.gfn_write_track.value, gfn);
  yield* store(count, count.value + delta);
}

/** kvm_mmu_gfn_disallow_lpage(), kvm_mmu_gfn_allow_lpage() */
export function kvmMmuGfnDisallowLpage(shadow: ShadowMmu, slot: KvmMemorySlot, gfn: Gfn, delta: 1 | -1): void {
  updateGfnDisallowLpageCount(shadow.world, slot, gfn, delta);
}
