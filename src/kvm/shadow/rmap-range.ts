/**
 * What is done to every mapping of a range of guest frames, through their reverse maps: level by level from 4K up, frame by frame.
 *
 *     unmap               notifier; mmu_lock held for write, the caller flushes
 *     age                 6.12: mmu_lock held for write. 7.2: each head's own lock bit, no other
 *     write protection    dirty logging begins
 *     zap collapsible     dirty logging ends: 4K pages of direct shadow pages that could be large go, and come back large
 *
 * Stands for kvm_unmap_gfn_range(), kvm_rmap_age_gfn_range(), kvm_mmu_slot_remove_write_access(), kvm_mmu_zap_collapsible_spte() of 6.12 and 7.2.
 */
import { load, type Steps } from "../../engine/index.ts";
import { writeLock, writeUnlock } from "../../kernel/index.ts";
import { type Gfn, PG_LEVEL_4K } from "../../machine/index.ts";
import { kvmMmuMaxMappingLevel } from "../huge-page.ts";
import { gfnToMemslot, type KvmMemorySlot } from "../memslots.ts";
import type { GfnRange } from "../mmu-ops.ts";
import { kvmFlushRemoteTlbs } from "../requests.ts";
import { roleIsDirect } from "../role.ts";
import { ageRmap } from "./age-designs.ts";
import { spLevel } from "./page.ts";
import { rmapEntries } from "./rmap.ts";
import { headsIn } from "./rmap-heads.ts";
import type { ShadowMmu } from "./shadow-mmu.ts";
import { dropSpte, kvmZapAllRmapSptes, rmapWriteProtect } from "./spte-change.ts";

function hasRmaps(slot: KvmMemorySlot | null): slot is KvmMemorySlot {
  return slot !== null && slot.gfn_write_track.value !== 0;
}

/** kvm_unmap_gfn_range() */
export function* unmapRmaps(shadow: ShadowMmu, range: GfnRange): Steps<boolean> {
  const slot = yield* gfnToMemslot(shadow.kvm.memslots, range.start);
  if (!hasRmaps(slot)) return false;
  let flush = false;
  const heads = headsIn(shadow, slot, range);
  while (heads.next()) if (yield* kvmZapAllRmapSptes(shadow, heads.head)) flush = true;
  return flush;
}

/** kvm_rmap_age_gfn_range() */
export function* ageRmaps(shadow: ShadowMmu, range: GfnRange, test: boolean): Steps<boolean> {
  const slot = yield* gfnToMemslot(shadow.kvm.memslots, range.start);
  if (!hasRmaps(slot)) return false;
  let young = false;
  const heads = headsIn(shadow, slot, range);
  while (heads.next()) {
    if (yield* ageRmap(shadow, heads.head, test)) young = true;
    if (young && test) break;
  }
  return young;
}

function slotRange(slot: KvmMemorySlot): GfnRange {
  const start = slot.base_gfn.value as Gfn;
  return { start, end: (start + slot.npages.value) as Gfn };
}

/** kvm_mmu_slot_remove_write_access(). The caller flushes. */
export function* wrprotSlotRmaps(shadow: ShadowMmu, slot: KvmMemorySlot): Steps<boolean> {
  if (!hasRmaps(slot)) return false;
  let flush = false;
  yield* writeLock(shadow.kvm.mmuLock);
  const heads = headsIn(shadow, slot, slotRange(slot));
  while (heads.next()) if (yield* rmapWriteProtect(shadow, heads.head, false)) flush = true;
  yield* writeUnlock(shadow.kvm.mmuLock);
  return flush;
}

/** kvm_mmu_zap_collapsible_sptes(), its reverse maps. An indirect page of level 4K stays: the guest itself maps 4K pages. */
export function* zapCollapsibleRmaps(shadow: ShadowMmu, slot: KvmMemorySlot): Steps<void> {
  if (!hasRmaps(slot)) return;
  yield* writeLock(shadow.kvm.mmuLock);
  let flush = false;
  const heads = headsIn(shadow, slot, slotRange(slot));
  while (heads.next()) {
    if (heads.level > PG_LEVEL_4K) break;
    for (const addr of rmapEntries(shadow.world, yield* load(heads.head))) {
      const sp = shadow.pages.ofEntry(addr);
      if (!roleIsDirect(sp.role.value)) continue;
      const largest = yield* kvmMmuMaxMappingLevel(shadow.kvm, slot, sp.gfn.value as Gfn);
      if (spLevel(sp) >= largest) continue;
      yield* dropSpte(shadow, addr);
      flush = true;
    }
  }
  if (flush) yield* kvmFlushRemoteTlbs(shadow.vm);
  yield* writeUnlock(shadow.kvm.mmuLock);
}
