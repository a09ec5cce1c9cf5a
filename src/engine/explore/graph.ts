/**
 * State-graph search: every reachable state once, and the fair cycles among them.
 *
 * Two states are the same when memory, store buffers and the position of every task are the same, compared by a 128-bit hash.
 * A task's position is all that it has learned since it began, or since the last head of a loop that it declared (startLoop);
 * a program whose tasks go round for ever without declaring so has no finite graph.
 *
 * Progress: a task starves if there is a fair cycle in which it neither ends nor reports progress. A cycle is fair if every task moves in
 * it, or is somewhere unable to move (weak fairness), and no task that waits for a lock finds it free again and again without getting it
 * (strong fairness: Linux's locks are queues). It is decided on strongly connected components: where a task only waits for a lock, the states
 * in which the lock is free are taken out and what is left is looked at again. What is reported is a lasso: a shortest way to a
 * fair component, and a way round it that is itself fair.
 *
 * Not covered here: data races, which need the order in which a state was reached (explore with dpor).
 */
import { assert } from "../assert.ts";
import { grow } from "../event-log.ts";
import type { Execution, Failure, Scheduler } from "../execution.ts";
import { chain, type Hash, newHash, setHash, storeHash } from "../hash.ts";
import { type Operation, OpKind } from "../operation.ts";
import type { Step } from "../schedule.ts";
import type { Task } from "../task.ts";
import { components } from "./components.ts";

/** A way to starve a task: after `prefix`, `cycle` can be repeated for ever. */
export interface Lasso {
  readonly task: string;
  readonly prefix: readonly Step[];
  readonly cycle: readonly Step[];
}

export interface GraphHooks {
  /** A failure found on the way to a new state; return false to stop. */
  onFailure(failure: Failure, path: readonly Step[]): boolean;
  /** A state without a next one. */
  onEnd(execution: Execution): void;
  /** Called for each new state; return false to stop. */
  onState(states: number): boolean;
}

interface Frame {
  readonly state: number;
  /** The steps that can be made here: the lane and, from bit 6 on, the choice. */
  readonly steps: readonly number[];
  next: number;
  /** Length of the execution at this state. */
  readonly length: number;
}

export class GraphExplorer implements Scheduler {
  private readonly execution: Execution;
  private readonly index = new StateIndex();
  /** By state: a bit for each lane that can move, for each that can take the lock it waits for, and for each task that has ended. */
  private enabled = new Int32Array(1024);
  private canLock = new Int32Array(1024);
  private finished = new Int32Array(1024);
  private edges = new EdgeList();
  /** By state: 1 while it lies on the path that is being followed. A step to such a state closes a cycle, and every cycle is closed by one. */
  private isOnPath = new Uint8Array(1024);
  private hasCycle = false;
  /** The step to make next; -1 for none. */
  private lane = -1;
  private choice = 0;
  /** The hash of the state at hand. */
  private readonly key: Hash = newHash();

  constructor(execution: Execution) {
    assert(execution.world.comparesStates, "a graph search needs a world that compares states");
    assert(execution.lanes <= 31, "a graph search handles up to 31 tasks and store buffers");
    this.execution = execution;
    execution.scheduler = this;
  }

  get states(): number {
    return this.index.size;
  }

  /** Visits every reachable state; false when a hook stopped it. */
  explore(hooks: GraphHooks): boolean {
    const { execution } = this;
    this.hashState();
    const stack: Frame[] = [this.visit(hooks)];
    while (stack.length > 0) {
      const frame = stack[stack.length - 1] as Frame;
      const step = frame.steps[frame.next++];
      if (step === undefined) {
        stack.pop();
        this.isOnPath[frame.state] = 0;
        continue;
      }
      execution.rollback(frame.length);
      this.lane = step & 63;
      this.choice = step >>> 6;
      const isProgress = this.isProgress(this.lane);
      const failuresBefore = execution.failures.length;
      execution.run();
      this.hashState();
      const known = this.index.find(this.key);
      const to = known >= 0 ? known : this.index.size;
      this.edges.add(frame.state, step, to, isProgress);
      for (let f = failuresBefore; f < execution.failures.length; f++) {
        if (!hooks.onFailure(execution.failures[f] as Failure, this.path())) return false;
      }
      if (known >= 0) {
        if (this.isOnPath[known] === 1) this.hasCycle = true;
        continue;
      }
      stack.push(this.visit(hooks));
      if (!hooks.onState(this.index.size)) return false;
    }
    return true;
  }

  /** Looks for a starving task among `tasks` (all that are no daemons); null when each ends or makes progress in every fair run. */
  findStarvation(): Lasso | null {
    const { tasks } = this.execution.world;
    // Most programs end whatever happens: then there is nothing to look for.
    if (!this.hasCycle) return null;
    for (const task of tasks) {
      if (task.daemon) continue;
      const lasso = this.findStarvationOf(task);
      if (lasso !== null) return lasso;
    }
    return null;
  }

  /** The steps of the current execution. */
  path(): Step[] {
    const { events } = this.execution;
    return Array.from({ length: events.length }, (_, i) => ({
      lane: events.lane[i] as number,
      choice: events.kind[i] === OpKind.Choose ? (events.resultLo[i] as number) : 0,
    }));
  }

  pick(): number {
    const { lane } = this;
    this.lane = -1;
    return lane;
  }

  choose(): number {
    return this.choice;
  }

  // --- states --------------------------------------------------------------------------------------------------

  private visit(hooks: GraphHooks): Frame {
    const { execution } = this;
    const state = this.index.add(this.key);
    if (state >= this.enabled.length) {
      this.enabled = grow(this.enabled, this.enabled.length * 2);
      this.canLock = grow(this.canLock, this.enabled.length);
      this.finished = grow(this.finished, this.enabled.length);
      this.isOnPath = grow(this.isOnPath, this.enabled.length);
    }
    this.isOnPath[state] = 1;
    const steps = this.stepsFrom(state);
    if (steps.length === 0) hooks.onEnd(execution);
    return { state, steps, next: 0, length: execution.events.length };
  }

  private stepsFrom(state: number): number[] {
    const { execution } = this;
    const { tasks } = execution.world;
    const steps: number[] = [];
    let enabled = 0;
    let canLock = 0;
    for (let lane = 0; lane < execution.lanes; lane++) {
      if (!execution.isEnabled(lane)) continue;
      enabled |= 1 << lane;
      const op = (tasks[lane] as Task | undefined)?.op;
      if (op !== undefined && isStronglyFair(op)) canLock |= 1 << lane;
      const outcomes = op?.kind === OpKind.Choose ? op.lo : 1;
      for (let choice = 0; choice < outcomes; choice++) steps.push(lane | (choice << 6));
    }
    let finished = 0;
    for (let t = 0; t < tasks.length; t++) if ((tasks[t] as Task).finished) finished |= 1 << t;
    this.enabled[state] = enabled;
    this.canLock[state] = canLock;
    this.finished[state] = finished;
    return steps;
  }

  private isProgress(lane: number): boolean {
    const op = (this.execution.world.tasks[lane] as Task | undefined)?.op;
    return op?.kind === OpKind.Note && op.lo === 1;
  }

  /** Leaves the hash of the state at hand in {@link key}. */
  private hashState(): void {
    const { key, execution } = this;
    const { heap, world, buffers } = execution;
    const { tasks } = world;
    const memory = heap.hash as Hash;
    setHash(key, memory);
    for (let t = 0; t < tasks.length; t++) {
      const task = tasks[t] as Task;
      const { position } = task;
      const phase = task.halted ? 4 : task.finished ? 3 : task.started ? 2 : 1;
      if (position === null) {
        chain(key, phase, 0);
      } else {
        chain(key, (position[0] as number) ^ phase, position[1] as number);
        chain(key, position[2] as number, position[3] as number);
      }
    }
    for (const buffer of buffers) {
      for (const entry of buffer.waiting) {
        chain(key, entry.addr, entry.size);
        chain(key, entry.lo, entry.hi);
      }
      chain(key, 0xffffffff, 0xffffffff);
    }
  }

  // --- fair cycles ---------------------------------------------------------------------------------------------

  private findStarvationOf(task: Task): Lasso | null {
    const { edges } = this;
    const bit = 1 << task.lane;
    const keep = (edge: number): boolean => !(edges.isProgress(edge) && edges.lane(edge) === task.lane);
    const { component, fair } = this.fairComponents(keep);
    const starves = (state: number): boolean =>
      ((this.finished[state] as number) & bit) === 0 && fair.has(component[state] as number);
    // Every state can be reached: the way there is looked for when it is known to lead somewhere.
    if (!this.someState(starves)) return null;
    const path = this.shortestPath(0, starves, () => true);
    assert(path !== null, "a state cannot be reached from the first");
    const last = path.at(-1);
    const start = last === undefined ? 0 : edges.to(last);
    const cycle = this.fairCycle(start, component, keep);
    return { task: task.name, prefix: this.stepsOf(path), cycle: this.stepsOf(cycle) };
  }

  private someState(is: (state: number) => boolean): boolean {
    for (let state = 0; state < this.index.size; state++) if (is(state)) return true;
    return false;
  }

  private allLanes(): number {
    return (1 << this.execution.lanes) - 1;
  }

  /** The components that hold a fair cycle, after states were taken out as strong fairness asks. */
  private fairComponents(keep: (edge: number) => boolean): { component: Int32Array; fair: Set<number> } {
    const { edges } = this;
    const { size } = this.index;
    const out = new Uint8Array(size);
    for (;;) {
      const inside = (edge: number): boolean => keep(edge) && out[edges.from(edge)] === 0 && out[edges.to(edge)] === 0;
      const component = components(size, edges.forward(), inside);
      const moves = this.lanesByComponent(component, inside);
      const blocked = new Map<number, number>();
      const waits = new Map<number, number>();
      for (let state = 0; state < size; state++) {
        const id = component[state] as number;
        if (out[state] !== 0 || !moves.has(id)) continue;
        blocked.set(id, (blocked.get(id) ?? 0) | (this.allLanes() & ~(this.enabled[state] as number)));
        waits.set(id, (waits.get(id) ?? 0) | ((this.canLock[state] as number) & ~(moves.get(id) as number)));
      }
      let changed = false;
      for (let state = 0; state < size; state++) {
        const starved = waits.get(component[state] as number) ?? 0;
        if (out[state] !== 0 || ((this.canLock[state] as number) & starved) === 0) continue;
        out[state] = 1;
        changed = true;
      }
      if (changed) continue;
      const fair = [...moves].filter(([id, lanes]) => (lanes | (blocked.get(id) ?? 0)) === this.allLanes());
      return { component, fair: new Set(fair.map(([id]) => id)) };
    }
  }

  /** By component that has a cycle: the lanes that move inside it. */
  private lanesByComponent(component: Int32Array, inside: (edge: number) => boolean): Map<number, number> {
    const { edges } = this;
    const lanes = new Map<number, number>();
    for (let edge = 0; edge < edges.length; edge++) {
      const id = component[edges.from(edge)] as number;
      if (id !== component[edges.to(edge)] || !inside(edge)) continue;
      lanes.set(id, (lanes.get(id) ?? 0) | (1 << edges.lane(edge)));
    }
    return lanes;
  }

  /** A way from `start` round its component and back, in which every lane moves or is somewhere unable to. */
  private fairCycle(start: number, component: Int32Array, keep: (edge: number) => boolean): number[] {
    const { edges } = this;
    const id = component[start];
    const inside = (edge: number): boolean => keep(edge) && component[edges.to(edge)] === id;
    const cycle: number[] = [];
    let at = start;
    let satisfied = this.allLanes() & ~(this.enabled[start] as number);
    while (satisfied !== this.allLanes()) {
      const missing = this.allLanes() & ~satisfied;
      const leg = this.shortestLeg(at, inside, missing);
      for (const edge of leg) {
        cycle.push(edge);
        satisfied |= 1 << edges.lane(edge);
        at = edges.to(edge);
        satisfied |= this.allLanes() & ~(this.enabled[at] as number);
      }
    }
    if (cycle.length === 0 || at !== start) {
      const home = this.shortestPath(at, (s) => s === start, inside, cycle.length === 0);
      assert(home !== null, "a component is not strongly connected");
      cycle.push(...home);
    }
    return cycle;
  }

  /** A shortest non-empty way from `at` that ends with a step of a missing lane, or in a state where one cannot move. */
  private shortestLeg(at: number, inside: (edge: number) => boolean, missing: number): number[] {
    const { edges } = this;
    const leg = this.search(at, inside, (edge) => {
      const blocked = ~(this.enabled[edges.to(edge)] as number) & missing;
      return ((1 << edges.lane(edge)) & missing) !== 0 || blocked !== 0;
    });
    assert(leg !== null, "a fair component lacks a fair cycle");
    return leg;
  }

  private shortestPath(
    from: number,
    goal: (state: number) => boolean,
    keep: (edge: number) => boolean,
    nonEmpty = false,
  ): number[] | null {
    if (!nonEmpty && goal(from)) return [];
    return this.search(from, keep, (edge) => goal(this.edges.to(edge)));
  }

  /** Breadth first from `from` along kept edges, to the first edge that is a goal. */
  private search(from: number, keep: (edge: number) => boolean, isGoal: (edge: number) => boolean): number[] | null {
    const { edges } = this;
    const { first, order } = edges.forward();
    const cameBy = new Int32Array(this.index.size).fill(NOT_SEEN);
    cameBy[from] = -1;
    const queue = [from];
    for (const state of queue) {
      for (let k = first[state] as number; k < (first[state + 1] as number); k++) {
        const edge = order[k] as number;
        if (!keep(edge)) continue;
        if (isGoal(edge)) return [...this.trace(cameBy, state), edge];
        const to = edges.to(edge);
        if (cameBy[to] !== NOT_SEEN) continue;
        cameBy[to] = edge;
        queue.push(to);
      }
    }
    return null;
  }

  private trace(cameBy: Int32Array, state: number): number[] {
    const path: number[] = [];
    for (let edge = cameBy[state] as number; edge >= 0; edge = cameBy[this.edges.from(edge)] as number) path.push(edge);
    return path.reverse();
  }

  private stepsOf(path: readonly number[]): Step[] {
    return path.map((edge) => ({ lane: this.edges.lane(edge), choice: this.edges.choice(edge) }));
  }
}

/** In a search: no edge led there yet. */
const NOT_SEEN = -2;

/** Locks are queues: who waits for one gets it if it is free again and again. */
function isStronglyFair(op: Operation<unknown>): boolean {
  return op.kind === OpKind.Acquire || op.kind === OpKind.AcquireShared || (op.kind === OpKind.Await && op.lo === 1);
}

/** States by their 128-bit hash: an open-addressing table. */
class StateIndex {
  size = 0;
  private slots = new Int32Array(4096).fill(-1);
  private keys = new Int32Array(4 * 1024);

  find(key: Hash): number {
    const mask = this.slots.length - 1;
    for (let slot = (key[0] as number) & mask; ; slot = (slot + 1) & mask) {
      const state = this.slots[slot] as number;
      if (state < 0 || this.holds(state, key)) return state;
    }
  }

  add(key: Hash): number {
    const state = this.size++;
    if (state * 4 + 4 > this.keys.length) this.keys = grow(this.keys, this.keys.length * 2);
    storeHash(key, this.keys, state * 4);
    if (this.size * 2 > this.slots.length) this.rehash();
    else this.insert(state);
    return state;
  }

  private holds(state: number, key: Hash): boolean {
    const at = state * 4;
    return (
      this.keys[at] === key[0] &&
      this.keys[at + 1] === key[1] &&
      this.keys[at + 2] === key[2] &&
      this.keys[at + 3] === key[3]
    );
  }

  private insert(state: number): void {
    const mask = this.slots.length - 1;
    let slot = (this.keys[state * 4] as number) & mask;
    while ((this.slots[slot] as number) >= 0) slot = (slot + 1) & mask;
    this.slots[slot] = state;
  }

  private rehash(): void {
    this.slots = new Int32Array(this.slots.length * 2).fill(-1);
    for (let state = 0; state < this.size; state++) this.insert(state);
  }
}

/** The graph's edges, as columns. */
class EdgeList {
  length = 0;
  private fromState = new Int32Array(1024);
  private toState = new Int32Array(1024);
  /** Lane, choice and the progress mark of the step. */
  private label = new Int32Array(1024);
  private sorted: { first: Int32Array; order: Int32Array } | null = null;

  /** @param step the lane and, from bit 6 on, the choice */
  add(from: number, step: number, to: number, isProgress: boolean): void {
    if (this.length === this.fromState.length) {
      this.fromState = grow(this.fromState, this.length * 2);
      this.toState = grow(this.toState, this.length * 2);
      this.label = grow(this.label, this.length * 2);
    }
    const edge = this.length++;
    this.fromState[edge] = from;
    this.toState[edge] = to;
    this.label[edge] = step | (isProgress ? 1 << 5 : 0);
    this.sorted = null;
  }

  from(edge: number): number {
    return this.fromState[edge] as number;
  }
  to(edge: number): number {
    return this.toState[edge] as number;
  }
  lane(edge: number): number {
    return (this.label[edge] as number) & 31;
  }
  choice(edge: number): number {
    return (this.label[edge] as number) >>> 6;
  }
  isProgress(edge: number): boolean {
    return ((this.label[edge] as number) & 32) !== 0;
  }

  /** Edges grouped by the state that they leave: those of state s are order[first[s]] to order[first[s+1]-1]. */
  forward(): { first: Int32Array; order: Int32Array; to: Int32Array } {
    this.sorted ??= this.sort();
    return { ...this.sorted, to: this.toState };
  }

  private sort(): { first: Int32Array; order: Int32Array } {
    let states = 0;
    for (let e = 0; e < this.length; e++) states = Math.max(states, this.from(e) + 1, this.to(e) + 1);
    const first = new Int32Array(states + 2);
    for (let e = 0; e < this.length; e++) first[this.from(e) + 1] = (first[this.from(e) + 1] as number) + 1;
    for (let s = 0; s < states; s++) first[s + 1] = (first[s + 1] as number) + (first[s] as number);
    const next = first.slice();
    const order = new Int32Array(this.length);
    for (let e = 0; e < this.length; e++) {
      const at = next[this.from(e)] as number;
      order[at] = e;
      next[this.from(e)] = at + 1;
    }
    return { first, order };
  }
}
