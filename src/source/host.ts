/**
 * The rest of the kernel, as far as a compiled KVM needs one: what services (services.ts) keep between calls.
 *
 * Objects of C have no TypeScript objects of their own; a service finds what belongs to an address here. Everything is made during set-up, or the same
 * whenever a task that made it is run again.
 */
import { Cell, EngineBug, type World } from "../engine/index.ts";
import {
  type Current,
  type Kernel,
  type Lockable,
  type Mm,
  Mutex,
  PageFrames,
  RwLock,
  SpinLock,
  Srcu,
} from "../kernel/index.ts";
import { type GuestCpu, type Interrupts, PAGE_SIZE, type Pfn, pfnToHpa } from "../machine/index.ts";
import type { CompiledKernel } from "./machine.ts";
import { ObjectPool } from "./object-pool.ts";

type StructPage = ReturnType<PageFrames["pageOf"]>;

/** struct page, as the kernel has it: a reference count that C code changes too, and heads and tails of huge pages. */
export class SourceFrames extends PageFrames {
  private kernel: CompiledKernel | null = null;
  private base = 0;
  private bytes = 0;
  private refcountAt = 0;

  /** From here on reference counts are those of the kernel's memory map. Before anything is allocated. */
  attach(kernel: CompiledKernel): void {
    this.kernel = kernel;
    this.bytes = kernel.image.description.structs["page"]?.bytes ?? 64;
    this.refcountAt = kernel.offsetOf("page", "_refcount");
    const { world } = kernel;
    const describe = kernel.describe("page");
    this.base = world.allocate((world.heap.bytes / PAGE_SIZE) * this.bytes, "", (offset) => {
      const field = describe(offset % this.bytes);
      return `pages[${Math.floor(offset / this.bytes)}]${field === "" ? "" : `.${field}`}`;
    });
    kernel.set("rw_vmemmap", this.base);
  }

  override allocate(label: string, count = 1): Pfn {
    const first = super.allocate(label, count);
    this.refcount(first).value = 1;
    if (count > 1) this.makeCompound(first, count);
    return first;
  }

  private makeCompound(first: Pfn, count: number): void {
    const { kernel } = this;
    if (kernel === null) return;
    const head = this.addressOf(first);
    kernel.poke(head + kernel.offsetOf("page", "flags"), 8, kernel.peek(kernel.addressOf("rw_kept_page_head"), 8));
    const compoundHead = kernel.offsetOf("page", "compound_head");
    for (let i = 1; i < count; i++) kernel.poke(this.addressOf((first + i) as Pfn) + compoundHead, 8, head + 1);
  }

  override pageOf(frame: Pfn): StructPage {
    return this.withRefcount(super.pageOf(frame), frame);
  }

  override headOf(frame: Pfn): StructPage {
    return this.withRefcount(super.headOf(frame), (frame - (frame % this.folioPages(frame))) as Pfn);
  }

  override refcountOf(frame: Pfn): Cell {
    return this.headOf(frame)._refcount;
  }

  private withRefcount(page: StructPage, frame: Pfn): StructPage {
    const made: StructPage = Object.create(page, { _refcount: { value: this.refcount(frame) } });
    return made;
  }

  /** The frame of a struct page. */
  frameOf(page: number): Pfn {
    return Math.floor((page - this.base) / this.bytes) as Pfn;
  }

  /** The struct page of a frame. */
  addressOf(frame: Pfn): number {
    return this.base + this.bytes * frame;
  }

  private refcount(frame: Pfn): Cell {
    if (this.kernel === null) throw new EngineBug("frames are allocated before the kernel is there");
    return new Cell<number>(this.kernel.world, this.addressOf(frame) + this.refcountAt, 4, false);
  }
}

/** What the word of a lock is called inside of it. */
const LOCK_WORD = /(?:\.(?:rlock|raw_lock|val|counter|owner|cnts|count|locked|wlocked))+$/;

/** Thrown through C code by a task that has started over as often as it may. */
export const ABANDONED = Symbol("the task is left where it is");

/** The pool of pages, where others go by the address of a slab cache. */
export const PAGES = 0;

/** The structure that a slab cache has objects of. */
export function structureOf(cache: string): string {
  return cache === "kvm_mmu_page_header" ? "kvm_mmu_page" : cache;
}

/** A slab cache. */
export interface SlabCache {
  readonly name: string;
  readonly bytes: number;
}

export class Host {
  readonly world: World;
  readonly kernel: Kernel;
  readonly frames: SourceFrames;
  readonly mm: Mm;
  /** How the kernel's allocations are named and typed, by the function that makes them; and slab caches by name. */
  readonly types: ReadonlyMap<string, string>;
  readonly caches = new Map<number, SlabCache>();
  /** What the kernel said during set-up. */
  readonly log: string[] = [];
  /** Warnings of the kernel are failures now: set-up is over, as it is when the world has started. */
  warns = false;
  /** The address that get_user_pages() has last brought in, for hva_to_pfn()'s second look. */
  broughtIn = -1;
  /** What queue_work() was given and nobody has done yet. */
  readonly works: { readonly work: number; readonly func: number }[] = [];
  /** Where a walk of the process's page tables starts; null where nobody walks them. */
  pageTables: { pgdOffset(addr: number): number } | null = null;
  /** Interrupts between CPUs; null where no CPU is in guest mode. */
  interrupts: Interrupts | null = null;
  /** The CPUs that run guests, by number; each made anew with the body of its task. */
  readonly guests = new Map<number, GuestCpu>();
  /** Address of the process's mmap_lock: KVM and the host's mm take the same one. */
  mmapLock = 0;
  /** For explorations that must end: how often a task may start over before it is left where it is. */
  retriesMax = Number.POSITIVE_INFINITY;
  /** An alarm that the VMM has set: a signal comes when a thread was offered to reschedule that often; null: none comes. */
  alarm: number | null = null;
  /** How often a thread has. */
  readonly retries = new WeakMap<Current, number>();
  /** The number by which call_rcu() knows functions of C. */
  rcuHandler = -1;
  /** By slab cache: objects that are handed out again once they are freed. */
  private readonly pools = new Map<number, ObjectPool>();
  private readonly spinLocks = new Map<number, SpinLock>();
  private readonly rwLocks = new Map<number, RwLock>();
  private readonly rwSemaphores = new Map<number, RwLock>();
  private readonly mutexes = new Map<number, Mutex>();
  private readonly srcus = new Map<number, Srcu>();

  constructor(world: World, kernel: Kernel, frames: SourceFrames, mm: Mm, types: ReadonlyMap<string, string>) {
    this.world = world;
    this.kernel = kernel;
    this.frames = frames;
    this.mm = mm;
    this.types = types;
  }

  /**
   * From here on pages and objects of these slab caches come from pools, and what was freed is used again: a loop that allocates and frees leads back to a
   * known state. Without it each has an address of its own, and no stale pointer goes unnoticed. The end of set-up.
   * @param objects of each slab cache, by its name; pages
   */
  makePools(kernel: CompiledKernel, objects: Readonly<Record<string, number>>, pages: number): void {
    const { world } = this;
    for (const [cache, { name, bytes }] of this.caches) {
      const count = objects[name] ?? 0;
      const describe = kernel.describe(structureOf(name));
      const make = (): number => world.allocate(bytes, structureOf(name), describe);
      if (count > 0) this.pools.set(cache, new ObjectPool(world, name, bytes, count, make));
    }
    const page = (): number => pfnToHpa(this.frames.allocate("page"));
    this.pools.set(PAGES, new ObjectPool(world, "page", PAGE_SIZE, pages, page));
  }

  /** Where objects of a slab cache, or PAGES, come from while tasks run; null where nothing is used again. */
  poolFor(cache: number): ObjectPool | null {
    return this.pools.get(cache) ?? null;
  }

  spinLock(addr: number): SpinLock {
    return this.at(this.spinLocks, addr, (name) => new SpinLock(this.world, name, this.word(addr, 4)));
  }

  rwLock(addr: number): RwLock {
    return this.at(this.rwLocks, addr, (name) => new RwLock(this.world, name, false, this.word(addr, 4)));
  }

  rwSemaphore(addr: number): RwLock {
    if (addr === this.mmapLock) return this.mm.mmapLock;
    return this.at(this.rwSemaphores, addr, (name) => new RwLock(this.world, name, true, this.word(addr, 8)));
  }

  mutex(addr: number): Mutex {
    return this.at(this.mutexes, addr, (name) => new Mutex(this.world, name, this.word(addr, 8)));
  }

  /** A struct srcu_struct; made by init_srcu_struct(). */
  srcu(addr: number): Srcu {
    return this.at(this.srcus, addr, (name) => new Srcu(this.world, name));
  }

  private word(addr: number, size: 4 | 8): Cell {
    return new Cell<number>(this.world, addr, size, false);
  }

  private at<T extends Lockable | Srcu>(known: Map<number, T>, addr: number, make: (name: string) => T): T {
    const found = known.get(addr);
    if (found !== undefined) return found;
    // A lock is the first member of what holds its word.
    const name = this.world.nameOf(addr).replace(LOCK_WORD, "");
    const made = make(name);
    known.set(addr, made);
    return made;
  }
}
