/**
 * The TDP MMU under dirty logging: entries lose W, or D, so that the next write is noticed.
 *
 *     a whole slot     logging begins; mmu_lock for read, by compare-exchange
 *     up to 64 frames  a log is fetched or cleared; mmu_lock for write, by a locked and: a fast page fault may be giving W back, and the CPU
 *                      may be setting D, at the same moment
 *     one frame        huge pages under INITIALLY_SET, and write tracking; mmu_lock for write; MMU-W goes too
 *
 * Whoever calls flushes before the log is handed out: until then a TLB may still let writes through, and those are in the log that is handed out
 * or in the next one.
 * Stands for wrprot_gfn_range(), clear_dirty_gfn_range(), clear_dirty_pt_masked(), write_protect_gfn() of tdp_mmu.c in 6.12 and 7.2.
 */
import {
  clearU64,
  fetchAnd,
  orU64,
  type Steps,
  sameU64,
  startLoop,
  store,
  testU64,
  type U64,
  u64,
} from "../engine/index.ts";
import { assertHeldRead, assertHeldWrite, rcuReadLock, rcuReadUnlock } from "../kernel/index.ts";
import { type Gfn, PG_LEVEL_4K, PT_WRITABLE_MASK } from "../machine/index.ts";
import type { KvmMemorySlot } from "./memslots.ts";
import type { KvmMmuPage } from "./mmu-page.ts";
import { kvmSetPfnDirty } from "./pfn-dirty.ts";
import { isLastSpte, isShadowPresentPte, spteHasVolatileBits, spteToPfn } from "./spte.ts";
import { type TdpIter, tdpIterNext, tdpIterStart } from "./tdp-iter.ts";
import { type TdpMmu, tdpMmuIterSetSpte, tdpMmuSetSpteAtomic } from "./tdp-mmu.ts";
import { allRoots, isInvalidRoot, tdpMmuNextRoot } from "./tdp-roots.ts";
import { tdpMmuIterCondResched } from "./tdp-zap.ts";

/** kvm_tdp_mmu_wrprot_slot(): takes W from the slot's leaves of a level and above. */
export function kvmTdpMmuWrprotSlot(tdp: TdpMmu, slot: KvmMemorySlot, minLevel: number): Steps<boolean> {
  return clearInSlot(tdp, slot, minLevel, PT_WRITABLE_MASK);
}

/** kvm_tdp_mmu_clear_dirty_slot(): takes D from the slot's 4K leaves, for a CPU that logs the frames itself. */
export function kvmTdpMmuClearDirtySlot(tdp: TdpMmu, slot: KvmMemorySlot): Steps<boolean> {
  return clearInSlot(tdp, slot, PG_LEVEL_4K, tdp.layout.dirty);
}

/** True when an entry had one of the bits. */
function* clearInSlot(tdp: TdpMmu, slot: KvmMemorySlot, minLevel: number, bits: U64): Steps<boolean> {
  assertHeldRead(tdp.kvm.mmuLock);
  let changed = false;
  let root = yield* tdpMmuNextRoot(tdp, null);
  while (root !== null) {
    if (!isInvalidRoot(tdp, root) && (yield* clearInRoot(tdp, root, slot, minLevel, bits))) changed = true;
    root = yield* tdpMmuNextRoot(tdp, root);
  }
  return changed;
}

/** wrprot_gfn_range(), clear_dirty_gfn_range() */
function* clearInRoot(tdp: TdpMmu, root: KvmMmuPage, slot: KvmMemorySlot, minLevel: number, bits: U64): Steps<boolean> {
  let changed = false;
  const start = slot.base_gfn.value as Gfn;
  const end = Math.min(start + slot.npages.value, tdp.gfnEnd) as Gfn;
  yield* rcuReadLock(tdp.kvm.kernel.rcu);
  const iter = yield* tdpIterStart(tdp.world, root, minLevel, start, end);
  const again = startLoop(tdp.world);
  for (; iter.valid; yield* tdpIterNext(iter)) {
    if (tdp.world.comparesStates) again(changed ? 1 : 0, ...iter.position());
    for (;;) {
      if (tdp.kvm.variants.yields && (yield* tdpMmuIterCondResched(tdp, iter, { flush: false, shared: true }))) break;
      if (!isShadowPresentPte(iter.oldSpte) || !isLastSpte(iter.oldSpte, iter.level)) break;
      if (!testU64(iter.oldSpte, bits)) break;
      // Somebody else has changed the entry: look at what it is now.
      if (!(yield* tdpMmuSetSpteAtomic(tdp, iter, clearU64(iter.oldSpte, bits)))) continue;
      changed = true;
      break;
    }
  }
  yield* rcuReadUnlock(tdp.kvm.kernel.rcu);
  return changed;
}

/** kvm_tdp_mmu_clear_dirty_pt_masked(): of the 64 frames from `first` on, those in the mask. @param wrprot take W, not D */
export function* kvmTdpMmuClearDirtyPtMasked(tdp: TdpMmu, first: Gfn, mask: U64, wrprot: boolean): Steps<void> {
  for (const root of yield* allRoots(tdp)) {
    if (!isInvalidRoot(tdp, root)) yield* clearDirtyPtMasked(tdp, root, first, mask, wrprot);
  }
}

const BITS_PER_LONG = 64;

/** Whether bit `n` is set. */
export function hasBit(mask: U64, n: number): boolean {
  return ((n < 32 ? mask.lo >>> n : mask.hi >>> (n - 32)) & 1) !== 0;
}

/** __ffs() and __fls(): the lowest and the highest bit that is set, of a mask that is not empty. */
export function lowestBit(mask: U64): number {
  return mask.lo !== 0 ? 31 - Math.clz32(mask.lo & -mask.lo) : 63 - Math.clz32(mask.hi & -mask.hi);
}

export function highestBit(mask: U64): number {
  return mask.hi !== 0 ? 63 - Math.clz32(mask.hi) : 31 - Math.clz32(mask.lo);
}

/** clear_dirty_pt_masked() */
function* clearDirtyPtMasked(tdp: TdpMmu, root: KvmMmuPage, first: Gfn, mask: U64, wrprot: boolean): Steps<void> {
  assertHeldWrite(tdp.kvm.mmuLock);
  const { layout } = tdp;
  const bit = wrprot || !layout.adEnabled ? PT_WRITABLE_MASK : layout.dirty;
  const start = (first + lowestBit(mask)) as Gfn;
  const last = first + highestBit(mask);
  yield* rcuReadLock(tdp.kvm.kernel.rcu);
  const iter = yield* tdpIterStart(tdp.world, root, PG_LEVEL_4K, start, (first + BITS_PER_LONG) as Gfn);
  for (; iter.valid && iter.gfn <= last; yield* tdpIterNext(iter)) {
    if (iter.level > PG_LEVEL_4K || !isShadowPresentPte(iter.oldSpte) || !hasBit(mask, iter.gfn - first)) continue;
    if (!testU64(iter.oldSpte, bit)) continue;
    yield* tdpMmuClearSpteBits(tdp, iter, bit);
    kvmSetPfnDirty(tdp.kvm, spteToPfn(iter.oldSpte));
  }
  yield* rcuReadUnlock(tdp.kvm.kernel.rcu);
}

/** tdp_mmu_clear_spte_bits(), and its trace: other bits that change at the same moment are kept. */
export function* tdpMmuClearSpteBits(tdp: TdpMmu, iter: TdpIter, bits: U64): Steps<void> {
  const { sptep, level, gfn } = iter;
  if (spteHasVolatileBits(tdp.layout, iter.oldSpte) && !tdp.kvm.lacks("tdp-plain-write-loses-dirty")) {
    iter.oldSpte = yield* fetchAnd(sptep, u64(~bits.hi, ~bits.lo));
  } else {
    yield* store(sptep, clearU64(iter.oldSpte, bits));
  }
  const { oldSpte } = iter;
  const newSpte = clearU64(oldSpte, bits);
  tdp.emit({ name: "kvm_tdp_mmu_spte_changed", asId: 0, gfn, level, oldSpte, newSpte });
}

/** kvm_tdp_mmu_write_protect_gfn(): the frame's leaf of the level or above loses W and MMU-W; true when a flush is needed. */
export function* kvmTdpMmuWriteProtectGfn(tdp: TdpMmu, gfn: Gfn, minLevel: number): Steps<boolean> {
  let flush = false;
  for (const root of yield* allRoots(tdp)) {
    if (!isInvalidRoot(tdp, root) && (yield* writeProtectGfn(tdp, root, gfn, minLevel))) flush = true;
  }
  return flush;
}

/** write_protect_gfn() */
function* writeProtectGfn(tdp: TdpMmu, root: KvmMmuPage, gfn: Gfn, minLevel: number): Steps<boolean> {
  const writable = orU64(PT_WRITABLE_MASK, tdp.layout.mmuWritable);
  let changed = false;
  yield* rcuReadLock(tdp.kvm.kernel.rcu);
  const iter = yield* tdpIterStart(tdp.world, root, minLevel, gfn, (gfn + 1) as Gfn);
  for (; iter.valid; yield* tdpIterNext(iter)) {
    if (!isShadowPresentPte(iter.oldSpte) || !isLastSpte(iter.oldSpte, iter.level)) continue;
    const newSpte = clearU64(iter.oldSpte, writable);
    if (sameU64(newSpte, iter.oldSpte)) break;
    yield* tdpMmuIterSetSpte(tdp, iter, newSpte);
    changed = true;
  }
  yield* rcuReadUnlock(tdp.kvm.kernel.rcu);
  return changed;
}
