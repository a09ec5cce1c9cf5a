/**
 * A world: one heap, the tasks that share it, and the driver that decides who runs.
 *
 * A world is a value: two of them run side by side in one process. Modelled code reaches it through the cells and
 * structures that it was given, and never through a module's own variables. Time, randomness, counters and output come
 * from the world too, so that an execution can be undone and repeated.
 */
import { assert, EngineBug, Violation } from "./assert.ts";
import type { FactJudge } from "./facts.ts";
import { type AccessSize, Heap, PAGE_SIZE } from "./heap.ts";
import { LivePlaces, NO_PLACES } from "./live-places.ts";
import type { SourcePlace } from "./replay.ts";
import type { Clock } from "./simulate/clock.ts";
import type { BodyFactory, Task } from "./task.ts";
import { Task as TaskClass } from "./task.ts";

/** Decides who runs; each way of driving (exploring, sampling, following a recording) is one. */
export interface Driver {
  /** A running task has asked for an operation: true when it has been carried out at once. */
  offer(task: Task): boolean;
  /** A plain (unmarked) access of the running task, already checked to be inside the heap. */
  plainAccess(task: Task, addr: number, size: AccessSize, isWrite: boolean): void;
  /** The stores of the task that memory has yet to see; null when there are none. */
  waitingStores?(task: Task): WaitingStores | null;
}

/** Stores of a task that have yet to reach memory, with which its plain accesses must agree. */
export interface WaitingStores {
  overlay(heap: Heap, addr: number, size: AccessSize): number;
  amend(store: { addr: number; size: AccessSize; lo: number; hi: number }): void;
}

/** An event that modelled code reports (a kernel tracepoint), undone with the execution that it belongs to. */
export interface TraceEvent {
  readonly name: string;
}

/** An event, and the task that reported it (null: set-up). */
export interface TraceRecord {
  readonly task: Task | null;
  readonly event: TraceEvent;
}

export interface WorldOptions {
  /** Bytes for what set-up allocates. */
  readonly staticBytes?: number;
  /** Bytes for what each task allocates. */
  readonly arenaBytes?: number;
  /** How many tasks there may be, spawned ones included. */
  readonly tasksMax?: number;
}

/** Notes what is left behind. @param lane the task whose mistake it is, -1 for nobody's */
export type EndFailure = (property: string, message: string, lane: number) => void;

/** What is known of an allocated object, for names in reports. */
export interface ObjectInfo {
  readonly addr: number;
  readonly bytes: number;
  readonly name: string;
  /** Turns an offset inside the object into a field's name. */
  readonly describe: ((offset: number) => string) | null;
}

/** Why an object may not be touched, and the property that a touch violates. */
export interface Death {
  readonly property: string;
  readonly because: string;
}

const NEVER_ALLOCATED: Death = { property: "use-after-free", because: "use of an object that is not allocated" };
const NULL_POINTER: Death = { property: "null-dereference", because: "NULL pointer dereference" };
const WILD_POINTER: Death = { property: "wild-pointer", because: "no object is there" };

/** Bytes before each object that may be freed: the word that tells whether it lives. */
const HEADER_BYTES = 16;

/** Values of the life word. Anything else is the index of the reason why the object may not be touched. */
const LIVE = 1;
/** Allocated during set-up and never retired: its accesses need not be ordered with an end of life. */
const IMMORTAL = 2;

const IDLE_DRIVER: Driver = {
  offer(): boolean {
    throw new EngineBug("an operation was asked for outside any execution");
  },
  plainAccess(): void {},
};

export class World {
  readonly heap: Heap;
  readonly tasks: Task[] = [];
  /** The task whose code is running; null during set-up and between steps. */
  current: Task | null = null;
  driver: Driver = IDLE_DRIVER;
  /** Runs in a simulation; null where there is no time. */
  clock: Clock | null = null;
  /** When set, events go to it as they happen, and are not kept in {@link trace}. */
  onEvent: ((event: TraceEvent, task: Task | null) => void) | null = null;
  /** False: nobody traces, and code that reports very often need not report what is no statistic. */
  tracepoints = true;
  /** Set-up is over: what is allocated from here on belongs to the task that allocates. */
  started = false;
  /** Some task waits for the store buffers of others (fence() with a task); set during set-up by who does so. */
  watchesBuffers = false;
  /** Hashes of memory and of where tasks stand are kept. */
  comparesStates = false;
  /** When set, each request of a task is shown to it with the call stack: for replays that people read. */
  onRequest: ((task: Task) => void) | null = null;
  /** When set, each plain access is shown to it after it was made: for replays that people read. */
  onPlain: ((task: Task, addr: number, isWrite: boolean, lo: number, hi: number) => void) | null = null;
  /** Places of the running task in code that is not TypeScript, innermost first; null where all code is. */
  foreignStack: (() => readonly SourcePlace[]) | null = null;
  /** Events reported so far in this execution. */
  readonly trace: TraceRecord[] = [];
  /** Looks for what is wrong at the end of a complete execution; set by the floors that know what must not be left behind. */
  readonly endChecks: ((fail: EndFailure) => void)[] = [];
  /** Says which facts that tasks note do not go together; set by the floor that knows. */
  factJudge: FactJudge | null = null;
  /** Makes {@link Task.local}; set by the floor that needs it. */
  makeLocal: (task: Task) => unknown = () => undefined;
  readonly staticBytes: number;
  readonly arenaBytes: number;
  readonly tasksMax: number;

  private staticNext = PAGE_SIZE;
  /** Pages are handed out from the end of the static part downwards. */
  private staticTop: number;
  /** The pages allocated last, and when: {@link fillFresh}. */
  private freshPages: {
    readonly task: Task;
    readonly completed: number;
    readonly addr: number;
    readonly end: number;
  } | null = null;
  /** For each 8-byte granule, the granule of the header of the object that holds it; 0 for what is never freed. */
  private readonly headers: Int32Array;
  /** The same for whole pages, by page: their life words stand elsewhere, so that pages lie side by side. */
  private readonly pageHeaders: Int32Array;
  /** See {@link keepLivePlaces}. */
  livePlaces: LivePlaces = NO_PLACES;
  private readonly objects = new Map<number, ObjectInfo>();
  private readonly staticObjects: ObjectInfo[] = [];
  private readonly deaths: Death[] = [NEVER_ALLOCATED, NEVER_ALLOCATED, NEVER_ALLOCATED];
  private readonly spawnLanes = new Map<string, number>();
  /** The spawned tasks that are known, by parent's lane and number, in the order of their lanes. */
  readonly spawns: string[] = [];

  constructor(options: WorldOptions = {}) {
    this.staticBytes = roundUp(options.staticBytes ?? 4 * 1024 * 1024, PAGE_SIZE);
    this.arenaBytes = roundUp(options.arenaBytes ?? 1024 * 1024, PAGE_SIZE);
    this.tasksMax = options.tasksMax ?? 16;
    this.heap = new Heap(this.staticBytes + this.arenaBytes * this.tasksMax);
    this.headers = new Int32Array(this.heap.bytes / 8);
    this.pageHeaders = new Int32Array(this.heap.bytes / PAGE_SIZE);
    this.staticTop = this.staticBytes;
  }

  // --- tasks ---------------------------------------------------------------------------------------------------

  addTask(name: string, factory: BodyFactory, daemon = false): Task {
    assert(this.tasks.length < this.tasksMax, `more than ${this.tasksMax} tasks: raise tasksMax`);
    const task = new TaskClass(this, this.tasks.length, name, factory, daemon);
    this.tasks.push(task);
    return task;
  }

  /**
   * The task that `parent` spawns as its next one. It has the same lane whenever this happens, whatever else went on.
   */
  spawnedTask(parent: Task, name: string, factory: BodyFactory): Task {
    const key = `${parent.lane}.${parent.spawned++}`;
    const lane = this.spawnLanes.get(key);
    if (lane === undefined) {
      const task = this.addTask(name, factory);
      this.noteSpawn(key, task.lane);
      return task;
    }
    const old = this.tasks[lane] as Task;
    if (parent.ghost) return old;
    assert(!old.started, `task ${old.name} was spawned twice`);
    const task = new TaskClass(this, lane, name, factory, false);
    this.tasks[lane] = task;
    return task;
  }

  /**
   * Reserves lanes for tasks that other threads have seen spawned, so that all have the same ones.
   * @returns false when this world already knows them in another order
   */
  expectSpawns(keys: readonly string[]): boolean {
    for (const [i, key] of keys.entries()) {
      if (this.spawns[i] === key) continue;
      if (i < this.spawns.length || this.spawnLanes.has(key)) return false;
      const neverRuns: BodyFactory = () => {
        throw new EngineBug("a task ran that nobody has spawned");
      };
      this.noteSpawn(key, this.addTask(`${key}?`, neverRuns).lane);
    }
    return true;
  }

  /** As if only the first `known` of {@link spawns} had ever been spawned; for an execution in which no others are. */
  forgetSpawns(known: number): void {
    const forgotten = this.spawns.splice(known);
    for (const key of forgotten) this.spawnLanes.delete(key);
    this.tasks.length -= forgotten.length;
  }

  /** The lane of a spawned task, by its key among {@link spawns}; -1 when nobody has asked for it yet. */
  laneOf(key: string): number {
    return this.spawnLanes.get(key) ?? -1;
  }

  private noteSpawn(key: string, lane: number): void {
    this.spawnLanes.set(key, lane);
    this.spawns.push(key);
  }

  // --- allocation ----------------------------------------------------------------------------------------------

  arenaStart(lane: number): number {
    return this.staticBytes + lane * this.arenaBytes;
  }

  /**
   * Memory for an object: from the static part during set-up, from the running task's arena otherwise. Zeroed, or a
   * copy of `template`.
   * @param describe names the fields inside, for reports
   * @param align bytes to align to; by default a granule, or a page for objects of a page or more
   */
  allocate(
    bytes: number,
    name: string,
    describe: ((offset: number) => string) | null = null,
    template: Uint32Array | null = null,
    align = bytes >= PAGE_SIZE ? PAGE_SIZE : 8,
  ): number {
    // Code that runs during set-up allocates for good, whoever it stands for.
    const task = this.started ? this.current : null;
    if (align >= PAGE_SIZE) return this.allocatePages(task, bytes, { name, describe, template, align });
    const addr = this.take(task, HEADER_BYTES, align, bytes, name);
    if (task?.ghost) return addr;
    const header = addr - 8;
    this.headers.fill(header >>> 3, addr >>> 3, roundUp(addr + bytes, 8) >>> 3);
    this.heap.fillFresh(addr, roundUp(bytes, 8), template);
    this.introduce(task, header, { addr, bytes, name, describe });
    return addr;
  }

  /** Whole pages, from the end of the allocating task's part downwards. Nobody is charged for pages that are never touched. */
  private allocatePages(
    task: Task | null,
    bytes: number,
    object: Pick<ObjectInfo, "name" | "describe"> & { readonly template: Uint32Array | null; readonly align: number },
  ): number {
    const { name, describe, template, align } = object;
    const size = roundUp(bytes, PAGE_SIZE);
    const header = this.take(task, 0, 8, 8, name);
    const top = task === null ? this.staticTop : task.arenaTop;
    const addr = Math.floor((top - size) / align) * align;
    if (addr < (task === null ? this.staticNext : task.arenaNext)) throw outOfMemory(task, name);
    if (task === null) this.staticTop = addr;
    else task.arenaTop = addr;
    if (task?.ghost) return addr;
    this.headers[header >>> 3] = header >>> 3;
    this.pageHeaders.fill(header >>> 3, addr / PAGE_SIZE, (addr + size) / PAGE_SIZE);
    // The static part is handed out once, and zero to begin with.
    if (task !== null || template !== null) this.heap.fillFresh(addr, size, template);
    this.introduce(task, header, { addr, bytes, name, describe });
    if (task !== null) this.freshPages = { task, completed: task.completed, addr, end: addr + size };
    return addr;
  }

  /**
   * Fills whole words of pages that the running task allocated after its last operation: nobody else can know their address, so its stores need neither be seen
   * one by one nor be undone.
   * @returns whether the place is such a one
   */
  fillFresh(addr: number, bytes: number, lo: number, hi: number): boolean {
    const task = this.current;
    // A caller that is told no goes on in another way, so the answer is remembered like a value.
    if (task?.ghost) return task.replay() !== 0;
    const { freshPages: fresh } = this;
    const isFresh =
      fresh !== null &&
      fresh.task === task &&
      fresh.completed === task.completed &&
      addr >= fresh.addr &&
      addr + bytes <= fresh.end;
    task?.record(isFresh ? 1 : 0, 0);
    if (!isFresh) return false;
    const pattern = new Uint32Array(bytes / 4);
    for (let i = 0; i < pattern.length; i += 2) {
      pattern[i] = lo;
      pattern[i + 1] = hi;
    }
    this.heap.fillFresh(addr, bytes, pattern);
    return true;
  }

  /** The next `bytes` of the small objects, with room for a header before them. */
  private take(task: Task | null, room: number, align: number, bytes: number, name: string): number {
    const next = task === null ? this.staticNext : task.arenaNext;
    const addr = roundUp(next + room, align);
    const end = roundUp(addr + bytes, 8);
    if (end > (task === null ? this.staticTop : task.arenaTop)) throw outOfMemory(task, name);
    if (task === null) this.staticNext = end;
    else task.arenaNext = end;
    return addr;
  }

  private introduce(task: Task | null, header: number, object: ObjectInfo): void {
    this.objects.set(header, object);
    if (task === null) this.staticObjects.push(object);
    // The life word is journaled, so that the object is gone again when the execution is undone.
    this.heap.write(header, 8, this.current === null ? IMMORTAL : LIVE, 0);
    this.noteLife(object, true);
  }

  /** Lets an object that set-up allocated be retired, as those that tasks allocate can be. */
  makeMortal(addr: number): void {
    this.setLife(addr, null);
  }

  /**
   * Ends an object's life, or begins it anew, where that is no step: in set-up, and where one thread runs alone.
   * @param death null: it lives
   */
  setLife(addr: number, death: Death | null): void {
    const life = this.lifeOf(addr);
    this.heap.write(life, 8, this.lifeState(death), 0);
    if (this.livePlaces !== NO_PLACES) this.noteLife(this.objects.get(life) as ObjectInfo, death === null);
  }

  /** From here on {@link livePlaces} says what may be touched. For a world in which nothing is ever taken back. */
  keepLivePlaces(): void {
    if (this.livePlaces !== NO_PLACES) return;
    this.livePlaces = new LivePlaces(this.heap.bytes);
    for (const object of this.objects.values()) this.noteLife(object, this.lives(object.addr));
  }

  private noteLife({ addr, bytes }: ObjectInfo, lives: boolean): void {
    if (this.livePlaces === NO_PLACES) return;
    if (this.pageHeaders[addr >>> 12] !== 0) this.livePlaces.setPages(addr, bytes, lives);
    else this.livePlaces.set(addr, bytes, lives);
  }

  /** Address of the life word of the object around `addr`; 0 when nothing there was allocated. */
  lifeOf(addr: number): number {
    const page = this.pageHeaders[addr >>> 12] as number;
    return (page === 0 ? (this.headers[addr >>> 3] as number) : page) * 8;
  }

  isMortal(life: number): boolean {
    return life !== 0 && this.heap.words[life >>> 2] !== IMMORTAL;
  }

  /** Whether the object around `addr` may be touched now. Asked at every access, so without a detour by {@link lifeOf}. */
  lives(addr: number): boolean {
    const page = this.pageHeaders[addr >>> 12] as number;
    const granule = page === 0 ? (this.headers[addr >>> 3] as number) : page;
    const state = this.heap.words[granule << 1] as number;
    return granule !== 0 && (state === LIVE || state === IMMORTAL);
  }

  /** Why the object around `addr` may not be touched now; null when it may. */
  deathOf(addr: number): Death | null {
    if (this.lives(addr)) return null;
    const life = this.lifeOf(addr);
    if (life === 0) return addr < PAGE_SIZE ? NULL_POINTER : WILD_POINTER;
    return this.deaths[this.heap.words[life >>> 2] as number] as Death;
  }

  /** The life word of an object that has died that way; null stands for one that lives. */
  lifeState(death: Death | null): number {
    if (death === null) return LIVE;
    const known = this.deaths.findIndex(
      ({ property, because }) => property === death.property && because === death.because,
    );
    return known >= 0 ? known : this.deaths.push(death) - 1;
  }

  // --- plain accesses ------------------------------------------------------------------------------------------

  /** An unmarked load. Returns the low half, leaves the high half in the heap's register. */
  plainRead(addr: number, size: AccessSize): number {
    const task = this.current;
    if (task === null) return this.heap.read(addr, size);
    return task.unwatched ? this.unwatchedRead(addr, size) : this.watchedRead(task, addr, size);
  }

  private unwatchedRead(addr: number, size: AccessSize): number {
    this.checkAlive(addr, "plain read");
    return this.heap.read(addr, size);
  }

  private watchedRead(task: Task, addr: number, size: AccessSize): number {
    if (task.ghost) return task.replay();
    this.checkAlive(addr, "plain read");
    this.driver.plainAccess(task, addr, size, false);
    const waiting = this.driver.waitingStores?.(task) ?? null;
    const lo = waiting === null ? this.heap.read(addr, size) : waiting.overlay(this.heap, addr, size);
    const { high } = this.heap;
    task.record(lo, high);
    this.onPlain?.(task, addr, false, lo, high);
    this.heap.high = high;
    return lo;
  }

  /** An unmarked store. */
  plainWrite(addr: number, size: AccessSize, lo: number, hi: number): void {
    const task = this.current;
    if (task?.ghost) return;
    if (task !== null) {
      this.checkAlive(addr, "plain write");
      if (task.unwatched) {
        this.heap.write(addr, size, lo, hi);
        return;
      }
      this.driver.plainAccess(task, addr, size, true);
      this.driver.waitingStores?.(task)?.amend({ addr, size, lo, hi });
    }
    this.heap.write(addr, size, lo, hi);
    if (task !== null) this.onPlain?.(task, addr, true, lo, hi);
  }

  private checkAlive(addr: number, what: string): void {
    if (!this.lives(addr)) throw this.deadTouch(addr, `${what} of `);
  }

  /** The touch of what may not be touched. @param what begins the message */
  deadTouch(addr: number, what = ""): Violation {
    const { property, because } = this.deathOf(addr) ?? NEVER_ALLOCATED;
    return new Violation(property, `${what}${this.nameOf(addr)}: ${because}`, addr);
  }

  // --- reports -------------------------------------------------------------------------------------------------

  /** Reports a tracepoint of the modelled code. */
  emit(event: TraceEvent): void {
    if (this.current?.ghost) return;
    if (this.onEvent !== null) this.onEvent(event, this.current);
    else this.trace.push({ task: this.current, event });
  }

  /** What the report calls the place `addr`. */
  nameOf(addr: number): string {
    const life = this.lifeOf(addr);
    const info = life === 0 ? undefined : this.objects.get(life);
    if (info === undefined) return addr === 0 ? "NULL" : `0x${addr.toString(16)}`;
    const offset = addr - info.addr;
    if (info.describe !== null) return joinName(info.name, info.describe(offset));
    return offset === 0 ? info.name : `${info.name}+0x${offset.toString(16)}`;
  }

  /** What set-up allocated, in order: the named state of the world. */
  get namedObjects(): readonly ObjectInfo[] {
    return this.staticObjects;
  }
}

function outOfMemory(task: Task | null, name: string): EngineBug {
  return new EngineBug(`out of modelled memory for ${name}: raise ${task === null ? "staticBytes" : "arenaBytes"}`);
}

function joinName(object: string, field: string): string {
  if (field === "") return object;
  if (object === "") return field;
  return field.startsWith("[") ? object + field : `${object}->${field}`;
}

function roundUp(value: number, to: number): number {
  return Math.ceil(value / to) * to;
}
