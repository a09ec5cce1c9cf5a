/**
 * How entries of shadow pages change, and what follows for reverse maps, statistics and TLBs. All of it under mmu_lock held for write; the hardware
 * and, in direct tables, fast page faults change entries meanwhile.
 *
 *     set            non-present -> anything          plain store: nobody else touches an entry that is not present
 *     update         leaf -> leaf, same frame         exchange if bits may change under us; says whether TLBs must be flushed
 *     drop           leaf -> non-present              clear first, leave the reverse map second
 *     write protect  W (and MMU-W) taken away         flush before mmu_lock is dropped, when MMU-W goes
 *
 * Stands for mmu_spte_set(), mmu_spte_update(), mmu_spte_clear_track_bits(), drop_spte(), spte_write_protect(), rmap_add() of 6.12 and 7.2.
 */
import {
  assertThat,
  type Cell,
  clearU64,
  exchangeEntry,
  load,
  loadEntry,
  type Steps,
  storeEntry,
  type U64,
  u64,
  type World,
} from "../../engine/index.ts";
import { type Gfn, PT_WRITABLE_MASK } from "../../machine/index.ts";
import { gfnToMemslot, type KvmMemorySlot } from "../memslots.ts";
import { kvmSetPfnDirty } from "../pfn-dirty.ts";
import { kvmFlushRemoteTlbs } from "../requests.ts";
import {
  checkSpteWritableInvariants,
  isAccessedSpte,
  isDirtySpte,
  isLargePte,
  isMmuWritableSpte,
  isShadowPresentPte,
  isWritablePte,
  spteHasVolatileBits,
  spteToPfn,
} from "../spte.ts";
import { spLevel, spteIndex } from "./page.ts";
import { pteListAdd, pteListRemove, rmapEntries, rmapTakeAll } from "./rmap.ts";
import type { ShadowMmu } from "./shadow-mmu.ts";
import { gfnToRmap } from "./slot-arch.ts";

/** Address of an entry of a shadow page. */
export type Sptep = number;

/** mmu_spte_set(): over an entry that is not present. */
export function* mmuSpteSet(world: World, sptep: Sptep, spte: U64): Steps<void> {
  yield* storeEntry(world, sptep, spte);
}

/** mmu_spte_clear_no_track(): of an entry that links a table, or is no mapping. */
export function* mmuSpteClearNoTrack(shadow: ShadowMmu, sptep: Sptep): Steps<void> {
  yield* storeEntry(shadow.world, sptep, shadow.layout.nonPresent);
}

/** mmu_spte_update(): true when TLBs may still allow what the entry no longer does. */
export function* mmuSpteUpdate(shadow: ShadowMmu, sptep: Sptep, newSpte: U64): Steps<boolean> {
  const { layout } = shadow;
  let oldSpte = yield* loadEntry(shadow.world, sptep);
  checkSpteWritableInvariants(layout, newSpte);
  if (!isShadowPresentPte(oldSpte)) {
    yield* mmuSpteSet(shadow.world, sptep, newSpte);
    return false;
  }
  if (spteHasVolatileBits(layout, oldSpte, shadow.adDisabledVolatile))
    oldSpte = yield* exchangeEntry(shadow.world, sptep, newSpte);
  else yield* storeEntry(shadow.world, sptep, newSpte);
  assertThat(sameFrame(oldSpte, newSpte), "a present leaf SPTE changes its frame", "spte-frame-change");
  if (shadow.kernel === "7.2") return isMmuWritableSpte(layout, oldSpte) && !isMmuWritableSpte(layout, newSpte);
  // 6.12 also flushes when A or D is lost, so that the host's idea of the page is not older than the TLB's.
  const losesWrite = isMmuWritableSpte(layout, oldSpte) && !isWritablePte(newSpte);
  const losesAccessed = isAccessedSpte(layout, oldSpte) && !isAccessedSpte(layout, newSpte);
  const losesDirty = isDirtySpte(layout, oldSpte) && !isDirtySpte(layout, newSpte);
  if (losesDirty && !shadow.kvm.lacks("sync-page-loses-dirty")) kvmSetPfnDirty(shadow.kvm, spteToPfn(oldSpte));
  return losesWrite || losesAccessed || losesDirty;
}

/** Bits 12 to 51. */
const FRAME_HIGH = 0x000fffff;
const FRAME_LOW = 0xfffff000 | 0;

function sameFrame(a: U64, b: U64): boolean {
  return ((a.hi ^ b.hi) & FRAME_HIGH) === 0 && ((a.lo ^ b.lo) & FRAME_LOW) === 0;
}

/** mmu_spte_clear_track_bits(): the value that was there. */
function* mmuSpteClearTrackBits(shadow: ShadowMmu, sptep: Sptep): Steps<U64> {
  const { layout } = shadow;
  let old = yield* loadEntry(shadow.world, sptep);
  const isVolatile = isShadowPresentPte(old) && spteHasVolatileBits(layout, old, shadow.adDisabledVolatile);
  if (isVolatile) old = yield* exchangeEntry(shadow.world, sptep, layout.nonPresent);
  else yield* storeEntry(shadow.world, sptep, layout.nonPresent);
  if (!isShadowPresentPte(old)) return old;
  shadow.countPages(spLevel(shadow.pages.ofEntry(sptep)), -1);
  if (isDirtySpte(layout, old)) kvmSetPfnDirty(shadow.kvm, spteToPfn(old));
  return old;
}

/** drop_spte(): clear first, leave the reverse map second. */
export function* dropSpte(shadow: ShadowMmu, sptep: Sptep): Steps<void> {
  const old = yield* mmuSpteClearTrackBits(shadow, sptep);
  if (isShadowPresentPte(old)) yield* rmapRemove(shadow, sptep);
}

// --- reverse maps of guest frames ------------------------------------------------------------------------------------

/** What a leaf is in the reverse maps: the head of its frame and size; null when its slot is gone. */
function* rmapOf(shadow: ShadowMmu, sptep: Sptep): Steps<{ slot: KvmMemorySlot; head: Cell } | null> {
  const sp = shadow.pages.ofEntry(sptep);
  const gfn = shadow.pages.gfnOf(sp, spteIndex(sptep));
  const slot = yield* gfnToMemslot(shadow.kvm.memslots, gfn);
  return slot === null ? null : { slot, head: gfnToRmap(shadow.world, slot, gfn, spLevel(sp)) };
}

/** rmap_remove(): the slot is found through the page's own idea of the entry's frame, since the guest's table may say something else by now. */
function* rmapRemove(shadow: ShadowMmu, sptep: Sptep): Steps<void> {
  const found = yield* rmapOf(shadow, sptep);
  assertThat(found !== null, "an SPTE maps a frame of no memslot", "rmap-consistent");
  yield* pteListRemove(shadow.world, found.head, shadow.gfnRmaps, sptep);
}

/** RMAP_RECYCLE_THRESHOLD */
const RMAP_RECYCLE_THRESHOLD = 1000;

/** rmap_add(): a frame that is mapped all too often loses all of its mappings. */
export function* rmapAdd(shadow: ShadowMmu, slot: KvmMemorySlot, sptep: Sptep, gfn: Gfn, access: number): Steps<void> {
  const sp = shadow.pages.ofEntry(sptep);
  const level = spLevel(sp);
  shadow.pages.setTranslation(sp, spteIndex(sptep), gfn, access);
  shadow.countPages(level, 1);
  const head = gfnToRmap(shadow.world, slot, gfn, level);
  const count = yield* pteListAdd(shadow.world, head, shadow.gfnRmaps, sptep);
  shadow.countMax("max_mmu_rmap_size", shadow.maxRmapSize, count);
  if (count <= RMAP_RECYCLE_THRESHOLD) return;
  yield* kvmZapAllRmapSptes(shadow, head);
  yield* kvmFlushRemoteTlbs(shadow.vm);
}

/** kvm_zap_all_rmap_sptes(): true when there were any. */
export function* kvmZapAllRmapSptes(shadow: ShadowMmu, head: Cell): Steps<boolean> {
  const value = yield* load(head);
  if (value === 0) return false;
  const sptes = rmapEntries(shadow.world, value);
  for (const addr of sptes) yield* mmuSpteClearTrackBits(shadow, addr);
  yield* rmapTakeAll(shadow.world, head, shadow.gfnRmaps);
  return true;
}

// --- write protection ------------------------------------------------------------------------------------------------

/**
 * spte_write_protect(): true when the entry has changed. `forShadowing` takes MMU-W too, so that no fast page fault gives W back: a shadow page now
 * stands for the frame.
 */
function* spteWriteProtect(shadow: ShadowMmu, sptep: Sptep, forShadowing: boolean): Steps<boolean> {
  const { layout } = shadow;
  const spte = yield* loadEntry(shadow.world, sptep);
  // W alone says nothing of TLBs: the log's write protection may have taken it, and not flushed yet.
  const mayBeCached = forShadowing && !shadow.kvm.lacks("dirty-log-flush-after-unlock");
  if (!isWritablePte(spte) && !(mayBeCached && isMmuWritableSpte(layout, spte))) return false;
  if (isLargePte(spte) && shadow.kvm.variants.largeProtected === "dropped") {
    yield* dropSpte(shadow, sptep);
    return true;
  }
  const gone = forShadowing
    ? u64(layout.mmuWritable.hi, layout.mmuWritable.lo | PT_WRITABLE_MASK.lo)
    : PT_WRITABLE_MASK;
  return yield* mmuSpteUpdate(shadow, sptep, clearU64(spte, gone));
}

/** rmap_write_protect() */
export function* rmapWriteProtect(shadow: ShadowMmu, head: Cell, forShadowing: boolean): Steps<boolean> {
  let flush = false;
  for (const addr of rmapEntries(shadow.world, yield* load(head))) {
    if (yield* spteWriteProtect(shadow, addr, forShadowing)) flush = true;
  }
  return flush;
}

/** kvm_mmu_slot_gfn_write_protect(): at every size from `minLevel` up. */
export function* kvmMmuSlotGfnWriteProtect(
  shadow: ShadowMmu,
  slot: KvmMemorySlot,
  gfn: Gfn,
  minLevel: number,
): Steps<boolean> {
  let flush = false;
  for (let level = minLevel; level <= 3; level++) {
    if (yield* rmapWriteProtect(shadow, gfnToRmap(shadow.world, slot, gfn, level), true)) flush = true;
  }
  return flush;
}
