/**
 * Dirty rings: each vCPU lists the frames that it has made dirty, for the VMM to collect.
 *
 *     entry:   invalid --(vCPU: push)--> dirty --(VMM: collects)--> to be reset --(KVM_RESET_DIRTY_RINGS)--> invalid
 *
 *     reset_index                dirty_index
 *         |  collected  |  dirty  |  free ...
 *
 * Only the vCPU's own thread pushes. An entry's contents are written before its flags: the VMM, which reads the ring without any lock, believes what
 * it finds once the flags say dirty. Resetting protects the frames again, in batches of up to 64 that lie together, then flushes. A vCPU whose
 * ring is nearly full leaves to the VMM before it enters the guest; what is kept free is for the pushes that may still come before that.
 *
 * Stands for dirty_ring.c of 6.12 and 7.2.
 */
import {
  type Cell,
  fetchAnd,
  fetchOr,
  load,
  numberToU64,
  orU64,
  type Steps,
  Struct,
  store,
  type U64,
  U64_ZERO,
  u32,
  u64,
  u64Field,
  u64ToNumber,
  type View,
  Violation,
  type World,
} from "../engine/index.ts";
import { assertHeld, mutexLock, mutexUnlock, writeLock, writeUnlock } from "../kernel/index.ts";
import { kvmArchMmuEnableLogDirtyPtMasked } from "./dirty-log.ts";
import { KVM_REQ_DIRTY_RING_SOFT_FULL } from "./requests.ts";
import type { KvmEvent } from "./trace.ts";
import type { Vm } from "./vm.ts";

const ENTRY_FIELDS = { flags: u32, slot: u32, offset: u64Field };
/** struct kvm_dirty_gfn */
const ENTRY = new Struct("kvm_dirty_gfn", ENTRY_FIELDS);
type DirtyGfn = View<typeof ENTRY_FIELDS>;

const RING_FIELDS = { dirty_index: u32, reset_index: u32 };
const RING = new Struct("kvm_dirty_ring", RING_FIELDS);

const KVM_DIRTY_GFN_F_DIRTY = 1;
const KVM_DIRTY_GFN_F_RESET = 2;
/** KVM_DIRTY_RING_RSVD_ENTRIES */
const RESERVED = 64;

export class DirtyRing {
  readonly world: World;
  /** The vCPU's number. */
  readonly index: number;
  readonly size: number;
  readonly softLimit: number;
  readonly fields: View<typeof RING_FIELDS>;
  /** The vCPU's requests. */
  readonly requests: Cell;
  private readonly entries: (index: number) => DirtyGfn;

  /**
   * kvm_dirty_ring_alloc()
   * @param size in bytes, a power of two; and entries that are kept free besides the usual ones
   */
  constructor(
    world: World,
    index: number,
    { bytes, reserved }: { readonly bytes: number; readonly reserved: number },
    requests: Cell,
  ) {
    this.world = world;
    this.index = index;
    this.size = bytes / ENTRY.bytes;
    this.requests = requests;
    this.softLimit = this.size - RESERVED - reserved;
    this.fields = RING.allocate(world, `vcpu${index}->dirty_ring`);
    this.entries = ENTRY.allocateArray(world, this.size, `vcpu${index}->dirty_gfns`);
  }

  /** The entry that has the number `at`, counted from the ring's beginning of time. */
  entry(at: number): DirtyGfn {
    return this.entries(at % this.size);
  }

  emit(event: KvmEvent): void {
    this.world.emit(event);
  }
}

/** kvm_dirty_ring_used() */
function* used(ring: DirtyRing): Steps<number> {
  return ((yield* load(ring.fields.dirty_index)) - (yield* load(ring.fields.reset_index))) >>> 0;
}

/** kvm_dirty_ring_soft_full() */
function* kvmDirtyRingSoftFull(ring: DirtyRing): Steps<boolean> {
  return (yield* used(ring)) >= ring.softLimit;
}

/** kvm_dirty_ring_check_request(), before the guest is entered: true when the VMM has to collect the ring first. The request stays until it has. */
export function* kvmDirtyRingCheckRequest(ring: DirtyRing): Steps<boolean> {
  const { requests } = ring;
  if (((yield* load(requests)) & KVM_REQ_DIRTY_RING_SOFT_FULL) === 0) return false;
  yield* fetchAnd(requests, ~KVM_REQ_DIRTY_RING_SOFT_FULL >>> 0);
  if (!(yield* kvmDirtyRingSoftFull(ring))) return false;
  yield* fetchOr(requests, KVM_REQ_DIRTY_RING_SOFT_FULL);
  ring.emit({ name: "kvm_dirty_ring_exit", vcpu: ring.index });
  ring.emit({ name: "kvm_userspace_exit", reason: "KVM_EXIT_DIRTY_RING_FULL", code: 31 });
  return true;
}

/** kvm_dirty_ring_push(), by the vCPU's own thread. */
export function* kvmDirtyRingPush(ring: DirtyRing, slot: number, offset: number): Steps<void> {
  const { fields, index } = ring;
  if ((yield* used(ring)) >= ring.size) throw new Violation("dirty-ring-full", "a page is pushed to a full dirty ring");
  const dirty = yield* load(fields.dirty_index);
  const entry = ring.entry(dirty);
  yield* store(entry.slot, slot);
  yield* store(entry.offset, numberToU64(offset));
  // smp_wmb(): the contents are there before the flags say so.
  yield* store(entry.flags, KVM_DIRTY_GFN_F_DIRTY);
  yield* store(fields.dirty_index, (dirty + 1) >>> 0);
  const reset = yield* load(fields.reset_index);
  const dirtyNow = (dirty + 1) >>> 0;
  const inUse = (dirtyNow - reset) >>> 0;
  ring.emit({ name: "kvm_dirty_ring_push", ring: index, dirty: dirtyNow, reset, slot, offset, used: inUse });
  if (inUse >= ring.softLimit) yield* fetchOr(ring.requests, KVM_REQ_DIRTY_RING_SOFT_FULL);
}

/** A frame that the VMM has collected. */
export interface CollectedFrame {
  readonly slot: number;
  readonly offset: number;
}

/** What the VMM does: takes every dirty entry of a ring, from where it stopped last, and marks it to be reset. */
export function* collectDirtyRing(ring: DirtyRing): Steps<CollectedFrame[]> {
  const frames: CollectedFrame[] = [];
  const first = yield* load(ring.fields.reset_index);
  for (let at = first; frames.length < ring.size; at = (at + 1) >>> 0) {
    const entry = ring.entry(at);
    const flags = yield* load(entry.flags);
    if ((flags & KVM_DIRTY_GFN_F_DIRTY) === 0) break;
    if ((flags & KVM_DIRTY_GFN_F_RESET) !== 0) continue;
    frames.push({ slot: yield* load(entry.slot), offset: u64ToNumber(yield* load(entry.offset)) });
    yield* store(entry.flags, flags | KVM_DIRTY_GFN_F_RESET);
  }
  return frames;
}

/** KVM_RESET_DIRTY_RINGS: kvm_vm_ioctl_reset_dirty_pages(); returns how many entries were reset. */
export function* kvmResetDirtyRings(vm: Vm): Steps<number> {
  const { kvm } = vm;
  yield* mutexLock(kvm.memslots.slotsLock);
  let cleared = 0;
  for (const { dirtyRing } of vm.vcpus) if (dirtyRing !== null) cleared += yield* kvmDirtyRingReset(vm, dirtyRing);
  yield* mutexUnlock(kvm.memslots.slotsLock);
  if (cleared > 0 && kvm.arch !== null) yield* kvm.arch.flushRemoteTlbs();
  return cleared;
}

/** What an entry says, as KVM finds it: the VMM may have written anything. */
interface ReadEntry {
  readonly slot: number;
  readonly offset: bigint;
}

/** Frames of one slot that are protected again in one go: the lowest one, and which of the 64 from there on. */
interface Batch extends ReadEntry {
  readonly mask: U64;
}

/** Arithmetic of unsigned long, and of long. */
const wrapped = (value: bigint): bigint => BigInt.asUintN(64, value);
const signed = (value: bigint): number => Number(BigInt.asIntN(64, value));

/** kvm_dirty_ring_reset() */
function* kvmDirtyRingReset(vm: Vm, ring: DirtyRing): Steps<number> {
  assertHeld(vm.kvm.memslots.slotsLock);
  const { fields, index } = ring;
  let reset = yield* load(fields.reset_index);
  let count = 0;
  let batch: Batch | null = null;
  for (;;) {
    const entry = ring.entry(reset);
    if (((yield* load(entry.flags)) & KVM_DIRTY_GFN_F_RESET) === 0) break;
    const frame: ReadEntry = { slot: yield* load(entry.slot), offset: bigOf(yield* load(entry.offset)) };
    yield* store(entry.flags, 0);
    reset = (reset + 1) >>> 0;
    yield* store(fields.reset_index, reset);
    count++;
    const grown: Batch | null = batch === null ? null : joined(batch, frame);
    if (batch !== null && grown === null) yield* kvmResetDirtyGfn(vm, batch);
    batch = grown ?? { ...frame, mask: u64(0, 1) };
  }
  if (batch !== null) yield* kvmResetDirtyGfn(vm, batch);
  const dirty = yield* load(fields.dirty_index);
  ring.emit({ name: "kvm_dirty_ring_reset", ring: index, dirty, reset, used: (dirty - reset) >>> 0 });
  return count;
}

const bigOf = ({ hi, lo }: U64): bigint => (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);

const BITS_PER_LONG = 64;

/** The batch with one more frame; null when the frame lies too far away. */
function joined(batch: Batch, { slot, offset }: ReadEntry): Batch | null {
  const delta = signed(offset - batch.offset);
  if (slot !== batch.slot || Math.abs(delta) >= BITS_PER_LONG) return null;
  if (delta >= 0) return { ...batch, mask: orU64(batch.mask, shiftUp(u64(0, 1), delta)) };
  // The scan goes backwards: the batch begins earlier, if its highest frame stays inside.
  const moved = shiftUp(batch.mask, -delta);
  const kept = shiftDown(moved, -delta);
  if (kept.lo !== batch.mask.lo || kept.hi !== batch.mask.hi) return null;
  return { slot, offset, mask: orU64(moved, u64(0, 1)) };
}

function shiftUp(value: U64, by: number): U64 {
  if (by === 0) return value;
  if (by >= 64) return U64_ZERO;
  return by >= 32 ? u64(value.lo << (by - 32), 0) : u64((value.hi << by) | (value.lo >>> (32 - by)), value.lo << by);
}

function shiftDown(value: U64, by: number): U64 {
  if (by === 0) return value;
  if (by >= 64) return U64_ZERO;
  return by >= 32 ? u64(0, value.hi >>> (by - 32)) : u64(value.hi >>> by, (value.lo >>> by) | (value.hi << (32 - by)));
}

/** kvm_reset_dirty_gfn(): nothing, for a slot that has gone or shrunk since. The offset is the VMM's word: it may lie anywhere, and so wrap. */
function* kvmResetDirtyGfn(vm: Vm, { slot: id, offset, mask }: Batch): Steps<void> {
  const { kvm } = vm;
  const slot = kvm.memslots.byId(id);
  if (slot === null) return;
  const npages = BigInt(slot.npages.value);
  const last = wrapped(offset + BigInt(63 - leadingZeroes(mask)));
  const offsetCounts = !kvm.lacks("dirty-ring-offset-wraps");
  if ((offsetCounts && offset >= npages) || last >= npages) return;
  yield* writeLock(kvm.mmuLock);
  yield* kvmArchMmuEnableLogDirtyPtMasked(vm, slot, signed(offset), mask);
  yield* writeUnlock(kvm.mmuLock);
}

function leadingZeroes(mask: U64): number {
  return mask.hi !== 0 ? Math.clz32(mask.hi) : 32 + Math.clz32(mask.lo);
}
