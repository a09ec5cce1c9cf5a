/**
 * RCU and SRCU.
 *
 * Each thread counts the read-side sections that it has begun and ended. A grace period looks at how far each has begun, and waits until it has
 * ended as many.
 *
 *     rcu_read_lock()      begun++        seen by all at once, orders nothing: the section costs its reader no barrier
 *     rcu_read_unlock()    ended = begun  a plain store, after the section's own stores in the store buffer
 *     synchronize_rcu()    full barrier; for each thread: b = begun; wait until ended has reached b; full barrier
 *
 * That is the guarantee of Linux's grace period (what happened before it is seen by every section that ends after it, and no section that
 * began before it is still running), without saying how quiescent states are found. SRCU counts each thread's open sections, with full barriers; its grace
 * period waits for a moment when there is none. A section that begins meanwhile may be waited for as well: what it could see by then, it could see
 * by beginning later.
 *
 * Where states are compared (strategy graph), the counts go round from 1 to 0, so that a loop's states are the same again; a grace period may then
 * overlook for a while that a section has ended, though not for ever.
 *
 * call_rcu() appends to one list; the thread "rcu" waits for a grace period and invokes what was there before it.
 */
import {
  awaitUntil,
  Cell,
  cell,
  cells,
  compareExchange,
  exchange,
  fence,
  load,
  type Operation,
  type Steps,
  startLoop,
  store,
  storeNow,
  Violation,
  type World,
} from "../engine/index.ts";
import { current } from "./current.ts";
import { CallbackBatches, stallWarnings } from "./rcu-softirq.ts";

const MODULUS = 2 ** 16;
const MODULUS_OF_STATES = 2;

/** Whether a count that goes round has reached another one. */
function hasReached(ended: number, begun: number, modulus: number): boolean {
  return (ended - begun + modulus) % modulus < modulus / 2;
}

/** A callback: what to do to the object whose rcu_head it was. */
export type RcuCallback = (addr: number) => Steps<void>;

export class Rcu {
  readonly world: World;
  /** Sections that each thread has begun, and ended. */
  readonly begun: readonly Cell[];
  readonly ended: readonly Cell[];
  /** First of the callbacks waiting for a grace period; each node is {next, object, callback}. */
  readonly callbacks: Cell;
  readonly handlers: RcuCallback[] = [];

  constructor(world: World) {
    this.world = world;
    this.begun = cells(world, "rcu.begun", world.tasksMax);
    this.ended = cells(world, "rcu.ended", world.tasksMax);
    this.callbacks = cell(world, "rcu.callbacks");
  }

  get modulus(): number {
    return this.world.heap.hash === null ? MODULUS : MODULUS_OF_STATES;
  }

  /** The running thread's counts. */
  own(): { begun: Cell; ended: Cell } {
    const { lane } = current(this.world).task;
    return { begun: this.begun[lane] as Cell, ended: this.ended[lane] as Cell };
  }

  /** A grace period: waits until every section that has begun has ended. */
  *gracePeriod(what: string): Steps<void> {
    const { world, modulus } = this;
    yield* fence(world);
    for (const [lane, own] of this.begun.entries()) {
      const begun = yield* load(own);
      const isOver = (ended: number): boolean => hasReached(ended, begun, modulus);
      yield* awaitUntil(this.ended[lane] as Cell, isOver, `${what}: wait for CPU ${lane}`, true);
    }
    yield* fence(world);
  }

  /** Makes a callback known; call_rcu() names it by the number returned. Set-up only. */
  register(handler: RcuCallback): number {
    return this.handlers.push(handler) - 1;
  }

  /** The objects of callbacks that are not invoked yet. For oracles. */
  pendingObjects(): number[] {
    const objects: number[] = [];
    for (let node = this.callbacks.peek(); node !== 0; node = fieldOf(this.callbacks, node, 0).peek()) {
      objects.push(fieldOf(this.callbacks, node, 8).peek());
    }
    return objects;
  }
}

export function* rcuReadLock(rcu: Rcu): Steps<void> {
  const self = current(rcu.world);
  if (self.rcuDepth++ > 0) return;
  const begun = rcu.begun[self.task.lane] as Cell;
  yield* storeNow(begun, (begun.value + 1) % rcu.modulus, "rcu_read_lock()");
  rcu.world.clock?.enter("rcu");
}

export function* rcuReadUnlock(rcu: Rcu): Steps<void> {
  const self = current(rcu.world);
  if (self.rcuDepth === 0) throw new Violation("rcu-imbalance", "rcu_read_unlock() without rcu_read_lock()");
  if (--self.rcuDepth > 0) return;
  const { lane } = self.task;
  const begun = rcu.begun[lane] as Cell;
  yield* store(rcu.ended[lane] as Cell, begun.value, "rcu_read_unlock()");
  rcu.world.clock?.leave("rcu");
}

/** rcu_dereference(): @throws Violation outside a read-side section */
export function rcuDereference<T>(rcu: Rcu, pointer: Cell<T>): Operation<T> {
  const self = current(rcu.world);
  if (self.rcuDepth === 0) {
    throw new Violation(
      "rcu-dereference",
      `${pointer.name} is dereferenced by ${self.task.name} outside an RCU section`,
    );
  }
  return load(pointer);
}

export function* synchronizeRcu(rcu: Rcu): Steps<void> {
  current(rcu.world).mightSleep("synchronize_rcu()");
  yield* rcu.gracePeriod("synchronize_rcu()");
}

const NODE_BYTES = 24;

/** call_rcu(): has `handler` invoked with `object` after a grace period. Never sleeps. */
export function* callRcu(rcu: Rcu, object: number, handler: number): Steps<void> {
  const { world } = rcu;
  const node = world.allocate(NODE_BYTES, "rcu_head", (offset) => ["next", "object", "func"][offset >>> 3] ?? "");
  const next = fieldOf(rcu.callbacks, node, 0);
  fieldOf(rcu.callbacks, node, 8).value = object;
  fieldOf(rcu.callbacks, node, 16).value = handler;
  const again = startLoop(world);
  for (;;) {
    again(node);
    const first = yield* load(rcu.callbacks);
    next.value = first;
    if ((yield* compareExchange(rcu.callbacks, first, node)) !== first) continue;
    world.clock?.gauge("RCU callbacks", 1);
    return;
  }
}

/** The thread that invokes callbacks; a daemon. */
export function* rcuThread(rcu: Rcu): Steps<void> {
  const again = startLoop(rcu.world);
  for (;;) {
    again();
    yield* awaitUntil(rcu.callbacks, (first) => first !== 0, "rcu: wait for callbacks");
    let node = yield* exchange(rcu.callbacks, 0);
    const { clock } = rcu.world;
    const begun = clock?.now ?? 0;
    clock?.enter("grace period");
    clock?.spend("RCU grace period");
    yield* rcu.gracePeriod("rcu grace period");
    clock?.leave("grace period");
    clock?.gauge("RCU stall warnings", stallWarnings(clock.now - begun));
    const batch: number[] = [];
    for (; node !== 0; node = fieldOf(rcu.callbacks, node, 0).value) batch.push(node);
    const softirqs = clock === null ? null : new CallbackBatches(clock, batch.length);
    for (const entry of batch.reverse()) {
      const handler = rcu.handlers[fieldOf(rcu.callbacks, entry, 16).value] as RcuCallback;
      clock?.gauge("RCU callbacks", -1);
      clock?.spend("free a table");
      yield* handler(fieldOf(rcu.callbacks, entry, 8).value);
      softirqs?.callbackDone();
    }
  }
}

function fieldOf(like: Cell, addr: number, offset: number): Cell {
  return new Cell<number>(like.world, addr + offset, 8, false);
}

const isZero = (open: number): boolean => open === 0;

/** A struct srcu_struct. */
export class Srcu {
  readonly world: World;
  readonly name: string;
  /** Open sections, by thread. */
  readonly open: readonly Cell[];
  readonly lockText: string;
  readonly unlockText: string;

  constructor(world: World, name: string) {
    this.world = world;
    this.name = name;
    this.lockText = `srcu_read_lock(&${name})`;
    this.unlockText = `srcu_read_unlock(&${name})`;
    this.open = cells(world, `${name}.open`, world.tasksMax);
  }

  /** Open sections of the running thread. */
  own(): Cell {
    return this.open[current(this.world).task.lane] as Cell;
  }
}

/** srcu_read_lock(). Sections of one structure may nest; they end in any order, since they are only counted. */
export function srcuReadLock(srcu: Srcu): Operation<number> {
  const open = srcu.own();
  return exchange(open, open.value + 1, srcu.lockText);
}

export function srcuReadUnlock(srcu: Srcu): Operation<number> {
  const open = srcu.own();
  return exchange(open, open.value - 1, srcu.unlockText);
}

export function* synchronizeSrcu(srcu: Srcu): Steps<void> {
  current(srcu.world).mightSleep(`synchronize_srcu(&${srcu.name})`);
  yield* fence(srcu.world);
  for (const [lane, open] of srcu.open.entries()) {
    yield* awaitUntil(open, isZero, `synchronize_srcu(&${srcu.name}): wait for CPU ${lane}`, true);
  }
  yield* fence(srcu.world);
}
