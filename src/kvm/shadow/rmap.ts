/**
 * Reverse maps: from a guest frame to the SPTEs that map it, and from a shadow page to the entries that link it.
 *
 *     head      0              nothing
 *               sptep          one entry, by its address
 *               desc | 1       many
 *     desc      { more, spte_count, tail_count, sptes[14] }
 *
 *     head -> [a b c . . .] -> [14 entries] -> [14 entries] -> NULL
 *             new ones go here; only the first may have room
 *
 * An entry that is taken out leaves a hole, which the last entry of the first descriptor fills. A head with many stays one when a single entry
 * is left. Everything is done under mmu_lock held for write. From 6.15 on, aging walks the reverse maps of guest frames without it: bit 1 of the
 * head is a lock that every change takes, too. An empty head is never locked: nobody can walk it, and who fills it holds mmu_lock.
 *
 * Stands for struct kvm_rmap_head, pte_list_add(), pte_list_remove(), rmap_get_first(), kvm_rmap_lock() of 6.12 and 7.2. The caches that
 * descriptors come from are not modelled.
 */
import {
  acquire,
  arrayOf,
  assertThat,
  Cell,
  load,
  PLACE,
  ptr,
  retire,
  type Steps,
  Struct,
  store,
  type U64,
  u32,
  type View,
  type World,
} from "../../engine/index.ts";

const PTE_LIST_EXT = 14;
const MANY = 1;
const LOCKED = 2;

const FIELDS = { more: ptr, spte_count: u32, tail_count: u32, sptes: arrayOf(ptr, PTE_LIST_EXT) };
const DESC = new Struct("pte_list_desc", FIELDS);
type Desc = View<typeof FIELDS>;

/** Whether heads have a lock bit. Parents' heads have none. */
export interface RmapOptions {
  readonly locked: boolean;
  /** Variant: pte_list_add() changes a head that may be locked. */
  readonly addsUnlocked?: boolean;
}

function isMany(value: number): boolean {
  return (value & MANY) !== 0;
}

/** Without the bits that are not part of the address. */
function addressOf(value: number): number {
  return value - (value & 3);
}

function descAt(world: World, value: number): Desc {
  return DESC.at(world, addressOf(value));
}

const LOCK_TEXT = `kvm_rmap_lock(${PLACE})`;
const UNLOCK_TEXT = `kvm_rmap_unlock(${PLACE})`;
const UNLOCKED: RmapOptions = { locked: false };
const isUnlocked = (value: number): boolean => (value & LOCKED) === 0;
const withLock = (value: number): number => (value === 0 ? 0 : value + LOCKED);

/**
 * kvm_rmap_lock(), kvm_rmap_lock_readonly(): the head's value without the lock bit. An empty head is not locked, also where it becomes empty while one waits.
 * @param options heads without a lock bit are only read
 */
export function* rmapLock(head: Cell, options: RmapOptions): Steps<number> {
  const value = yield* load(head);
  if (!options.locked || value === 0) return value;
  return yield* acquire(head, isUnlocked, withLock, LOCK_TEXT);
}

/** kvm_rmap_unlock(): publishes the new value; an empty head that stays so was not locked. */
export function* rmapUnlock(head: Cell, options: RmapOptions, value: number, changed: boolean): Steps<void> {
  if (changed || (options.locked && value !== 0)) yield* store(head, value, options.locked ? UNLOCK_TEXT : "");
}

/** pte_list_add(): returns how many entries there were before. */
export function* pteListAdd(world: World, head: Cell, options: RmapOptions, sptep: number): Steps<number> {
  const value = yield* rmapLock(head, options.addsUnlocked === true ? UNLOCKED : options);
  if (value === 0) {
    yield* rmapUnlock(head, options, sptep, true);
    return 0;
  }
  if (!isMany(value)) {
    const desc = DESC.allocate(world, "pte_list_desc");
    desc.sptes(0).value = value;
    desc.sptes(1).value = sptep;
    desc.spte_count.value = 2;
    yield* rmapUnlock(head, options, desc.addr + MANY, true);
    return 1;
  }
  let desc = descAt(world, value);
  const count = desc.tail_count.value + desc.spte_count.value;
  if (desc.spte_count.value === PTE_LIST_EXT) {
    const first = DESC.allocate(world, "pte_list_desc");
    first.more.value = desc.addr;
    first.tail_count.value = count;
    desc = first;
  }
  const used = desc.spte_count.value;
  desc.sptes(used).value = sptep;
  desc.spte_count.value = used + 1;
  yield* rmapUnlock(head, options, desc.addr + MANY, true);
  return count;
}

/** pte_list_remove() */
export function* pteListRemove(world: World, head: Cell, options: RmapOptions, sptep: number): Steps<void> {
  const value = yield* rmapLock(head, options);
  assertThat(value !== 0, "an SPTE is not in its reverse map: the map is empty", "rmap-consistent");
  if (!isMany(value)) {
    assertThat(value === sptep, "an SPTE is not in its reverse map", "rmap-consistent");
    yield* rmapUnlock(head, options, 0, true);
    return;
  }
  for (let at = addressOf(value); at !== 0; ) {
    const desc = DESC.at(world, at);
    const count = desc.spte_count.value;
    for (let i = 0; i < count; i++) {
      if (desc.sptes(i).value !== sptep) continue;
      yield* rmapUnlock(head, options, yield* removeFrom(world, value, desc, i), true);
      return;
    }
    at = desc.more.value;
  }
  assertThat(false, "an SPTE is not in its reverse map", "rmap-consistent");
}

/** pte_list_desc_remove_entry(): the head's new value. */
function* removeFrom(world: World, value: number, desc: Desc, index: number): Steps<number> {
  const first = descAt(world, value);
  const last = first.spte_count.value - 1;
  desc.sptes(index).value = first.sptes(last).value;
  first.sptes(last).value = 0;
  first.spte_count.value = last;
  if (last > 0) return value;
  const rest = first.more.value;
  yield* retire(world, first.addr, "freed");
  return rest === 0 ? 0 : rest + MANY;
}

/** for_each_rmap_spte(): the entries' addresses, as the map is now. Under mmu_lock. */
export function rmapEntries(world: World, value: number): number[] {
  const only = addressOf(value);
  if (only === 0) return [];
  if (!isMany(value)) return [only];
  const found: number[] = [];
  for (let at = only; at !== 0; ) {
    const desc = DESC.at(world, at);
    const count = desc.spte_count.value;
    for (let i = 0; i < count; i++) found.push(desc.sptes(i).value);
    at = desc.more.value;
  }
  return found;
}

/** for_each_rmap_spte_lockless(): the same without mmu_lock. Each read is a step of its own, so that a design without a lock shows what it walks into. */
export function* rmapEntriesLockless(world: World, value: number): Steps<number[]> {
  const only = addressOf(value);
  if (only === 0) return [];
  if (!isMany(value)) return [only];
  const found: number[] = [];
  for (let at = only; at !== 0; ) {
    const desc = DESC.at(world, at);
    const count = yield* load(desc.spte_count);
    for (let i = 0; i < count; i++) found.push(yield* load(desc.sptes(i)));
    at = yield* load(desc.more);
  }
  return found;
}

/** kvm_zap_all_rmap_sptes(), its list: the map becomes empty; returns what was in it. */
export function* rmapTakeAll(world: World, head: Cell, options: RmapOptions): Steps<number[]> {
  const value = yield* rmapLock(head, options);
  const found = rmapEntries(world, value);
  if (isMany(value)) {
    for (let at = addressOf(value); at !== 0; ) {
      const next = DESC.at(world, at).more.value;
      yield* retire(world, at, "freed");
      at = next;
    }
  }
  yield* rmapUnlock(head, options, 0, value !== 0);
  return found;
}

/** The entry at an address as a cell: for oracles and studies, and where an operation is not one of those that take an address. */
export function spteAt(world: World, addr: number): Cell<U64> {
  return new Cell<U64>(world, addr, 8, true);
}

/** Whether a head that nobody is working on has these entries, once each, and no lock; null when it does. For oracles. */
export function rmapProblem(world: World, head: Cell, wanted: readonly number[]): string | null {
  const value = head.peek();
  const problem = (what: string): string => `${head.name} ${what}`;
  if (!isUnlocked(value)) return problem("stays locked");
  const found: number[] = value === 0 || isMany(value) ? [] : [value];
  for (let at = isMany(value) ? addressOf(value) : 0; at !== 0; ) {
    if (world.deathOf(at) !== null) return problem("leads to a descriptor that is freed");
    const desc = DESC.at(world, at);
    const count = desc.spte_count.peek();
    for (let i = 0; i < count; i++) found.push(desc.sptes(i).peek());
    at = desc.more.peek();
  }
  const missing = wanted.find((addr) => !found.includes(addr));
  if (missing !== undefined) return problem(`does not have ${world.nameOf(missing)}, a present leaf`);
  if (new Set(found).size < found.length) return problem("has an entry twice");
  const stray = found.find((addr) => !wanted.includes(addr));
  return stray === undefined ? null : problem(`has ${world.nameOf(stray)}, which is no present leaf`);
}
