/**
 * kvm->gpc_list and, for the designs that have them, the VM-wide range of invalidations in flight and the queue of who waits for it.
 *
 * The list is protected by gpc_lock. The range is the union of the ranges in flight: it only grows, and is reset when the last one ends;
 * it is written under mn_invalidate_lock.
 */
import { arrayOf, type Cell, cell, ptr, Struct, UsageError, u32, type View, type World } from "../engine/index.ts";
import { type Kernel, SpinLock, WaitQueue } from "../kernel/index.ts";

const CACHES_MAX = 4;
const FIELDS = { count: u32, entries: arrayOf(ptr, CACHES_MAX) };
const LIST = new Struct("gpc_list", FIELDS);

export class GpcList<Cache extends { readonly addr: number }> {
  readonly lock: SpinLock;
  readonly invalidateRangeStart: Cell;
  readonly invalidateRangeEnd: Cell;
  readonly invalidateWait: WaitQueue;
  private readonly list: View<typeof FIELDS>;
  /** Caches by address; made during set-up, never forgotten. */
  private readonly byAddr = new Map<number, Cache>();

  constructor(world: World, kernel: Kernel) {
    this.lock = new SpinLock(world, "kvm->gpc_lock");
    this.list = LIST.allocate(world, "kvm->gpc_list");
    this.invalidateRangeStart = cell(world, "gpc_invalidate_range_start");
    this.invalidateRangeEnd = cell(world, "gpc_invalidate_range_end");
    this.invalidateWait = new WaitQueue(world, kernel.states, "kvm->gpc_invalidate_wq");
  }

  /** Makes a cache known by its address. Set-up only. */
  register(cache: Cache): void {
    this.byAddr.set(cache.addr, cache);
  }

  /** list_add(), with gpc_lock held. */
  add(cache: Cache): void {
    const count = this.list.count.value;
    if (count === CACHES_MAX) throw new UsageError(`more than ${CACHES_MAX} caches: raise CACHES_MAX`);
    this.list.entries(count).value = cache.addr;
    this.list.count.value = count + 1;
  }

  /** list_del(), with gpc_lock held. */
  remove(cache: Cache): void {
    const rest = this.addresses().filter((addr) => addr !== cache.addr);
    for (const [i, addr] of rest.entries()) this.list.entries(i).value = addr;
    this.list.count.value = rest.length;
  }

  /** The caches on the list, with gpc_lock held. */
  caches(): Cache[] {
    return this.addresses().map((addr) => this.byAddr.get(addr) as Cache);
  }

  private addresses(): number[] {
    return Array.from({ length: this.list.count.value }, (_, i) => this.list.entries(i).value);
  }
}
