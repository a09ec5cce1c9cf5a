/**
 * Memslots: which guest frames there are, and where the VMM's process has them.
 *
 * Two sets, one active. Readers find the active set under SRCU; an update (memory-region.ts) builds the other one and publishes it. A slot is
 * never changed once a set that has it was published: an update puts a changed copy in its place.
 *
 * Stands for struct kvm_memslots, gfn_to_memslot(), id_to_memslot() of 6.12 and 7.2. A set is a table of slots, searched in turn (Linux:
 * trees, which change only how fast).
 */
import {
  arrayOf,
  Cell,
  cell,
  load,
  ptr,
  type Steps,
  Struct,
  u32,
  u53,
  type View,
  type World,
} from "../engine/index.ts";
import { type Kernel, Mutex, SpinLock, type Srcu, WaitQueue } from "../kernel/index.ts";
import { type Gfn, type Hva, PAGE_SIZE } from "../machine/index.ts";
import { allocateLpageInfo, LPAGE_LEVELS } from "./lpage-info.ts";

export const KVM_MEM_LOG_DIRTY_PAGES = 1;
export const KVM_MEM_READONLY = 2;
export const KVM_MEMSLOT_INVALID = 1 << 16;
/** Bit 63 in Linux; generations here are numbers, so the highest that is exact. */
export const KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS = 2 ** 52;

/** Sizes of pages that have reverse maps. */
const RMAP_LEVELS = 3;

const SLOT_FIELDS = {
  base_gfn: u53,
  npages: u53,
  userspace_addr: u53,
  flags: u32,
  id: u32,
  /** slot->arch.lpage_info: counts by level, from 2M up. */
  lpage_info: arrayOf(ptr, LPAGE_LEVELS.length),
  /** slot->dirty_bitmap; 0 when there is none. */
  dirty_bitmap: ptr,
  /** slot->arch.rmap, by level from 4K up, and slot->arch.gfn_write_track; 0 until there are shadow pages. */
  rmap: arrayOf(ptr, RMAP_LEVELS),
  gfn_write_track: ptr,
};
const SLOT = new Struct("kvm_memory_slot", SLOT_FIELDS);
export type KvmMemorySlot = View<typeof SLOT_FIELDS>;

/** `slots` is a table of `count` pointers; it has room for `capacity`. */
const SET_FIELDS = { generation: u53, count: u32, capacity: u32, slots: ptr };
const SET = new Struct("kvm_memslots", SET_FIELDS);
export type SlotSet = View<typeof SET_FIELDS>;

const FIRST_CAPACITY = 4;

export interface SlotDescription {
  readonly id: number;
  readonly baseGfn: Gfn;
  readonly npages: number;
  readonly userspaceAddr: Hva;
  readonly flags: number;
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
  /** The view on a slot that was asked for last: a view is an address and nothing else, and it is nearly always the same one. */
  private lastView: KvmMemorySlot | null = null;

  constructor(world: World, kernel: Kernel, srcu: Srcu) {
    this.world = world;
    this.srcu = srcu;
    this.slotsLock = new Mutex(world, "kvm->slots_lock");
    this.slotsArchLock = new Mutex(world, "kvm->slots_arch_lock");
    this.mnInvalidateLock = new SpinLock(world, "kvm->mn_invalidate_lock");
    this.mnActiveInvalidateCount = cell(world, "mn_active_invalidate_count");
    this.mnMemslotsUpdateWait = new WaitQueue(world, kernel.states, "kvm->mn_memslots_update_rcuwait");
    this.sets = [SET.allocate(world, "memslots[0]"), SET.allocate(world, "memslots[1]")];
    for (const set of this.sets) setCapacity(world, set, FIRST_CAPACITY);
    this.active = cell(world, "kvm->memslots", this.sets[0].addr);
  }

  /** Adds a slot during set-up, as one update would: the generation advances by two. */
  addDuringSetup(slot: SlotDescription): KvmMemorySlot {
    const made = newSlot(this.world, slot);
    this.world.makeMortal(made.addr);
    for (const set of this.sets) {
      this.fill(set, [...this.slotsOf(set).map(({ addr }) => addr), made.addr]);
      set.generation.value += 2;
    }
    return made;
  }

  setAt(addr: number): SlotSet {
    return this.sets[addr === this.sets[0].addr ? 0 : 1];
  }

  slotAt(addr: number): KvmMemorySlot {
    const { lastView } = this;
    if (lastView !== null && lastView.addr === addr) return lastView;
    const view = SLOT.at(this.world, addr);
    this.lastView = view;
    return view;
  }

  inactiveSet(active: number): SlotSet {
    return this.sets[0].addr === active ? this.sets[1] : this.sets[0];
  }

  /** The slots of a set, in order. Under SRCU, or with slots_lock held. */
  slotsOf(set: SlotSet): KvmMemorySlot[] {
    const slots: KvmMemorySlot[] = [];
    const count = set.count.value;
    const table = set.slots.value;
    for (let i = 0; i < count; i++) slots.push(this.slotAt(entryOf(this.world, table, i).value));
    return slots;
  }

  /** search_memslots(): the slot of a set that has the frame; null when none has. */
  find(set: SlotSet, gfn: Gfn): KvmMemorySlot | null {
    const count = set.count.value;
    const table = set.slots.value;
    for (let i = 0; i < count; i++) {
      const slot = this.slotAt(entryOf(this.world, table, i).value);
      if (contains(slot, gfn)) return slot;
    }
    return null;
  }

  /** id_to_memslot(), with slots_lock held: in the active set; null when there is none. */
  byId(id: number): KvmMemorySlot | null {
    const set = this.setAt(this.active.value);
    return this.slotsOf(set).find((slot) => slot.id.value === id) ?? null;
  }

  /** Makes a set hold these slots. With nobody reading it. */
  fill(set: SlotSet, addrs: readonly number[]): void {
    if (addrs.length > set.capacity.value) setCapacity(this.world, set, 2 * addrs.length);
    const table = set.slots.value;
    for (const [i, addr] of addrs.entries()) entryOf(this.world, table, i).value = addr;
    set.count.value = addrs.length;
  }
}

function entryOf(world: World, table: number, index: number): Cell {
  return new Cell<number>(world, table + 8 * index, 8, false);
}

function setCapacity(world: World, set: SlotSet, capacity: number): void {
  set.slots.value = world.allocate(8 * capacity, "kvm_memslots.slots", (offset) => `[${offset >>> 3}]`);
  set.capacity.value = capacity;
}

/** A slot with what KVM keeps of its large pages; in no set yet. */
export function newSlot(world: World, slot: SlotDescription): KvmMemorySlot {
  const name = `memslot ${slot.id}`;
  const made = SLOT.allocate(world, name);
  setPlace(made, slot);
  for (const [i, level] of LPAGE_LEVELS.entries()) {
    made.lpage_info(i).value = allocateLpageInfo(world, slot, level, name);
  }
  return made;
}

/** A copy of a slot with other flags, which shares what KVM keeps of its large pages. */
export function copyOfSlot(world: World, slot: KvmMemorySlot, flags: number): KvmMemorySlot {
  const made = SLOT.allocate(
    world,
    `memslot ${slot.id.value}${(flags & KVM_MEMSLOT_INVALID) !== 0 ? " (invalid)" : ""}`,
  );
  for (const field of ["base_gfn", "npages", "userspace_addr", "id", "dirty_bitmap", "gfn_write_track"] as const) {
    made[field].value = slot[field].value;
  }
  made.flags.value = flags;
  for (const i of LPAGE_LEVELS.keys()) made.lpage_info(i).value = slot.lpage_info(i).value;
  for (let i = 0; i < RMAP_LEVELS; i++) made.rmap(i).value = slot.rmap(i).value;
  return made;
}

function setPlace(made: KvmMemorySlot, slot: SlotDescription): void {
  made.base_gfn.value = slot.baseGfn;
  made.npages.value = slot.npages;
  made.userspace_addr.value = slot.userspaceAddr;
  made.flags.value = slot.flags;
  made.id.value = slot.id;
}

/** kvm_memslots(): the active set, under SRCU. */
export function* kvmMemslots(memslots: Memslots): Steps<SlotSet> {
  return memslots.setAt(yield* load(memslots.active));
}

/** gfn_to_memslot(): null when no slot has the frame. */
export function* gfnToMemslot(memslots: Memslots, gfn: Gfn): Steps<KvmMemorySlot | null> {
  return memslots.find(memslots.setAt(yield* load(memslots.active)), gfn);
}

function contains(slot: KvmMemorySlot, gfn: Gfn): boolean {
  const base = slot.base_gfn.value;
  return gfn >= base && gfn < base + slot.npages.value;
}

/** kvm_is_visible_memslot() */
export function isVisibleMemslot(slot: KvmMemorySlot | null): slot is KvmMemorySlot {
  return slot !== null && (slot.flags.value & KVM_MEMSLOT_INVALID) === 0;
}

/** memslot_is_readonly() */
export function memslotIsReadonly(slot: KvmMemorySlot): boolean {
  return (slot.flags.value & KVM_MEM_READONLY) !== 0;
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
