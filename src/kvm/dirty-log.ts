/**
 * Dirty logging: which guest frames were written since the log was fetched last.
 *
 *     a slot's bitmap, one bit for each frame        or, with a dirty ring, the vCPU's ring (dirty-ring.ts)
 *
 *     logging begins       the slot is swapped first, so that new entries are logged; then its huge pages are split, or W is taken from
 *                          all its leaves; flush
 *     KVM_GET_DIRTY_LOG    bits are fetched and cleared, then those frames lose W, then flush, then the bits are handed out
 *       manual protect     bits are handed out only
 *     KVM_CLEAR_DIRTY_LOG  (manual protect) the given bits are cleared, those frames lose W, flush
 *     logging ends         huge pages come back
 *
 * A write is in the log that is fetched next: either its bit is set by then, or its frame is still writable only through TLB entries that die with
 * the flush, and then the frame's bit was in the log just fetched. With INITIALLY_SET all bits are set at first, and huge pages are split or
 * write-protected when a bit of theirs is cleared.
 *
 * Stands for kvm_get_dirty_log_protect(), kvm_clear_dirty_log_protect() of kvm_main.c, kvm_mmu_slot_apply_flags() of x86.c and the dirty logging of
 * mmu.c, of 6.12 and 7.2; the TDP MMU's part is tdp-dirty.ts. A CPU that logs by itself (PML) sets D and notes the address; entries of 4K pages then
 * lose D instead of W, and vCPUs mark what was noted at every exit.
 */
import {
  andU64,
  Cell,
  exchange,
  fetchAnd,
  fetchOr,
  load,
  type Steps,
  type U64,
  U64_ZERO,
  u64,
  type World,
} from "../engine/index.ts";
import { assertHeld, assertHeldWrite, mutexLock, mutexUnlock, writeLock, writeUnlock } from "../kernel/index.ts";
import { type Gfn, PG_LEVEL_2M, pagesPerLevel } from "../machine/index.ts";
import { type DirtyRing, kvmDirtyRingPush } from "./dirty-ring.ts";
import { kvmSlotDirtyTrackEnabled } from "./huge-page.ts";
import type { Kvm } from "./kvm.ts";
import type { MemslotUpdate } from "./memory-region.ts";
import { gfnToMemslot, KVM_MEM_READONLY, type KvmMemorySlot } from "./memslots.ts";
import { kvmKickAllVcpus } from "./requests.ts";
import { hasBit, highestBit, lowestBit } from "./tdp-dirty.ts";
import type { Vcpu } from "./vcpu.ts";
import type { Vm } from "./vm.ts";

/** KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KVM_DIRTY_LOG_INITIALLY_SET */
const KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE = 1;
const KVM_DIRTY_LOG_INITIALLY_SET = 2;

const BITS_PER_LONG = 64;
const ALL_ONES: U64 = u64(0xffffffff, 0xffffffff);

/** kvm_dirty_log_manual_protect_and_init_set() */
function manualProtectAndInitSet(kvm: Kvm): boolean {
  const both = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
  return (kvm.manualDirtyLogProtect & both) === both;
}

// --- the bitmap ------------------------------------------------------------------------------------------------------

function wordsOf(slot: KvmMemorySlot): number {
  return Math.ceil(slot.npages.value / BITS_PER_LONG);
}

/** The word of the bitmap that has the bits of the 64 frames from `64 * index` on. */
function wordOf(world: World, slot: KvmMemorySlot, index: number): Cell<U64> {
  return new Cell<U64>(world, slot.dirty_bitmap.value + 8 * index, 8, true);
}

/** kvm_prepare_memory_region(): gives the new slot its dirty bitmap, before anybody sees the slot; one that has logged already keeps its own. */
export function kvmPrepareDirtyBitmap(vm: Vm, update: MemslotUpdate): void {
  const { kvm, world } = vm;
  const slot = update.new;
  if (slot === null) return;
  if (!kvmSlotDirtyTrackEnabled(slot)) {
    slot.dirty_bitmap.value = 0;
    return;
  }
  const old = update.old?.dirty_bitmap.value ?? 0;
  slot.dirty_bitmap.value = old !== 0 ? old : allocateDirtyBitmap(kvm, slot, world);
}

/** kvm_alloc_dirty_bitmap(); 0 where rings stand in for it. */
function allocateDirtyBitmap(kvm: Kvm, slot: KvmMemorySlot, world: World): number {
  if (kvm.dirtyRingSize > 0) return 0;
  const npages = slot.npages.value;
  const words = wordsOf(slot);
  const contents = new Uint32Array(2 * words);
  if (manualProtectAndInitSet(kvm)) {
    for (let i = 0; i < npages; i++) contents[i >>> 5] = ((contents[i >>> 5] as number) | (1 << (i & 31))) >>> 0;
  }
  const describe = (offset: number): string => `dirty_bitmap[${offset >>> 3}]`;
  return world.allocate(8 * words, `memslot ${slot.id.value}`, describe, contents);
}

/** mark_page_dirty_in_slot(). @param ring the running vCPU's, if the VM has rings */
export function* markPageDirtyInSlot(kvm: Kvm, slot: KvmMemorySlot, frame: Gfn, ring: DirtyRing | null): Steps<void> {
  if (!kvmSlotDirtyTrackEnabled(slot)) return;
  const index = frame - slot.base_gfn.value;
  if (ring !== null) {
    yield* kvmDirtyRingPush(ring, slot.id.value, index);
  } else if (slot.dirty_bitmap.value !== 0) {
    const word = wordOf(kvm.world, slot, Math.floor(index / BITS_PER_LONG));
    yield* fetchOr(word, bitOf(index % BITS_PER_LONG), `set_bit(0x${index.toString(16)}, dirty_bitmap)`);
  }
}

/** kvm_vcpu_mark_page_dirty(): KVM itself has written to guest memory, in the vCPU's thread. */
export function* kvmVcpuMarkPageDirty(vcpu: Vcpu, frame: Gfn): Steps<void> {
  const { kvm } = vcpu.vm;
  const slot = yield* gfnToMemslot(kvm.memslots, frame);
  if (slot !== null) yield* markPageDirtyInSlot(kvm, slot, frame, vcpu.dirtyRing);
}

function bitOf(n: number): U64 {
  return n < 32 ? u64(0, 1 << n) : u64(1 << (n - 32), 0);
}

// --- logging begins and ends -----------------------------------------------------------------------------------------

/** kvm_mmu_slot_apply_flags(), from kvm_arch_commit_memory_region(): logging starts or ends for a slot that everybody sees. */
export function* kvmMmuSlotApplyFlags(vm: Vm, update: MemslotUpdate): Steps<void> {
  const { kvm } = vm;
  const slot = update.new;
  // A slot that comes or goes has nothing mapped; one that is read-only is never written.
  if (slot === null || update.change !== "flags-only" || (slot.flags.value & KVM_MEM_READONLY) !== 0) return;
  if (!kvmSlotDirtyTrackEnabled(slot)) {
    yield* vm.ops.recoverHugePages(slot);
    return;
  }
  if (manualProtectAndInitSet(kvm)) return;
  if (kvm.params.eagerPageSplit) yield* vm.ops.splitSlot(slot);
  const changed = yield* vm.ops.wrprotSlot(slot);
  if (!changed && kvm.lacks("dirty-log-enable-skips-flush")) return;
  // Also when nothing was changed here: a fault may have taken W away, or found it taken away, before the flush that it relies on.
  yield* flushRemoteTlbs(kvm);
}

function* flushRemoteTlbs(kvm: Kvm): Steps<void> {
  if (kvm.arch !== null) yield* kvm.arch.flushRemoteTlbs();
}

// --- the log is fetched and cleared ----------------------------------------------------------------------------------

/** What the VMM gets: a word for each 64 frames of the slot, lowest first. */
export type DirtyLog = readonly U64[];

/** What an ioctl of the log returns, negated, when it fails. */
export type DirtyLogErrno = 2 | 6 | 22;
const ENOENT = 2;
const ENXIO = 6;
const EINVAL = 22;

/** KVM_GET_DIRTY_LOG: kvm_get_dirty_log_protect() */
export function* kvmGetDirtyLog(vm: Vm, id: number): Steps<DirtyLog | DirtyLogErrno> {
  const { kvm } = vm;
  yield* mutexLock(kvm.memslots.slotsLock);
  const slot = loggedSlot(kvm, id);
  const log = typeof slot === "number" ? slot : yield* getDirtyLogProtect(vm, slot);
  yield* mutexUnlock(kvm.memslots.slotsLock);
  return log;
}

function loggedSlot(kvm: Kvm, id: number): KvmMemorySlot | DirtyLogErrno {
  if (kvm.dirtyRingSize > 0) return ENXIO;
  const slot = kvm.memslots.byId(id);
  return slot === null || slot.dirty_bitmap.value === 0 ? ENOENT : slot;
}

/** kvm_arch_sync_dirty_log(): vCPUs that the CPU logs for leave the guest, and mark what it has logged. Nobody waits: the rest is in the next log. */
function* kvmArchSyncDirtyLog(vm: Vm): Steps<void> {
  if (vm.kvm.variants.pml) yield* kvmKickAllVcpus(vm);
}

function* getDirtyLogProtect(vm: Vm, slot: KvmMemorySlot): Steps<DirtyLog> {
  const { kvm, world } = vm;
  assertHeld(kvm.memslots.slotsLock);
  const log: U64[] = [];
  const words = wordsOf(slot);
  yield* kvmArchSyncDirtyLog(vm);
  if (kvm.manualDirtyLogProtect !== 0) {
    for (let i = 0; i < words; i++) log.push(yield* load(wordOf(world, slot, i)));
    return log;
  }
  let flush = false;
  yield* writeLock(kvm.mmuLock);
  for (let i = 0; i < words; i++) {
    const word = wordOf(world, slot, i);
    const seen = yield* load(word);
    log.push(U64_ZERO);
    if (isEmpty(seen)) continue;
    flush = true;
    // The bits go before W does: a write through an entry that still has W sets its bit again, or is in this log.
    const mask = yield* exchange(word, U64_ZERO);
    log[i] = mask;
    yield* kvmArchMmuEnableLogDirtyPtMasked(vm, slot, i * BITS_PER_LONG, mask);
  }
  yield* writeUnlock(kvm.mmuLock);
  // Before the log is handed out: a write by an old translation must not come after the VMM has copied the page.
  if (flush) yield* flushRemoteTlbs(kvm);
  return log;
}

function isEmpty(mask: U64): boolean {
  return mask.lo === 0 && mask.hi === 0;
}

/**
 * KVM_CLEAR_DIRTY_LOG: kvm_clear_dirty_log_protect(), of `pages` frames from `first` on.
 * @param bits which of them, as the log has them; null: all
 */
export function* kvmClearDirtyLog(
  vm: Vm,
  id: number,
  first: number,
  pages: number,
  bits: DirtyLog | null = null,
): Steps<0 | DirtyLogErrno> {
  const { kvm } = vm;
  yield* mutexLock(kvm.memslots.slotsLock);
  const slot = loggedSlot(kvm, id);
  const result = typeof slot === "number" ? slot : yield* clearDirtyLogProtect(vm, slot, { first, pages, bits });
  yield* mutexUnlock(kvm.memslots.slotsLock);
  return result;
}

function* clearDirtyLogProtect(
  vm: Vm,
  slot: KvmMemorySlot,
  range: { readonly first: number; readonly pages: number; readonly bits: DirtyLog | null },
): Steps<0 | DirtyLogErrno> {
  const { kvm, world } = vm;
  const { first, pages, bits } = range;
  const npages = slot.npages.value;
  if (first % BITS_PER_LONG !== 0 || first > npages || pages > npages - first) return EINVAL;
  if (pages < npages - first && pages % BITS_PER_LONG !== 0) return EINVAL;
  yield* kvmArchSyncDirtyLog(vm);
  let flush = false;
  yield* writeLock(kvm.mmuLock);
  for (let i = 0; i < Math.ceil(pages / BITS_PER_LONG); i++) {
    const wanted = bits === null ? ALL_ONES : (bits[i] ?? U64_ZERO);
    if (isEmpty(wanted)) continue;
    const word = wordOf(world, slot, first / BITS_PER_LONG + i);
    const mask = andU64(wanted, yield* fetchAnd(word, u64(~wanted.hi, ~wanted.lo)));
    if (isEmpty(mask)) continue;
    flush = true;
    yield* kvmArchMmuEnableLogDirtyPtMasked(vm, slot, first + i * BITS_PER_LONG, mask);
  }
  yield* writeUnlock(kvm.mmuLock);
  if (flush) yield* flushRemoteTlbs(kvm);
  return 0;
}

/**
 * kvm_arch_mmu_enable_log_dirty_pt_masked(): the frames in the mask are noticed when they are written next. mmu_lock held for write.
 * @param offset of the mask's first frame in the slot
 */
export function* kvmArchMmuEnableLogDirtyPtMasked(vm: Vm, slot: KvmMemorySlot, offset: number, mask: U64): Steps<void> {
  const { kvm } = vm;
  assertHeldWrite(kvm.mmuLock);
  if (isEmpty(mask)) return;
  const first = (slot.base_gfn.value + offset) as Gfn;
  // Huge pages were left alone when logging began.
  if (manualProtectAndInitSet(kvm)) {
    const start = (first + lowestBit(mask)) as Gfn;
    const end = (first + highestBit(mask)) as Gfn;
    if (kvm.params.eagerPageSplit) yield* vm.ops.splitRange(slot, { start, end: (end + 1) as Gfn });
    yield* vm.ops.wrprotHuge(slot, start);
    const hugePageOf = (frame: number): number => Math.ceil(frame / pagesPerLevel(PG_LEVEL_2M));
    if (hugePageOf(start) !== hugePageOf(end)) yield* vm.ops.wrprotHuge(slot, end);
  }
  yield* vm.ops.wrprotMasked(slot, first, mask);
}

/** The frames of a log, as indices in the slot; for the VMM. */
export function framesOf(log: DirtyLog): number[] {
  return log.flatMap((word, i) =>
    Array.from({ length: BITS_PER_LONG }, (_, n) => n).flatMap((n) => (hasBit(word, n) ? [i * BITS_PER_LONG + n] : [])),
  );
}
