/**
 * Memslots: which guest frames there are, and where the VMM's process has them.
 *
 * Two sets, one active. Readers find the active set under SRCU; an update builds the other one and publishes it:
 *
 *     slots_lock, slots_arch_lock
 *     generation of the inactive set = old | UPDATE_IN_PROGRESS
 *     wait until no invalidation is between start and end
 *     publish; drop slots_arch_lock; synchronize_srcu()
 *     generation = old + 2; bring the other set up to date
 *
 * Deleting first publishes a copy marked INVALID, has the MMU drop what it holds for the slot, and then publishes the set without it.
 * Stands for kvm_set_memslot(), kvm_swap_active_memslots(), gfn_to_memslot() of 6.12 and 7.2. A set holds up to 8 slots, searched in turn
 * (Linux: trees, which change only how fast).
 */
import {
  arrayOf,
  type Cell,
  cell,
  load,
  ptr,
  type Steps,
  Struct,
  store,
  UsageError,
  u32,
  u53,
  type View,
  type World,
} from "../engine/index.ts";
import {
  assertHeld,
  finishWait,
  type Kernel,
  Mutex,
  mutexLock,
  mutexUnlock,
  prepareToWait,
  SpinLock,
  type Srcu,
  schedule,
  spinLock,
  spinUnlock,
  synchronizeSrcu,
  WaitQueue,
} from "../kernel/index.ts";
import { type Gfn, type Hva, PAGE_SIZE } from "../machine/index.ts";

export const KVM_MEM_LOG_DIRTY_PAGES = 1;
export const KVM_MEM_READONLY = 2;
export const KVM_MEMSLOT_INVALID = 1 << 16;
/** Bit 63 in Linux; generations here are numbers, so the highest that is exact. */
export const KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS = 2 ** 52;

const SLOTS_MAX = 8;

const SLOT_FIELDS = { base_gfn: u53, npages: u53, userspace_addr: u53, flags: u32, id: u32 };
const SLOT = new Struct("kvm_memory_slot", SLOT_FIELDS);
export type KvmMemorySlot = View<typeof SLOT_FIELDS>;

const SET_FIELDS = { generation: u53, count: u32, slots: arrayOf(ptr, SLOTS_MAX) };
const SET = new Struct("kvm_memslots", SET_FIELDS);
type SlotSet = View<typeof SET_FIELDS>;

export interface SlotDescription {
  readonly id: number;
  readonly baseGfn: Gfn;
  readonly npages: number;
  readonly userspaceAddr: Hva;
  readonly flags: number;
}

/** What a memslot update asks of the MMU. */
export interface MemslotArch {
  flushShadowMemslot(slot: KvmMemorySlot): Steps<void>;
}

export class Memslots {
  readonly world: World;
  readonly slotsLock: Mutex;
  readonly slotsArchLock: Mutex;
  readonly srcu: Srcu;
  /** kvm->memslots[0]: the active set. */
  readonly active: Cell;
  /** Invalidations between start and end, and who waits for there to be none. */
  readonly mnInvalidateLock: SpinLock;
  readonly mnActiveInvalidateCount: Cell;
  readonly mnMemslotsUpdateWait: WaitQueue;
  private readonly sets: readonly [SlotSet, SlotSet];

  constructor(world: World, kernel: Kernel, srcu: Srcu) {
    this.world = world;
    this.srcu = srcu;
    this.slotsLock = new Mutex(world, "kvm->slots_lock");
    this.slotsArchLock = new Mutex(world, "kvm->slots_arch_lock");
    this.mnInvalidateLock = new SpinLock(world, "kvm->mn_invalidate_lock");
    this.mnActiveInvalidateCount = cell(world, "mn_active_invalidate_count");
    this.mnMemslotsUpdateWait = new WaitQueue(world, kernel.states, "kvm->mn_memslots_update_rcuwait");
    this.sets = [SET.allocate(world, "memslots[0]"), SET.allocate(world, "memslots[1]")];
    this.active = cell(world, "kvm->memslots", this.sets[0].addr);
  }

  /** Adds a slot during set-up, as one update would: the generation advances by two. */
  addDuringSetup(slot: SlotDescription): KvmMemorySlot {
    const made = newSlot(this.world, slot);
    for (const set of this.sets) {
      append(set, made.addr);
      set.generation.value += 2;
    }
    return made;
  }

  setAt(addr: number): SlotSet {
    return SET.at(this.world, addr);
  }

  slotAt(addr: number): KvmMemorySlot {
    return SLOT.at(this.world, addr);
  }

  inactiveSet(active: number): SlotSet {
    return this.sets[0].addr === active ? this.sets[1] : this.sets[0];
  }

  /** The slots of a set, in order. Under SRCU, or with slots_lock held. */
  slotsOf(set: SlotSet): KvmMemorySlot[] {
    const slots: KvmMemorySlot[] = [];
    for (let i = 0; i < set.count.value; i++) slots.push(this.slotAt(set.slots(i).value));
    return slots;
  }
}

function newSlot(world: World, slot: SlotDescription): KvmMemorySlot {
  const made = SLOT.allocate(world, `memslot ${slot.id}`);
  made.base_gfn.value = slot.baseGfn;
  made.npages.value = slot.npages;
  made.userspace_addr.value = slot.userspaceAddr;
  made.flags.value = slot.flags;
  made.id.value = slot.id;
  return made;
}

function append(set: SlotSet, slot: number): void {
  const count = set.count.value;
  if (count >= SLOTS_MAX) throw new UsageError(`more than ${SLOTS_MAX} memslots: raise SLOTS_MAX`);
  set.slots(count).value = slot;
  set.count.value = count + 1;
}

/** kvm_memslots(): the active set, under SRCU. */
export function* kvmMemslots(memslots: Memslots): Steps<SlotSet> {
  return memslots.setAt(yield* load(memslots.active));
}

/** gfn_to_memslot(): null when no slot has the frame. */
export function* gfnToMemslot(memslots: Memslots, gfn: Gfn): Steps<KvmMemorySlot | null> {
  const set = yield* kvmMemslots(memslots);
  return memslots.slotsOf(set).find((slot) => contains(slot, gfn)) ?? null;
}

function contains(slot: KvmMemorySlot, gfn: Gfn): boolean {
  const base = slot.base_gfn.value;
  return gfn >= base && gfn < base + slot.npages.value;
}

/** __gfn_to_hva_memslot() */
export function gfnToHva(slot: KvmMemorySlot, gfn: Gfn): Hva {
  return (slot.userspace_addr.value + (gfn - slot.base_gfn.value) * PAGE_SIZE) as Hva;
}

/** The part of a slot that a range of host addresses covers, as guest frames [start, end); null when they do not meet. */
export function gfnRangeOf(slot: KvmMemorySlot, start: Hva, end: Hva): { start: Gfn; end: Gfn } | null {
  const first = slot.userspace_addr.value;
  const last = first + slot.npages.value * PAGE_SIZE;
  const from = Math.max(start, first);
  const to = Math.min(end, last);
  if (from >= to) return null;
  const base = slot.base_gfn.value;
  return {
    start: (base + Math.floor((from - first) / PAGE_SIZE)) as Gfn,
    end: (base + Math.ceil((to - first) / PAGE_SIZE)) as Gfn,
  };
}

/** KVM_SET_USER_MEMORY_REGION that creates a slot. */
export function* kvmCreateMemslot(memslots: Memslots, slot: SlotDescription): Steps<void> {
  yield* mutexLock(memslots.slotsLock);
  yield* mutexLock(memslots.slotsArchLock);
  const made = newSlot(memslots.world, slot);
  yield* replaceSlots(memslots, (addrs) => [...addrs, made.addr]);
  yield* mutexUnlock(memslots.slotsLock);
}

/** KVM_SET_USER_MEMORY_REGION with size 0: invalid first, then gone. */
export function* kvmDeleteMemslot(memslots: Memslots, arch: MemslotArch, id: number): Steps<void> {
  yield* mutexLock(memslots.slotsLock);
  yield* mutexLock(memslots.slotsArchLock);
  const set = memslots.setAt(memslots.active.value);
  const old = memslots.slotsOf(set).find((slot) => slot.id.value === id);
  if (old === undefined) throw new UsageError(`memslot ${id}: does not exist; create it before it is deleted`);
  const invalid = SLOT.allocate(memslots.world, `memslot ${id} (invalid)`);
  for (const field of ["base_gfn", "npages", "userspace_addr", "id"] as const) invalid[field].value = old[field].value;
  invalid.flags.value = old.flags.value | KVM_MEMSLOT_INVALID;
  yield* replaceSlots(memslots, (addrs) => addrs.map((addr) => (addr === old.addr ? invalid.addr : addr)));
  yield* arch.flushShadowMemslot(invalid);
  yield* mutexLock(memslots.slotsArchLock);
  yield* replaceSlots(memslots, (addrs) => addrs.filter((addr) => addr !== invalid.addr));
  yield* mutexUnlock(memslots.slotsLock);
}

/** kvm_swap_active_memslots() with the change given; drops slots_arch_lock. */
function* replaceSlots(memslots: Memslots, change: (addrs: readonly number[]) => readonly number[]): Steps<void> {
  assertHeld(memslots.slotsLock);
  assertHeld(memslots.slotsArchLock);
  const activeAddr = memslots.active.value;
  const active = memslots.setAt(activeAddr);
  const inactive = memslots.inactiveSet(activeAddr);
  const addrs = change(memslots.slotsOf(active).map((slot) => slot.addr));
  const generation = active.generation.value;
  fill(inactive, addrs);
  yield* store(inactive.generation, generation + KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS);
  yield* waitForInvalidations(memslots);
  yield* store(memslots.active, inactive.addr, "rcu_assign_pointer(kvm->memslots)");
  yield* mutexUnlock(memslots.slotsArchLock);
  yield* synchronizeSrcu(memslots.srcu);
  yield* store(inactive.generation, generation + 2);
  // Nobody reads the old set any more.
  fill(active, addrs);
  active.generation.value = generation + 2;
}

function fill(set: SlotSet, addrs: readonly number[]): void {
  set.count.value = 0;
  for (const addr of addrs) append(set, addr);
}

/** An invalidation must see the same slots at its start and at its end. */
function* waitForInvalidations(memslots: Memslots): Steps<void> {
  const { mnInvalidateLock, mnActiveInvalidateCount, mnMemslotsUpdateWait } = memslots;
  yield* spinLock(mnInvalidateLock);
  while ((yield* load(mnActiveInvalidateCount)) !== 0) {
    yield* prepareToWait(mnMemslotsUpdateWait);
    yield* spinUnlock(mnInvalidateLock);
    yield* schedule(mnMemslotsUpdateWait);
    yield* spinLock(mnInvalidateLock);
  }
  yield* finishWait(mnMemslotsUpdateWait);
  yield* spinUnlock(mnInvalidateLock);
}
