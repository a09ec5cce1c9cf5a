/**
 * One execution: a sequence of events, each of which can be taken back.
 *
 * All explorers stand on this. It carries out operations on the heap, keeps the happens-before relation as vector clocks,
 * notices what goes wrong without being asked (use after free, data races), and undoes events from the end.
 *
 * Happens-before is the least order that contains program order, the start and end of tasks, and for each location the
 * order of conflicting accesses (two reads commute, and so do two shared accesses). It determines the execution graph (program
 * order, reads-from, coherence) and is determined by it, so "one execution per happens-before" is "one per graph".
 *
 * Under TSO each task runs on a CPU of its own with a store buffer, whose drain is a lane of its own: lane t is task t, lane
 * tasksMax + t its store buffer. A store is two events: issued (touches nothing shared) and drained. A load that finds its
 * value in the own buffer, or would have found the same value there before it drained, is not ordered after that drain: the two
 * cases are one execution graph (docs/engine.md, "TSO").
 */

import type { AccessHistory } from "./access-history.ts";
import { assert, EngineBug, UsageError, Violation } from "./assert.ts";
import { accessClass, isReady, writeResult } from "./effect.ts";
import { AccessClass, EventLog, grow } from "./event-log.ts";
import type { Failure } from "./failure.ts";
import { HappensBefore } from "./happens-before.ts";
import { type Hash, loadHash, storeHash } from "./hash.ts";
import type { AccessSize, Heap } from "./heap.ts";
import { isDraining, type Operation, OpKind } from "./operation.ts";
import { type Race, RaceDetector, raceText } from "./race-detector.ts";
import { type BufferedStore, contains, forward, StoreBuffer } from "./store-buffer.ts";
import type { Task } from "./task.ts";
import type { Death, Driver, World } from "./world.ts";

export type { Failure };

export type MemoryModel = "sc" | "tso";

/** Chooses what happens next. */
export interface Scheduler {
  /** The lane to run next; -1 to stop. */
  pick(): number;
  /** The value of a Choose operation, from 0 to n-1. */
  choose(task: Task, n: number): number;
  /**
   * Called before an event takes effect, with the row of the clock matrix that holds what happens before it apart from
   * conflicts on its location.
   */
  before?(lane: number, row: number): void;
}

export class Execution implements Driver {
  readonly world: World;
  readonly heap: Heap;
  readonly model: MemoryModel;
  readonly events = new EventLog();
  readonly order: HappensBefore;
  readonly failures: Failure[] = [];
  /** Lanes: tasks, then (under TSO) their store buffers. */
  readonly lanes: number;
  readonly buffers: readonly StoreBuffer[];
  scheduler: Scheduler;
  /** An execution with more events than this is taken for one that never ends. */
  stepsMax = 20_000;
  /** A task is stopped after this many operations: a bound on its loops. */
  taskStepsMax = Number.POSITIVE_INFINITY;

  private readonly history: AccessHistory;
  private readonly races: RaceDetector;
  private readonly laneLast: Int32Array;
  private readonly laneCount: Int32Array;
  /** For spawned tasks, the event that started them; -1 for the others. */
  private readonly spawnedAt: Int32Array;
  private starting = false;
  /** There have been stores that are smaller than some load may be. */
  private splitsStores = false;
  /** A lane that {@link offer} picked and {@link run} has yet to run; -2 for none. */
  private picked = -2;

  constructor(world: World, model: MemoryModel, scheduler: Scheduler) {
    this.world = world;
    this.heap = world.heap;
    this.model = model;
    this.scheduler = scheduler;
    const { bytes } = world.heap;
    this.order = new HappensBefore(this.events, bytes, world.tasksMax, model === "tso");
    this.lanes = this.order.lanes;
    this.history = this.order.history;
    this.races = new RaceDetector(this.order, bytes);
    this.laneLast = new Int32Array(this.lanes).fill(-1);
    this.laneCount = new Int32Array(this.lanes);
    this.spawnedAt = new Int32Array(this.lanes).fill(-1);
    this.buffers = Array.from({ length: model === "tso" ? world.tasksMax : 0 }, () => new StoreBuffer());
    world.driver = this;
  }

  // --- running -------------------------------------------------------------------------------------------------

  /** Starts every task: each runs to its first operation. Called once, before the first {@link run}. */
  start(): void {
    this.heap.startJournal();
    this.world.started = true;
    if (this.world.comparesStates) this.heap.startHashing();
    for (const task of [...this.world.tasks]) this.startTask(task);
  }

  /** Runs what the scheduler picks until it stops. */
  run(): void {
    this.picked = -2;
    for (;;) {
      const lane = this.picked === -2 ? this.scheduler.pick() : this.picked;
      this.picked = -2;
      if (lane < 0) return;
      this.step(lane);
    }
  }

  offer(task: Task): boolean {
    if (this.starting) return false;
    for (;;) {
      const lane = this.scheduler.pick();
      if (lane >= this.world.tasksMax) {
        this.drain(lane);
      } else if (lane === task.lane) {
        this.perform(task);
        return true;
      } else {
        this.picked = lane;
        return false;
      }
    }
  }

  private step(lane: number): void {
    if (lane >= this.world.tasksMax) {
      this.drain(lane);
      return;
    }
    const task = this.world.tasks[lane] as Task;
    task.rebuild();
    try {
      this.perform(task);
      task.resume();
    } catch (error) {
      this.halt(task, error);
    }
  }

  /** A task that violates a property goes no further; the others do. */
  private halt(task: Task, error: unknown): void {
    if (!(error instanceof Violation)) throw error;
    task.finished = true;
    task.halted = true;
    task.body = null;
    const { property, message, place } = error;
    const peers = place === null ? [] : this.order.lastChangeOf(this.world.lifeOf(place));
    this.failures.push({ property, message, lane: task.lane, event: this.events.length - 1, peers });
  }

  /** Notes a failure of the execution as a whole. */
  failAtEnd(property: string, message: string, lane: number): void {
    this.failures.push({ property, message, lane, event: this.events.length });
  }

  private startTask(task: Task): void {
    const outer = this.starting;
    this.starting = true;
    try {
      task.start();
    } catch (error) {
      this.halt(task, error);
    }
    this.starting = outer;
  }

  // --- enabledness ---------------------------------------------------------------------------------------------

  /** True when the lane can make its next event now. */
  isEnabled(lane: number): boolean {
    const { tasksMax, tasks } = this.world;
    if (lane >= tasksMax) return !(this.buffers[lane - tasksMax] as StoreBuffer).empty;
    const task = tasks[lane];
    if (task === undefined || task.finished || !task.started) return false;
    const { op } = task;
    if (task.completed >= this.taskStepsMax) return false;
    if (this.model === "tso" && !this.bufferAllows(task.lane, op)) return false;
    switch (op.kind) {
      case OpKind.Await: {
        const entry = this.model === "tso" ? this.forwardingStore(lane, op.addr, op.size) : null;
        if (entry !== null) {
          const value = forward(entry, op.addr, op.size);
          return isReady(op, value.lo, value.hi);
        }
        return this.canGoAhead(op);
      }
      case OpKind.Acquire:
      case OpKind.AcquireShared:
        return this.canGoAhead(op);
      case OpKind.Join:
        return (tasks[op.lo] as Task).finished;
      default:
        return true;
    }
  }

  /** True for a task that wants to go on and may not, having made all the steps that it is allowed. */
  isStopped(task: Task): boolean {
    return task.started && !task.finished && task.completed >= this.taskStepsMax;
  }

  /** True when memory holds what the operation waits for. */
  private canGoAhead(op: Operation<unknown>): boolean {
    const lo = this.heap.read(op.addr, op.size);
    return isReady(op, lo, this.heap.high);
  }

  /** True when some lane can move. */
  anyEnabled(): boolean {
    for (let lane = 0; lane < this.lanes; lane++) if (this.isEnabled(lane)) return true;
    return false;
  }

  private bufferAllows(lane: number, op: Operation<unknown>): boolean {
    if (op.kind === OpKind.Fence) return (this.buffers[op.lo] as StoreBuffer).empty;
    const buffer = this.buffers[lane] as StoreBuffer;
    if (buffer.empty) return true;
    if (isDraining(op.kind)) return false;
    if (op.kind !== OpKind.Load && op.kind !== OpKind.Await) return true;
    // A load that overlaps a waiting store only in part cannot be forwarded and waits for it.
    const entry = buffer.newestOverlap(op.addr, op.size);
    return entry === null || contains(entry, op.addr, op.size);
  }

  /** False when the operation would be answered by, or enter, the task's own store buffer. */
  touchesMemory(lane: number, op: Operation<unknown>): boolean {
    if (this.model === "sc") return true;
    if (op.kind === OpKind.Store) return false;
    if (op.kind !== OpKind.Load && op.kind !== OpKind.Await) return true;
    return this.forwardingStore(lane, op.addr, op.size) === null;
  }

  /** True for a barrier that waits for another task's store buffer. */
  watchesBufferOf(lane: number, op: Operation<unknown>): boolean {
    return this.model === "tso" && op.kind === OpKind.Fence && op.lo !== lane;
  }

  private forwardingStore(lane: number, addr: number, size: AccessSize): BufferedStore | null {
    return (this.buffers[lane] as StoreBuffer).newestOverlap(addr, size);
  }

  // --- events --------------------------------------------------------------------------------------------------

  /** Index of the lane's last event, -1 when it has none. */
  lastOf(lane: number): number {
    return this.laneLast[lane] as number;
  }

  /** Fills the row at `row` with what happens before the lane's next event, apart from conflicts. */
  baseRow(lane: number, row: number): void {
    const last = this.laneLast[lane] as number;
    this.order.copyRow(last >= 0 ? last : (this.spawnedAt[lane] as number), row);
    const { tasksMax } = this.world;
    if (lane >= tasksMax) {
      this.order.join(row, (this.buffers[lane - tasksMax] as StoreBuffer).oldest.issued);
      return;
    }
    const { op } = this.world.tasks[lane] as Task;
    if (this.model === "tso" && isDraining(op.kind) && !this.watchesBufferOf(lane, op)) {
      const drained = this.laneLast[tasksMax + lane] as number;
      if (drained >= 0) this.order.join(row, drained);
    }
    if (this.splitsStores && (op.kind === OpKind.Load || op.kind === OpKind.Await))
      this.order.joinPartialStore(row, op);
    if (op.kind === OpKind.Join) {
      const end = this.laneLast[op.lo] as number;
      if (end >= 0) this.order.join(row, end);
    }
  }

  private begin(lane: number): number {
    const { events } = this;
    const i = events.next();
    if (i >= this.stepsMax)
      throw new UsageError(
        `an execution has more than ${this.stepsMax} steps: bound its loops, or search its states (--strategy graph)`,
      );
    this.order.reserve(i + 1);
    events.lane[i] = lane;
    events.nth[i] = (this.laneCount[lane] as number) + 1;
    events.previous[i] = this.laneLast[lane] as number;
    events.heapMark[i] = this.heap.mark;
    events.historyMark[i] = this.history.mark;
    events.plainMark[i] = this.races.plain.length;
    events.traceMark[i] = this.world.trace.length;
    events.failureMark[i] = this.failures.length;
    events.location[i] = 0;
    events.access[i] = AccessClass.None;
    events.life[i] = 0;
    events.lifeAccess[i] = AccessClass.None;
    if (this.world.comparesStates) this.saveHashes(i, lane);
    const row = i * this.lanes;
    this.baseRow(lane, row);
    this.scheduler.before?.(lane, row);
    return i;
  }

  private saveHashes(i: number, lane: number): void {
    const { events } = this;
    if (events.hashes.length < 8 * (i + 1)) events.hashes = grow(events.hashes, 16 * (i + 1));
    storeHash(this.heap.hash as Hash, events.hashes, 8 * i);
    const position = lane < this.world.tasksMax ? (this.world.tasks[lane] as Task).position : null;
    if (position !== null) storeHash(position, events.hashes, 8 * i + 4);
  }

  private commit(i: number, lane: number): void {
    const nth = this.events.nth[i] as number;
    this.order.clocks[i * this.lanes + lane] = nth;
    this.laneLast[lane] = i;
    this.laneCount[lane] = nth;
    this.events.length = i + 1;
  }

  /** Carries out the request of a task. */
  private perform(task: Task): void {
    const { op, lane } = task;
    const { events } = this;
    const i = this.begin(lane);
    events.saveRequest(i, op);
    events.logMark[i] = task.logMark;
    op.resultLo = 0;
    op.resultHi = 0;
    let death: Death | null = null;
    if (op.kind <= OpKind.ReleaseShared) death = this.accessMemory(i, op, lane);
    else this.performOther(i, op, task);
    events.resultLo[i] = op.resultLo;
    events.resultHi[i] = op.resultHi;
    this.commit(i, lane);
    task.completed++;
    task.record(op.resultLo, op.resultHi);
    if (op.kind === OpKind.Spawn) this.startTask(this.world.tasks[op.lo] as Task);
    if (death !== null) {
      throw new Violation(death.property, `access to ${this.world.nameOf(op.addr)}: ${death.because}`);
    }
  }

  /** Returns why the access is not allowed, or null. */
  private accessMemory(i: number, op: Operation<unknown>, lane: number): Death | null {
    const { events, world } = this;
    const life = world.lifeOf(op.addr);
    if (world.isMortal(life)) {
      const location = this.history.locationOf(life);
      events.life[i] = location;
      events.lifeAccess[i] = AccessClass.Read;
      if (this.history.turnsOf(location) > 0)
        this.order.orderAfter(i, location, events.lifeAccess, AccessClass.Read, null);
      this.history.append(location, i);
    }
    // An access to what has died changes nothing, but has the order of one that does.
    const death = world.deathOf(op.addr);
    if (death !== null && life === 0) return death;
    if (this.model === "tso") {
      if (op.kind === OpKind.Store) {
        if (death === null) this.issue(i, op, lane);
        return death;
      }
      if (op.kind === OpKind.StoreNow) this.refuseMixedStores(op, lane);
      if ((op.kind === OpKind.Load || op.kind === OpKind.Await) && this.forwardLoad(i, op, lane)) return death;
    }
    this.accessNow(i, op.kind, op.addr, op.size, op.lo, op.hi, op, lane, death === null);
    return death;
  }

  /** A task that stores to a place both at once and through its buffer has no order of its own there: a program's mistake. */
  private refuseMixedStores(op: Operation<unknown>, lane: number): void {
    const list = this.order.listOf(this.history.locationOf(op.addr));
    const waits = (this.buffers[lane] as StoreBuffer).newestOverlap(op.addr, op.size) !== null;
    if (!waits && !list.some((event) => this.order.isDrainOf(event, lane))) return;
    throw new UsageError(
      `${this.world.nameOf(op.addr)}: one task uses both store() and storeNow() on it; use one of them`,
    );
  }

  /** An access to memory itself, by a task or a draining store. */
  private accessNow(
    i: number,
    kind: OpKind,
    addr: number,
    size: AccessSize,
    lo: number,
    hi: number,
    op: Operation<unknown> | null,
    lane: number,
    isAlive: boolean,
  ): void {
    const { events, heap } = this;
    const oldLo = heap.read(addr, size);
    const oldHi = heap.high;
    const access = accessClass(kind, op, oldLo, oldHi);
    const location = this.history.locationOf(addr);
    events.location[i] = location;
    events.access[i] = access;
    events.oldLo[i] = oldLo;
    events.oldHi[i] = oldHi;
    const load = kind === OpKind.Load || kind === OpKind.Await ? op : null;
    this.order.orderAfter(i, location, events.access, access, load);
    if (isAlive) this.checkRace(i, addr, size, access, lane);
    this.history.append(location, i);
    if (op !== null) {
      op.resultLo = oldLo;
      op.resultHi = oldHi;
    }
    if (access === AccessClass.Read || !isAlive) return;
    writeResult(heap, kind, addr, size, lo, hi, op, oldLo, oldHi);
  }

  private performOther(i: number, op: Operation<unknown>, task: Task): void {
    switch (op.kind) {
      case OpKind.Choose:
        op.resultLo = this.scheduler.choose(task, op.lo);
        return;
      case OpKind.Spawn:
        this.spawnedAt[op.lo] = i;
        return;
      case OpKind.Lifetime:
        this.changeLife(i, op, task);
        return;
      case OpKind.Fence:
        if (this.watchesBufferOf(task.lane, op)) this.touchBuffer(i, op.lo, AccessClass.Read);
        return;
      default:
        return;
    }
  }

  private changeLife(i: number, op: Operation<unknown>, task: Task): void {
    const { events, heap, world } = this;
    const life = world.lifeOf(op.addr);
    if (!world.isMortal(life))
      throw new EngineBug(`${world.nameOf(op.addr)} cannot be retired: makeMortal() it in set-up`);
    const location = this.history.locationOf(life);
    events.life[i] = location;
    events.lifeAccess[i] = AccessClass.Write;
    this.order.orderAfter(i, location, events.lifeAccess, AccessClass.Write, null);
    this.history.appendTurn(location, i);
    const state = op.lo;
    const old = heap.read(life, 8);
    op.resultLo = old;
    events.oldLo[i] = old;
    const race = this.races.markedAccess(i, life, 8, AccessClass.Write, task.lane);
    if (race !== null) this.reportRace({ ...race, named: op.addr, what: op.text === "" ? "revived" : op.text });
    if (op.text !== "" && old === state) {
      const message = `${world.nameOf(op.addr)}: ${op.text} twice`;
      this.failures.push({ property: "double-free", message, lane: task.lane, event: i });
    }
    heap.write(life, 8, state, 0);
  }

  // --- store buffers -------------------------------------------------------------------------------------------

  private issue(i: number, op: Operation<unknown>, lane: number): void {
    const { addr, size, lo, hi } = op;
    const buffer = this.buffers[lane] as StoreBuffer;
    if (this.world.watchesBuffers) this.touchBuffer(i, lane, AccessClass.Write);
    if (size < 8) this.splitsStores = true;
    buffer.issue({ addr, size, lo, hi, issued: i, forwarded: [] });
  }

  /**
   * Where somebody may wait for another task's buffer to be empty, entering it and finding it empty conflict: it matters which comes first.
   */
  private touchBuffer(i: number, lane: number, access: AccessClass): void {
    const { events } = this;
    const location = this.bufferLocation(lane);
    events.location[i] = location;
    events.access[i] = access;
    events.oldLo[i] = (this.buffers[lane] as StoreBuffer).waiting.length;
    events.oldHi[i] = 0;
    this.order.orderAfter(i, location, events.access, access, null);
    const drained = this.laneLast[this.world.tasksMax + lane] as number;
    if (access === AccessClass.Read && drained >= 0) this.order.join(i * this.lanes, drained);
    this.history.append(location, i);
  }

  /** The location that stands for a task's store buffer: a granule of the page at 0, where nothing is allocated. */
  bufferLocation(lane: number): number {
    return this.history.locationOf(8 * (lane + 1));
  }

  /** Answers a load from the own buffer; false when memory has to. */
  private forwardLoad(i: number, op: Operation<unknown>, lane: number): boolean {
    const entry = this.forwardingStore(lane, op.addr, op.size);
    if (entry === null) return false;
    const value = forward(entry, op.addr, op.size);
    op.resultLo = value.lo;
    op.resultHi = value.hi;
    this.events.access[i] = AccessClass.Read;
    entry.forwarded.push(i);
    return true;
  }

  /** The oldest waiting store of a buffer reaches memory. */
  private drain(lane: number): void {
    const i = this.begin(lane);
    const buffer = this.buffers[lane - this.world.tasksMax] as StoreBuffer;
    const entry = buffer.drain();
    this.events.kind[i] = OpKind.Store;
    this.events.addr[i] = entry.addr;
    this.events.size[i] = entry.size;
    this.events.lo[i] = entry.lo;
    this.events.hi[i] = entry.hi;
    this.accessNow(i, OpKind.Store, entry.addr, entry.size, entry.lo, entry.hi, null, lane, true);
    const location = this.events.location[i] as number;
    for (const loadEvent of entry.forwarded) {
      this.events.location[loadEvent] = location;
      this.events.oldLo[loadEvent] = entry.lo;
      this.events.oldHi[loadEvent] = entry.hi;
      this.history.append(location, loadEvent);
    }
    this.commit(i, lane);
  }

  // --- data races ------------------------------------------------------------------------------------------------

  plainAccess(task: Task, addr: number, size: AccessSize, isWrite: boolean): void {
    const { lane, completed } = task;
    const row = this.currentRow(lane);
    this.races.plainAccess({ lane, completed, row }, addr, size, isWrite, this.reportRace);
    // Freeing what is plainly accessed without order is a race too: the life of the object counts as read.
    const life = this.world.lifeOf(addr);
    if (this.world.isMortal(life)) this.races.plain.append(life >>> 2, lane, completed, false);
  }

  waitingStores(task: Task): StoreBuffer | null {
    const buffer = this.buffers[task.lane];
    if (buffer === undefined || buffer.empty) return null;
    buffer.now = this.events.length - 1;
    return buffer;
  }

  /** The clock of what the lane has done so far. */
  private currentRow(lane: number): number {
    const last = this.laneLast[lane] as number;
    if (last >= 0) return last * this.lanes;
    const row = this.order.scratchRow(2);
    this.order.copyRow(this.spawnedAt[lane] as number, row);
    return row;
  }

  private checkRace(i: number, addr: number, size: AccessSize, access: number, lane: number): void {
    const race = this.races.markedAccess(i, addr, size, access, lane % this.world.tasksMax);
    if (race !== null) this.reportRace(race);
  }

  private readonly reportRace = (race: Race): void => {
    const { lane, event, addr, peer } = race;
    const message = raceText(this.world, race);
    this.failures.push({ property: "data-race", message, lane, event, addr, peers: [peer] });
  };

  // --- taking back ---------------------------------------------------------------------------------------------

  /** Takes back every event from index `length` on. */
  rollback(length: number): void {
    const { events, world } = this;
    assert(length <= events.length, "cannot roll back to the future");
    if (length === events.length) return;
    for (let i = events.length - 1; i >= length; i--) this.takeBack(i, length);
    this.heap.undoTo(events.heapMark[length] as number);
    this.history.undoTo(events.historyMark[length] as number);
    this.races.plain.undoTo(events.plainMark[length] as number);
    world.trace.length = events.traceMark[length] as number;
    this.failures.length = events.failureMark[length] as number;
    if (this.heap.hash !== null) loadHash(this.heap.hash, events.hashes, 8 * length);
    events.length = length;
  }

  /** What the event did to its lane and to store buffers. A task goes back at once to the first of its events that are taken back. */
  private takeBack(i: number, length: number): void {
    const { events, world } = this;
    const lane = events.lane[i] as number;
    const isFirst = (events.previous[i] as number) < length;
    if (isFirst) {
      this.laneLast[lane] = events.previous[i] as number;
      this.laneCount[lane] = (events.nth[i] as number) - 1;
    }
    if (lane >= world.tasksMax) {
      const buffer = this.buffers[lane - world.tasksMax] as StoreBuffer;
      buffer.takeBackDrain();
      for (const loadEvent of buffer.oldest.forwarded) events.location[loadEvent] = 0;
      return;
    }
    if (events.kind[i] === OpKind.Spawn) {
      const spawned = events.lo[i] as number;
      this.spawnedAt[spawned] = -1;
      (world.tasks[spawned] as Task).reset();
    }
    this.buffers[lane]?.takeBack(i, events);
    if (!isFirst) return;
    const task = world.tasks[lane] as Task;
    events.restoreRequest(i, task.op);
    task.takeBack((events.nth[i] as number) - 1, events.logMark[i] as number);
    if (task.position !== null) loadHash(task.position, events.hashes, 8 * i + 4);
  }
}
