/**
 * RCU and SRCU.
 *
 * Each thread counts the read-side sections that it has begun and ended (modulo 2, so that going round and round stays one state). A
 * grace period looks at how far each has begun, and waits until it has ended as many; it does not overlook that moment for ever.
 *
 *     rcu_read_lock()      begun++        seen by all at once, orders nothing: the section costs its reader no barrier
 *     rcu_read_unlock()    ended = begun  a plain store, after the section's own stores in the store buffer
 *     synchronize_rcu()    full barrier; for each thread: b = begun; wait until ended has reached b; full barrier
 *
 * That is the guarantee of Linux's grace period (what happened before it is seen by every section that ends after it, and no section that
 * began before it is still running), without saying how quiescent states are found. SRCU's reader side has full barriers.
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

const MODULUS = 2;

/** The sections of one RCU flavour, by thread. */
class Sections {
  readonly begun: readonly Cell[];
  readonly ended: readonly Cell[];

  constructor(world: World, name: string) {
    this.begun = cells(world, `${name}.begun`, world.tasksMax);
    this.ended = cells(world, `${name}.ended`, world.tasksMax);
  }

  /** The running thread's counters. */
  own(world: World): { begun: Cell; ended: Cell } {
    const { lane } = current(world).task;
    return { begun: this.begun[lane] as Cell, ended: this.ended[lane] as Cell };
  }

  /** Waits until every section that has begun has ended. */
  *wait(world: World, what: string): Steps<void> {
    yield* fence(world);
    for (let lane = 0; lane < this.begun.length; lane++) {
      const begun = yield* load(this.begun[lane] as Cell);
      yield* awaitUntil(this.ended[lane] as Cell, (ended) => ended === begun, `${what}: wait for CPU ${lane}`, true);
    }
    yield* fence(world);
  }
}

/** A callback: what to do to the object whose rcu_head it was. */
export type RcuCallback = (addr: number) => Steps<void>;

export class Rcu {
  readonly world: World;
  readonly sections: Sections;
  /** First of the callbacks waiting for a grace period; each node is {next, object, callback}. */
  readonly callbacks: Cell;
  readonly handlers: RcuCallback[] = [];

  constructor(world: World) {
    this.world = world;
    this.sections = new Sections(world, "rcu");
    this.callbacks = cell(world, "rcu.callbacks");
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
  const { begun } = rcu.sections.own(rcu.world);
  yield* storeNow(begun, (begun.value + 1) % MODULUS, "rcu_read_lock()");
  rcu.world.clock?.enter("rcu");
}

export function* rcuReadUnlock(rcu: Rcu): Steps<void> {
  const self = current(rcu.world);
  if (self.rcuDepth === 0) throw new Violation("rcu-imbalance", "rcu_read_unlock() without rcu_read_lock()");
  if (--self.rcuDepth > 0) return;
  const { begun, ended } = rcu.sections.own(rcu.world);
  yield* store(ended, begun.value, "rcu_read_unlock()");
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
  yield* rcu.sections.wait(rcu.world, "synchronize_rcu()");
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
    rcu.world.clock?.spend("RCU grace period");
    yield* rcu.sections.wait(rcu.world, "rcu grace period");
    const batch: number[] = [];
    for (; node !== 0; node = fieldOf(rcu.callbacks, node, 0).value) batch.push(node);
    for (const entry of batch.reverse()) {
      const handler = rcu.handlers[fieldOf(rcu.callbacks, entry, 16).value] as RcuCallback;
      rcu.world.clock?.gauge("RCU callbacks", -1);
      rcu.world.clock?.spend("free a table");
      yield* handler(fieldOf(rcu.callbacks, entry, 8).value);
    }
  }
}

function fieldOf(like: Cell, addr: number, offset: number): Cell {
  return new Cell<number>(like.world, addr + offset, 8, false);
}

/** A struct srcu_struct. */
export class Srcu {
  readonly world: World;
  readonly name: string;
  readonly sections: Sections;

  constructor(world: World, name: string) {
    this.world = world;
    this.name = name;
    this.sections = new Sections(world, name);
  }
}

/** srcu_read_lock(). Sections of one structure may nest; they end in any order, since they are only counted. */
export function srcuReadLock(srcu: Srcu): Operation<number> {
  const { begun } = srcu.sections.own(srcu.world);
  return exchange(begun, (begun.value + 1) % MODULUS, `srcu_read_lock(&${srcu.name})`);
}

export function srcuReadUnlock(srcu: Srcu): Operation<number> {
  const { ended } = srcu.sections.own(srcu.world);
  return exchange(ended, (ended.value + 1) % MODULUS, `srcu_read_unlock(&${srcu.name})`);
}

export function* synchronizeSrcu(srcu: Srcu): Steps<void> {
  current(srcu.world).mightSleep(`synchronize_srcu(&${srcu.name})`);
  yield* srcu.sections.wait(srcu.world, `synchronize_srcu(&${srcu.name})`);
}
