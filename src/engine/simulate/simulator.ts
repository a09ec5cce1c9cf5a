/**
 * Virtual time: the same tasks under a discrete-event clock.
 *
 * Each task has a CPU of its own and a time of its own. An operation takes what the cost table says and is carried out, on the one shared memory,
 * at the moment when it is done, in order of time over all tasks. A task that goes on before anybody else could act is not suspended.
 *
 *     locks      wait in the order of arrival, readers and writers in one queue, as qspinlock and qrwlock do; who comes later does not overtake
 *     awaits     go on when the value they wait for is there
 *     lines      accesses to a cache line that another CPU had cost a transfer (cache-lines.ts)
 *
 * Everything is deterministic: equal times are served in the order in which they were reached.
 */
import { EngineBug, UsageError, Violation } from "../assert.ts";
import { accessClass, isReady, writeResult } from "../effect.ts";
import { AccessClass } from "../event-log.ts";
import { factsOf } from "../facts.ts";
import { OpKind, shownText } from "../operation.ts";
import type { Task } from "../task.ts";
import type { Driver, World } from "../world.ts";
import { CacheLines } from "./cache-lines.ts";
import type { Clock } from "./clock.ts";
import { type CostTable, costOf, ENGINE_COSTS } from "./cost-table.ts";
import {
  addStretch,
  entryOf,
  gaugeOf,
  kindOf,
  type LockMetrics,
  type Metrics,
  newLockMetrics,
  newMetrics,
  newStretch,
  type Stretch,
} from "./metrics.ts";
import { TimeQueue } from "./time-queue.ts";
import { WaitQueue } from "./wait-queue.ts";

export interface SimulationOptions {
  /** Costs by name, over those of the engine's own operations. */
  readonly costs?: CostTable;
  /** Nanoseconds that a task may have its CPU before need_resched() says so. Default 4 ms, a tick at HZ=250. */
  readonly timeSlice?: number;
  /** Nanoseconds after which everything stops; for worlds with tasks that never end. */
  readonly until?: number;
}

/** A tick at HZ=250, in nanoseconds. */
export const TIME_SLICE = 4_000_000;

/** A task with its clock. */
interface Thread {
  readonly task: Task;
  /** Its name without its number, under which it is measured. */
  readonly kind: string;
  time: number;
  /** Its operation waits for its time to begin, or has begun and waits to be done; `none`: it has been carried out. */
  pending: "none" | "asked" | "begun";
  /** When it began to wait; -1 when it does not. */
  waitsSince: number;
  /** When its time slice began. */
  sliceStart: number;
  /** When its open sections began, by number; -1 for those that are not open. */
  readonly sections: number[];
  /** Locks that it holds for read, by address: since when. */
  readonly shared: Map<number, number>;
}

/** A kind of section. */
interface Section {
  readonly number: number;
  readonly stretch: Stretch;
}

/** Something that costs time by name, and how much of it there was. */
interface Spending {
  readonly cost: number;
  units: number;
}

export class Simulator implements Driver, Clock {
  readonly metrics: Metrics = newMetrics();
  takesTurns = false;
  private readonly world: World;
  private readonly costs: CostTable;
  /** The engine's own costs, which every operation asks for. */
  private readonly accessNs: number;
  private readonly lockedAccessNs: number;
  private readonly transferNs: number;
  private readonly fenceNs: number;
  private readonly handOverNs: number;
  private readonly timeSlice: number;
  private readonly until: number;
  private readonly threads: Thread[] = [];
  private readonly queue = new TimeQueue<Thread>();
  private readonly waiters = new Map<number, WaitQueue<Thread>>();
  private readonly sections = new Map<string, Section>();
  private readonly spendings = new Map<string, Spending>();
  /** Since when a lock has an exclusive holder, by address. */
  private readonly held = new Map<number, number>();
  private readonly lockAt = new Map<number, LockMetrics>();
  private readonly lines: CacheLines;
  private running: Thread | null = null;

  constructor(world: World, options: SimulationOptions = {}) {
    this.world = world;
    this.costs = { ...ENGINE_COSTS, ...options.costs };
    this.accessNs = costOf(this.costs, "access");
    this.lockedAccessNs = costOf(this.costs, "locked access");
    this.transferNs = costOf(this.costs, "line transfer");
    this.fenceNs = costOf(this.costs, "fence");
    this.handOverNs = costOf(this.costs, "lock hand-over");
    this.timeSlice = options.timeSlice ?? TIME_SLICE;
    this.until = options.until ?? Number.POSITIVE_INFINITY;
    this.lines = new CacheLines(world.heap.bytes);
  }

  /** Runs all tasks to their ends, or to the given time. @throws UsageError when tasks are left that wait for each other */
  run(): Metrics {
    const { world } = this;
    world.driver = this;
    world.clock = this;
    world.started = true;
    this.takesTurns = world.tasks.length > 1;
    for (const task of world.tasks) {
      task.remembers = false;
      task.unwatched = true;
      const thread: Thread = {
        task,
        kind: kindOf(task.name),
        time: 0,
        pending: "none",
        waitsSince: -1,
        sliceStart: 0,
        sections: [],
        shared: new Map(),
      };
      this.threads.push(thread);
      this.queue.push(0, thread);
    }
    for (let thread = this.queue.pop(); thread !== null; thread = this.queue.pop()) {
      if (thread.time > this.until) break;
      this.metrics.end = thread.time;
      if (thread.pending === "asked" && !this.begin(thread)) continue;
      if (thread.pending === "begun" && !this.carryOut(thread)) continue;
      this.advance(thread);
      if (thread.task.finished && this.isOver()) break;
    }
    world.clock = null;
    for (const [what, { units }] of this.spendings) this.metrics.spent.set(what, units);
    for (const [name, { stretch }] of this.sections) {
      if (stretch.count > 0) this.metrics.sections.set(name, stretch);
    }
    this.checkEnds();
    return this.metrics;
  }

  private advance(thread: Thread): void {
    this.running = thread;
    if (thread.task.started) thread.task.resume();
    else thread.task.start();
    if (thread.task.finished) this.metrics.end = Math.max(this.metrics.end, thread.time);
    this.running = null;
  }

  /** Only daemons are left. */
  private isOver(): boolean {
    return this.threads.every(({ task }) => task.daemon || task.finished);
  }

  private checkEnds(): void {
    const keys = factsOf({ world: this.world }).map(({ key }) => key);
    for (const { property, message } of this.world.factJudge?.judge(keys) ?? []) throw new Violation(property, message);
    if (this.metrics.end >= this.until || this.queue.earliest > this.until) return;
    const stuck = this.threads.filter(({ task }) => !task.daemon && !task.finished);
    if (stuck.length === 0) return;
    const what = stuck.map(({ task }) => `${task.name} waits for ${this.world.nameOf(task.op.addr)}`);
    throw new UsageError(`the simulation stands still: ${what.join("; ")}`);
  }

  // --- operations ----------------------------------------------------------------------------------------------------

  offer(task: Task): boolean {
    const thread = this.running as Thread;
    if (thread.task !== task) throw new EngineBug("an operation was asked for by a task that does not run");
    this.metrics.operations++;
    if (this.queue.earliest < thread.time) {
      thread.pending = "asked";
      this.queue.push(thread.time, thread);
      return false;
    }
    return this.begin(thread) && this.carryOut(thread);
  }

  /** The operation begins; false when others act before it is done. */
  private begin(thread: Thread): boolean {
    thread.time = this.doneAt(thread);
    thread.pending = "begun";
    if (this.queue.earliest >= thread.time) return true;
    this.queue.push(thread.time, thread);
    return false;
  }

  plainAccess(): void {}

  /** When the operation that the thread begins now is done, if it need not wait. */
  private doneAt(thread: Thread): number {
    const { op, lane } = thread.task;
    const { lines, accessNs, transferNs } = this;
    switch (op.kind) {
      case OpKind.Load:
      case OpKind.Await:
        return thread.time + accessNs + (lines.read(lane, op.addr) ? transferNs : 0);
      case OpKind.Store:
      case OpKind.StoreNow:
        return thread.time + accessNs + (lines.write(lane, op.addr) ? transferNs : 0);
      case OpKind.Fence:
        return thread.time + this.fenceNs;
      case OpKind.Choose:
      case OpKind.Note:
      case OpKind.Lifetime:
        return thread.time;
      case OpKind.Spawn:
      case OpKind.Join:
        throw new UsageError("tasks cannot be spawned in a simulation: name them all in the program");
      default: {
        const own = this.lockedAccessNs;
        if (!lines.write(lane, op.addr)) return thread.time + own;
        return lines.transfer(op.addr, thread.time, transferNs + own) + transferNs + own;
      }
    }
  }

  /** Carries out the thread's operation; false when it has to wait, and will be continued by who makes it possible. */
  private carryOut(thread: Thread): boolean {
    const { op } = thread.task;
    thread.pending = "none";
    op.resultLo = 0;
    op.resultHi = 0;
    if (op.kind > OpKind.ReleaseShared) {
      if (op.kind === OpKind.Lifetime) this.world.heap.write(this.world.lifeOf(op.addr), 8, op.lo, 0);
      return true;
    }
    const isLock = op.kind === OpKind.Acquire || op.kind === OpKind.AcquireShared;
    const overtakes = isLock && this.isContended(op.addr);
    if (overtakes || !this.access(thread)) {
      this.wait(thread);
      return false;
    }
    return true;
  }

  /** Makes the access if it can be made now. */
  private access(thread: Thread): boolean {
    const { task } = thread;
    const { op } = task;
    const { heap } = this.world;
    const oldLo = heap.read(op.addr, op.size);
    const oldHi = heap.high;
    if (!isReady(op, oldLo, oldHi)) return false;
    op.resultLo = oldLo;
    op.resultHi = oldHi;
    if (accessClass(op.kind, op, oldLo, oldHi) === AccessClass.Read) return true;
    writeResult(heap, op.kind, op.addr, op.size, op.lo, op.hi, op, oldLo, oldHi);
    if (op.kind === OpKind.Acquire) this.held.set(op.addr, thread.time);
    else if (op.kind === OpKind.AcquireShared) thread.shared.set(op.addr, thread.time);
    else if (op.kind === OpKind.ReleaseShared) this.noteSharedRelease(thread);
    else if (this.held.size > 0) this.noteRelease(thread);
    if (this.waiters.size > 0 && this.waiters.has(op.addr)) this.wake(op.addr, thread.time);
    return true;
  }

  private noteRelease(thread: Thread): void {
    const { op } = thread.task;
    if (op.lo !== 0) return;
    const since = this.held.get(op.addr);
    if (since === undefined) return;
    this.held.delete(op.addr);
    this.noteHold(op.addr, thread, thread.time - since);
  }

  private noteSharedRelease(thread: Thread): void {
    const { addr } = thread.task.op;
    const since = thread.shared.get(addr);
    if (since === undefined) return;
    thread.shared.delete(addr);
    this.noteHold(addr, thread, thread.time - since, "holdShared");
  }

  private noteHold(addr: number, { task, kind }: Thread, duration: number, how: "hold" | "holdShared" = "hold"): void {
    const { holdBy, [how]: hold } = this.lockOf(addr);
    addStretch(hold, duration, task.name);
    addStretch(entryOf(holdBy, kind, newStretch), duration, task.name);
  }

  // --- waiting -------------------------------------------------------------------------------------------------------

  private wait(thread: Thread): void {
    const { op } = thread.task;
    thread.waitsSince = thread.time;
    let queue = this.waiters.get(op.addr);
    if (queue === undefined) {
      queue = new WaitQueue();
      this.waiters.set(op.addr, queue);
    }
    queue.push(thread, op.kind !== OpKind.Await);
  }

  /** The value at `addr` has changed: who waits for that goes on, locks in the order of arrival. */
  private wake(addr: number, time: number): void {
    const queue = this.waiters.get(addr) as WaitQueue<Thread>;
    const from = time + this.handOverNs;
    // What a waiter does to the word in turn wakes nobody: the queue is being served.
    this.waiters.delete(addr);
    const isEmpty = queue.serve((thread) => {
      thread.time = Math.max(thread.time, from);
      if (!this.access(thread)) return false;
      this.noteWait(thread);
      this.queue.push(thread.time, thread);
      return true;
    });
    if (!isEmpty) this.waiters.set(addr, queue);
  }

  private noteWait(thread: Thread): void {
    const { op, name } = thread.task;
    const { kind } = thread;
    const duration = thread.time - thread.waitsSince;
    thread.waitsSince = -1;
    if (op.kind === OpKind.Await) {
      const what = kindOf(op.text === "" ? this.world.nameOf(op.addr) : shownText(op));
      addStretch(entryOf(this.metrics.waits, what, newStretch), duration, name);
      return;
    }
    const { wait, waitBy } = this.lockOf(op.addr);
    addStretch(wait, duration, name);
    addStretch(entryOf(waitBy, kind, newStretch), duration, name);
  }

  /** Locks of one kind (those of all reverse maps, say) are measured together. */
  private lockOf(addr: number): LockMetrics {
    const known = this.lockAt.get(addr);
    if (known !== undefined) return known;
    const name = kindOf(this.world.nameOf(addr));
    const metrics = entryOf(this.metrics.locks, name, () => newLockMetrics(name));
    this.lockAt.set(addr, metrics);
    return metrics;
  }

  // --- the clock -----------------------------------------------------------------------------------------------------

  get now(): number {
    return this.running?.time ?? this.metrics.end;
  }

  spend(what: string, units = 1): void {
    if (this.running === null) return;
    let spending = this.spendings.get(what);
    if (spending === undefined) {
      spending = { cost: costOf(this.costs, what), units: 0 };
      this.spendings.set(what, spending);
    }
    this.running.time += units * spending.cost;
    spending.units += units;
  }

  enter(section: string): void {
    const thread = this.running;
    if (thread === null) return;
    const { number } = this.sectionOf(section);
    while (thread.sections.length <= number) thread.sections.push(-1);
    thread.sections[number] = thread.time;
  }

  leave(section: string): void {
    const thread = this.running;
    if (thread === null) return;
    const { number, stretch } = this.sectionOf(section);
    const since = thread.sections[number] ?? -1;
    if (since < 0) return;
    thread.sections[number] = -1;
    addStretch(stretch, thread.time - since, thread.task.name);
  }

  private sectionOf(name: string): Section {
    const known = this.sections.get(name);
    if (known !== undefined) return known;
    const made = { number: this.sections.size, stretch: newStretch() };
    this.sections.set(name, made);
    return made;
  }

  gauge(name: string, delta: number): void {
    gaugeOf(this.metrics, name).add(delta, this.now);
  }

  needsResched(): boolean {
    return this.running !== null && this.running.time - this.running.sliceStart >= this.timeSlice;
  }

  rescheduled(): void {
    if (this.running !== null) this.running.sliceStart = this.running.time;
  }

  isContended(addr: number): boolean {
    return this.waiters.size > 0 && this.waiters.has(addr);
  }
}
