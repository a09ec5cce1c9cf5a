/**
 * Objects that are allocated and freed: a struct kmem_cache.
 *
 * A cache holds a fixed number of objects, made during set-up. Which of them are free is one word, a bit for each, which allocating and
 * freeing change in one step. The lowest free one is taken, so an object that was just freed is soon handed out again. An object that is not
 * allocated is dead: any access to it is a failure.
 *
 *     reuse        what is freed may be allocated again at once: another object at the same address (ABA)
 *     no reuse     every allocation has an address of its own, so that a stale pointer is always noticed
 *
 * Found without being asked: use after free, double free, and what is still allocated when all is over.
 */
import { acquire, Cell, retire, revive, type Steps, UsageError, type World } from "../engine/index.ts";

export interface CacheOptions {
  /** How many objects there are; at most 30. */
  readonly objects: number;
  /** Freed objects are handed out again. */
  readonly reuse?: boolean;
  /** What is still allocated at the end is no leak. */
  readonly mayLeak?: boolean;
}

/** A structure of the engine: what makes views on objects. */
interface Layout<V> {
  readonly name: string;
  allocate(world: World, label: string): V;
  at(world: World, addr: number): V;
}

const OBJECTS_MAX = 30;
const FREED = { property: "use-after-free", because: "freed" };
const NOT_ALLOCATED = { property: "use-after-free", because: "not allocated" };

export class KmemCache<V extends { readonly addr: number }> {
  readonly world: World;
  readonly layout: Layout<V>;
  readonly reuse: boolean;
  /** Bit i is set when object i is free. */
  readonly free: Cell;
  readonly addresses: readonly number[];

  constructor(world: World, layout: Layout<V>, { objects, reuse = false, mayLeak = false }: CacheOptions) {
    if (objects < 1 || objects > OBJECTS_MAX) {
      throw new UsageError(`kmem_cache ${layout.name}: ${objects} objects; ask for 1 to ${OBJECTS_MAX}`);
    }
    this.world = world;
    this.layout = layout;
    this.reuse = reuse;
    this.free = new Cell<number>(world, world.allocate(8, `${layout.name} cache`), 8, false);
    this.free.value = 2 ** objects - 1;
    this.addresses = Array.from({ length: objects }, (_, i) => layout.allocate(world, `${layout.name}#${i}`).addr);
    for (const addr of this.addresses) world.setLife(addr, NOT_ALLOCATED);
    if (mayLeak) return;
    world.endChecks.push((fail) => {
      for (const name of this.allocated()) fail("leak", `${name} is never freed`, -1);
    });
  }

  /** Names of the objects that are allocated now. */
  allocated(): string[] {
    const living = this.addresses.filter((addr) => this.world.deathOf(addr) === null);
    return living.map((addr) => `${this.layout.name}#${this.addresses.indexOf(addr)}`);
  }
}

const always = (): boolean => true;
const takeLowest = (free: number): number => free & (free - 1);

/** kmem_cache_alloc(). What the object held before is still there. */
export function* kmemCacheAlloc<V extends { readonly addr: number }>(cache: KmemCache<V>): Steps<V> {
  const { world, layout } = cache;
  const free = yield* acquire(cache.free, always, takeLowest, `kmem_cache_alloc(${layout.name})`);
  const addr = cache.addresses[31 - Math.clz32(free & -free)];
  if (addr === undefined) {
    throw new UsageError(`kmem_cache ${layout.name}: all ${cache.addresses.length} objects are in use; give it more`);
  }
  yield* revive(world, addr);
  return layout.at(world, addr);
}

/** kmem_cache_free() */
export function* kmemCacheFree<V extends { readonly addr: number }>(cache: KmemCache<V>, object: V): Steps<void> {
  const { world, layout } = cache;
  const bit = 1 << cache.addresses.indexOf(object.addr);
  if (bit === 1 << -1) throw new UsageError(`kmem_cache ${layout.name}: asked to free what is not of it`);
  yield* retire(world, object.addr, FREED.because, FREED.property);
  if (cache.reuse) yield* acquire(cache.free, always, (free) => free | bit, `kmem_cache_free(${layout.name})`);
}
