/**
 * Optimal dynamic partial-order reduction in polynomial memory.
 *
 * Explores each happens-before class of complete executions (each execution graph) once. It is a reverse search: every class
 * has one canonical path from the empty execution, and the explorer walks exactly those paths, so nothing that was explored needs
 * to be remembered.
 *
 *   Canonical path. From a prefix, the default scheduler offers event e. If e comes next in the class, it is appended.
 *   Otherwise some event f that conflicts with e comes first in the class. The path then takes f with everything that happens
 *   before f (its schedule), and offers e again. Among several independent f, the one of the lowest rank comes first: the lowest lane,
 *   but the ends of objects' lives last.
 *
 *   Finding the paths. When an event f is appended by default, each earlier event e that conflicts with it and does not happen
 *   before it otherwise could have been preceded by f. The new prefix keeps what came before e, adds the schedule of f, and drops
 *   the rest. The same f is appended in many executions that differ only in what is dropped; the reversal is taken in just the
 *   one where all that is dropped came about by default: no head of an earlier reversal lies after e without happening before f.
 *
 * docs/engine.md has the argument in full. The idea of reversing where everything dropped is maximal is that of TruSt
 * (Kokologiannakis et al., POPL 2022), the schedules are those of POP (Abdulla et al., CAV 2024); here it is stated on sequences of
 * events with any conflict relation, blocking operations and store buffers included.
 *
 * Operations that wait (locks, awaits) disable their task. One that is still waiting when an execution ends is looked at as
 * if it were appended there. One thing can disable an operation without depending on others that do: shared acquisitions of a lock. Only where a
 * reader waits (or fails) with the lock held may a path have to be given up (counted as blocked).
 */
import type { Execution, Scheduler } from "../execution.ts";
import type { Failure } from "../failure.ts";
import { OpKind } from "../operation.ts";
import type { Step } from "../schedule.ts";
import type { StoreBuffer } from "../store-buffer.ts";
import type { Task } from "../task.ts";
import { needsMorePreemptions } from "./preemptions.ts";
import { RaceFinder, type Sequence } from "./races.ts";
import {
  type Alternative,
  type Branch,
  type Course,
  type Frame,
  findPending,
  type Head,
  isLowest,
  nextBranch,
  type Pending,
  type Reversal,
  rankOf,
  requestOf,
  withoutPending,
} from "./reversals.ts";
import { findSpin, SPIN_LOOK, type Spin } from "./spin.ts";

export interface DporHooks {
  /** A complete execution; return false to stop exploring. */
  onExecution(execution: Execution): boolean;
  /** An execution that was given up because another one covers it. */
  onBlocked(execution: Execution): void;
  /** A sub-tree that was left out because all in it needs more preemptions than {@link DporExplorer.preemptionsMax}. */
  onCut?(execution: Execution): void;
  /** A task does something else than in the execution that was branched off from, because of a data race there: the path was given up. */
  onDiverged?(divergence: Divergence): void;
}

/** A data race that decides what a task does. */
export interface Divergence {
  readonly task: Task;
  readonly race: Failure;
  /** The execution with the race, up to there. */
  readonly steps: readonly Step[];
}

const NO_LANE = -1;
/** No event of the execution that was branched off from stands there. */
const NEW_EVENT = -1;

export class DporExplorer implements Scheduler, Sequence {
  private readonly execution: Execution;
  private readonly races: RaceFinder;
  private readonly tasksMax: number;
  private frames: Frame[] = [];

  /** Lanes to follow before scheduling by default. */
  private readonly forced: number[] = [];
  private forcedLength = 0;
  private readonly forcedChoices: number[] = [];
  /** What the events on the way were in the execution that was branched off from; looked at when that had data races. */
  private readonly forcedRequests: number[] = [];
  private racy: Frame | null = null;
  /** The lane that did not do what it did there. */
  private diverged = NO_LANE;
  /** Lanes of the current sequence and outcomes of its Choose events, by event index. */
  private readonly lanes: number[] = [];
  private readonly choices: number[] = [];
  /** By lane, for counting. */
  private readonly counts: Int32Array;
  /** By event index: what was pending before the event. */
  readonly pendingAt: (Pending | null)[] = [];
  private pending: Pending | null = null;
  /** The events that stand where they are because of a reversal or a choice, ascending. */
  heads: Head[] = [];
  branches: Branch[] = [];
  /** A lane was left out because another path covers what it would do. */
  private asleep = false;
  /** The prefix needs more preemptions than allowed. */
  private cut = false;
  private started = false;
  /** Executions that need more preemptions than this are left out; some of them are found all the same. */
  preemptionsMax = Number.POSITIVE_INFINITY;
  /** Called when a task waits by looking again and again; has to throw. Null where its steps are bounded. */
  onSpin: ((spin: Spin) => void) | null = null;

  constructor(execution: Execution) {
    this.execution = execution;
    this.tasksMax = execution.world.tasksMax;
    this.races = new RaceFinder(execution, this);
    this.counts = new Int32Array(execution.lanes);
    execution.scheduler = this;
  }

  /** Explores everything, or until a hook says to stop; true when the space was exhausted. Called again, it goes on. */
  explore(hooks: DporHooks): boolean {
    if (!this.started) {
      this.started = true;
      if (!this.next(hooks)) return false;
    }
    while (this.frames.length > 0) {
      const frame = this.frames.at(-1) as Frame;
      const branch = nextBranch(frame);
      if (branch === null) {
        this.frames.pop();
        continue;
      }
      this.take(frame, branch);
      if (!this.next(hooks)) return false;
    }
    return true;
  }

  /** Completes the current prefix and goes down to what branches off from it. */
  private next(hooks: DporHooks): boolean {
    const { frame, goOn } = this.complete(hooks);
    if (frame !== null) this.frames.push(frame);
    return goOn;
  }

  // --- parts of the tree ---------------------------------------------------------------------------------------

  /** What is left to explore: the branches along the path on which the explorer stands. Null before it has begun: everything. */
  get rest(): readonly Frame[] | null {
    return this.started ? this.frames : null;
  }

  /** From here on explores just the branches of these frames, which lie along one path. */
  resume(frames: readonly Frame[] | null): void {
    this.started = frames !== null;
    this.frames = frames === null ? [] : [...frames];
    if (frames !== null) return;
    this.forcedLength = 0;
    this.heads = [];
    this.pending = null;
    this.execution.rollback(0);
  }

  /** Explores one branch without what branches off from it in turn; returns these, null when there are none. */
  visit(frame: Frame, branch: Reversal | Alternative, hooks: DporHooks): Frame | null {
    this.take(frame, branch);
    return this.complete(hooks).frame;
  }

  /** As {@link visit}, for the first execution of all. */
  visitFirst(hooks: DporHooks): Frame | null {
    this.resume(null);
    return this.complete(hooks).frame;
  }

  // --- one execution -------------------------------------------------------------------------------------------

  /** Runs the current prefix to its end by default and reports it. */
  private complete(hooks: DporHooks): { frame: Frame | null; goOn: boolean } {
    this.branches = [];
    this.cut = false;
    this.diverged = NO_LANE;
    this.execution.run();
    if (this.cut) {
      hooks.onCut?.(this.execution);
      return { frame: null, goOn: true };
    }
    if (this.diverged !== NO_LANE) {
      hooks.onDiverged?.(this.divergence());
      return { frame: null, goOn: true };
    }
    if (!this.asleep) this.examineWaiting();
    const frame = this.branches.length > 0 ? this.newFrame() : null;
    if (!this.asleep) return { frame, goOn: hooks.onExecution(this.execution) };
    hooks.onBlocked(this.execution);
    return { frame, goOn: true };
  }

  /** The race that decides it: one of that task, if there is one. */
  private divergence(): Divergence {
    const { tasks } = this.execution.world;
    const lane = this.diverged % this.tasksMax;
    const { lanes, choices, course } = this.racy as Frame;
    const races = course?.races ?? [];
    const isOf = ({ lane: by, peers = [] }: Failure): boolean =>
      [by, ...peers.map((peer) => peer.lane)].some((one) => one % this.tasksMax === lane);
    const race = (races.find(isOf) ?? races[0]) as Failure;
    const steps = lanes.slice(0, race.event + 1).map((l, i) => ({ lane: l, choice: choices[i] as number }));
    return { task: tasks[lane] as Task, race, steps };
  }

  private courseOf({ events, failures }: Execution): Course | null {
    const races = failures.filter(({ property }) => property === "data-race");
    if (races.length === 0) return null;
    const requests: number[] = [];
    for (let i = 0; i < events.length; i++)
      requests.push(requestOf(events.kind[i] as OpKind, events.addr[i] as number));
    return { requests, races };
  }

  private newFrame(): Frame {
    const { length } = this.execution.events;
    // Branches that leave late are explored first: they share most of the sequence that stands.
    this.branches.sort((a, b) => a.before - b.before);
    return {
      lanes: this.lanes.slice(0, length),
      choices: this.choices.slice(0, length),
      pendingAt: this.pendingAt.slice(0, length),
      heads: this.heads,
      course: this.courseOf(this.execution),
      branches: this.branches,
      first: 0,
      taken: -1,
      takenChoice: null,
    };
  }

  private take(frame: Frame, branch: Reversal | Alternative): void {
    this.racy = frame.course === null ? null : frame;
    if (branch.kind === "alternative") this.takeAlternative(frame, branch);
    else this.takeReversal(frame, branch);
  }

  private takeReversal(frame: Frame, reversal: Reversal): void {
    const { before, at, lane, row, reach } = reversal;
    const delayed = frame.lanes[before] as number;
    const was = frame.pendingAt[before] ?? null;
    let pending = withoutPending(was, delayed);
    this.forcePrefix(frame, before);
    const counts = this.counts.fill(0);
    for (let i = 0; i < at; i++) {
      const l = frame.lanes[i] as number;
      const nth = (counts[l] as number) + 1;
      counts[l] = nth;
      if (i <= before || nth > (row[l] as number)) continue;
      this.force(l, frame.choices[i] as number, frame.course?.requests[i]);
      pending = withoutPending(pending, l);
    }
    this.force(lane, 0, frame.course?.requests[at]);
    pending = withoutPending(pending, lane);
    const head: Head = { at: this.forcedLength - 1, lane, nth: (row[lane] as number) + 1, reach };
    this.goTo(frame, before);
    this.heads = headsBefore(frame, before);
    this.heads.push(head);
    const delayers = findPending(was, delayed)?.delayers ?? null;
    this.pending = { lane: delayed, delayers: delayers === null ? [head] : [...delayers, head], next: pending };
  }

  private takeAlternative(frame: Frame, alternative: Alternative): void {
    const { before, choice } = alternative;
    const lane = frame.lanes[before] as number;
    this.forcePrefix(frame, before);
    this.force(lane, choice, frame.course?.requests[before]);
    this.goTo(frame, before);
    this.heads = headsBefore(frame, before);
    const nth = frame.lanes.slice(0, before + 1).filter((l) => l === lane).length;
    this.heads.push({ at: before, lane, nth, reach: null });
    this.pending = withoutPending(frame.pendingAt[before] ?? null, lane);
  }

  /** From here on follow the first `length` events of `frame`, and then what {@link force} adds. */
  private forcePrefix(frame: Frame, length: number): void {
    for (let i = 0; i < length; i++) {
      this.forced[i] = frame.lanes[i] as number;
      this.forcedChoices[i] = frame.choices[i] as number;
      if (frame.course !== null) this.forcedRequests[i] = frame.course.requests[i] as number;
    }
    this.forcedLength = length;
  }

  private force(lane: number, choice: number, request = NEW_EVENT): void {
    this.forced[this.forcedLength] = lane;
    this.forcedChoices[this.forcedLength] = choice;
    this.forcedRequests[this.forcedLength] = request;
    this.forcedLength++;
  }

  /** Takes back what differs from the forced sequence; running then follows it before scheduling by default. */
  private goTo(frame: Frame, common: number): void {
    const { events } = this.execution;
    // What races may decide is followed step by step.
    const limit = Math.min(this.racy === null ? this.forcedLength : common, events.length);
    let same = 0;
    while (same < limit && events.lane[same] === this.forced[same] && this.choices[same] === this.forcedChoices[same]) {
      same++;
    }
    this.execution.rollback(same);
    for (let i = 0; i < common; i++) this.pendingAt[i] = frame.pendingAt[i] as Pending | null;
    for (let i = common; i < this.forcedLength; i++) this.pendingAt[i] = null;
  }

  // --- scheduling ----------------------------------------------------------------------------------------------

  pick(): number {
    const at = this.execution.events.length;
    if (at < this.forcedLength) return this.racy === null ? (this.forced[at] as number) : this.followRacy(at);
    if (at === this.forcedLength && this.isBeyondBound()) return NO_LANE;
    return this.pickDefault();
  }

  /** The next lane of the forced sequence, if what it does is what it did; NO_LANE when the race has made it do something else. */
  private followRacy(at: number): number {
    const lane = this.forced[at] as number;
    const request = this.forcedRequests[at] as number;
    if (this.execution.isEnabled(lane) && (request === NEW_EVENT || request === this.requestOfNext(lane))) return lane;
    this.diverged = lane;
    return NO_LANE;
  }

  private requestOfNext(lane: number): number {
    const { world, buffers } = this.execution;
    if (lane >= this.tasksMax)
      return requestOf(OpKind.Store, (buffers[lane - this.tasksMax] as StoreBuffer).oldest.addr);
    const { op } = world.tasks[lane] as Task;
    return requestOf(op.kind, op.addr);
  }

  choose(_task: Task, n: number): number {
    const at = this.execution.events.length;
    const choice = at < this.forcedLength ? (this.forcedChoices[at] as number) : 0;
    this.choices[at] = choice;
    if (at < this.forcedLength) return choice;
    for (let other = n - 1; other > 0; other--) this.branches.push({ kind: "alternative", before: at, choice: other });
    return choice;
  }

  /** What the heads stand for is part of everything that is explored from here on: if it needs too many preemptions, so does all that. */
  private isBeyondBound(): boolean {
    if (this.preemptionsMax === Number.POSITIVE_INFINITY || this.heads.length === 0) return false;
    this.cut = needsMorePreemptions(this.execution, this.heads, this.preemptionsMax);
    return this.cut;
  }

  /** The default: what was delayed last goes first, then whoever ran last (its store buffer before it), then by lane. */
  private pickDefault(): number {
    const { execution } = this;
    const { events } = execution;
    this.asleep = false;
    if (events.length % SPIN_LOOK === SPIN_LOOK - 1) this.refuseSpin();
    for (let p = this.pending; p !== null; p = p.next) {
      if (execution.isEnabled(p.lane) && this.isAwake(p.lane)) return p.lane;
    }
    if (events.length > 0) {
      const lane = this.enabledLaneOf((events.lane[events.length - 1] as number) % this.tasksMax);
      if (lane !== NO_LANE) return lane;
    }
    const { tasks } = execution.world;
    for (let t = 0; t < tasks.length; t++) {
      const lane = this.enabledLaneOf(t);
      if (lane !== NO_LANE) return lane;
    }
    return NO_LANE;
  }

  private refuseSpin(): void {
    if (this.onSpin === null) return;
    const spin = findSpin(this.execution);
    if (spin !== null) this.onSpin(spin);
  }

  private enabledLaneOf(task: number): number {
    const { execution } = this;
    const buffer = task + this.tasksMax;
    if (buffer < execution.lanes && execution.isEnabled(buffer) && this.isAwake(buffer)) return buffer;
    if (execution.isEnabled(task) && this.isAwake(task)) return task;
    return NO_LANE;
  }

  /**
   * False when the lane's next event would come before a waiting delayed event although it could have delayed that event
   * itself, ahead of the head that did: the path with the lower lane first covers it.
   */
  private isAwake(lane: number): boolean {
    for (let p = this.pending; p !== null; p = p.next) {
      if (p.lane !== lane && !this.execution.isEnabled(p.lane) && this.wouldOvertake(lane, p)) {
        this.asleep = true;
        return false;
      }
    }
    return true;
  }

  /** Shared acquisitions alone disable a waiting operation, an exclusive one, without conflicting with all others that do. */
  private wouldOvertake(lane: number, delayed: Pending): boolean {
    if (lane >= this.tasksMax || delayed.lane >= this.tasksMax) return false;
    const { tasks } = this.execution.world;
    const mine = (tasks[lane] as Task).op;
    const theirs = (tasks[delayed.lane] as Task).op;
    if (mine.kind !== OpKind.AcquireShared || theirs.kind > OpKind.ReleaseShared) return false;
    if (mine.addr >>> 3 !== theirs.addr >>> 3) return false;
    const row = this.execution.order.scratchRow(0);
    this.execution.baseRow(lane, row);
    return !isLowest(delayed, rankOf(lane, mine, this.execution.lanes), this.execution.order.clocks, row, null);
  }

  // --- races ---------------------------------------------------------------------------------------------------

  before(lane: number, row: number): void {
    const at = this.execution.events.length;
    this.lanes[at] = lane;
    this.choices[at] = 0;
    if (at < this.forcedLength) return;
    this.pendingAt[at] = this.pending;
    if (this.pending !== null) this.pending = withoutPending(this.pending, lane);
    this.races.find(lane, row, at);
  }

  /** The operations that still wait at the end of an execution might have gone ahead earlier. */
  private examineWaiting(): void {
    const { execution } = this;
    const { tasks } = execution.world;
    const at = execution.events.length;
    for (let t = 0; t < tasks.length; t++) {
      const task = tasks[t] as Task;
      if (task.finished || !task.started || execution.isStopped(task)) continue;
      const row = execution.order.scratchRow(0);
      execution.baseRow(t, row);
      this.races.find(t, row, at);
    }
  }
}

function headsBefore({ heads }: Frame, before: number): Head[] {
  let end = heads.length;
  while (end > 0 && (heads[end - 1] as Head).at >= before) end--;
  return heads.slice(0, end);
}
