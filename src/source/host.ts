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
import type { GuestCpu, Interrupts, Pfn } from "../machine/index.ts";
import type { CompiledKernel } from "./machine.ts";

type StructPage = ReturnType<PageFrames["pageOf"]>;

/** struct page, as the kernel has it: a reference count that C code changes too. */
export class SourceFrames extends PageFrames {
  private kernel: CompiledKernel | null = null;
  private base = 0;
  private bytes = 0;
  private offset = 0;

  /** From here on reference counts are those of the kernel's memory map. */
  attach(kernel: CompiledKernel): void {
    this.kernel = kernel;
    this.base = kernel.addressOf("rw_pages");
    this.bytes = kernel.image.description.structs["page"]?.bytes ?? 64;
    this.offset = kernel.offsetOf("page", "_refcount");
  }

  override allocate(label: string, count = 1): Pfn {
    const first = super.allocate(label, count);
    for (let i = 0; i < count; i++) this.refcount((first + i) as Pfn).value = 1;
    return first;
  }

  override pageOf(frame: Pfn): StructPage {
    return this.withRefcount(super.pageOf(frame), frame);
  }

  override headOf(frame: Pfn): StructPage {
    return this.withRefcount(super.headOf(frame), frame);
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
    return new Cell<number>(this.kernel.world, this.addressOf(frame) + this.offset, 4, false);
  }
}

/** What the word of a lock is called inside of it. */
const LOCK_WORD = /(?:\.(?:rlock|raw_lock|val|counter|owner|cnts|count|locked|wlocked))+$/;

/** Thrown through C code by a task that has started over as often as it may. */
export const ABANDONED = Symbol("the task is left where it is");

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
  /** Interrupts between CPUs; null where no CPU is in guest mode. */
  interrupts: Interrupts | null = null;
  /** The CPUs that run guests, by number; each made anew with the body of its task. */
  readonly guests = new Map<number, GuestCpu>();
  /** Address of the process's mmap_lock: KVM and the host's mm take the same one. */
  mmapLock = 0;
  /** For explorations that must end: how often a task may start over before it is left where it is. */
  retriesMax = Number.POSITIVE_INFINITY;
  /** How often a thread has. */
  readonly retries = new WeakMap<Current, number>();
  /** The number by which call_rcu() knows functions of C. */
  rcuHandler = -1;
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
