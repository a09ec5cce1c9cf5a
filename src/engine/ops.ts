/**
 * The operations, as functions to be used with `yield*`.
 *
 *     const old = yield* compareExchange(lock, 0, 1);
 *
 * A request must be consumed by `yield*` at once: each task has one operation record, which the next request reuses.
 */
import { assert } from "./assert.ts";
import type { Cell } from "./cell.ts";
import type { AccessSize } from "./heap.ts";
import { type Operation, OpKind, type Ready, type Steps, type Update } from "./operation.ts";
import { GeneratorBody, type Task } from "./task.ts";
import type { U64 } from "./u64.ts";
import type { World } from "./world.ts";

function begin<T>(world: World, kind: OpKind, cell: Cell<T> | null): Operation<T> {
  if (cell === null) return beginAt(world, kind, 0, 8, false);
  return beginAt(world, kind, cell.addr, cell.size, cell.wide);
}

function beginAt<T>(world: World, kind: OpKind, addr: number, size: AccessSize, wide: boolean): Operation<T> {
  const task = world.current;
  assert(task !== null, "an operation was asked for outside any task");
  const op = task.op as Operation<T>;
  op.begin();
  op.set(kind, addr, size, wide);
  return op;
}

function withOperand<T>(kind: OpKind, cell: Cell<T>, value: T): Operation<T> {
  const op = begin(cell.world, kind, cell);
  op.setOperand(value as number | U64);
  return op;
}

/**
 * Marked load.
 * @param text what a diagram says instead of the bare access
 */
export function load<T>(cell: Cell<T>, text = ""): Operation<T> {
  const op = begin(cell.world, OpKind.Load, cell);
  op.text = text;
  return op;
}

/**
 * Marked store; under TSO it waits in the store buffer. The result is of no use.
 * @param text what a diagram says instead of the bare access
 */
export function store<T>(cell: Cell<T>, value: T, text = ""): Operation<T> {
  const op = withOperand(OpKind.Store, cell, value);
  op.text = text;
  return op;
}

/** A store that all see at once and that orders nothing: for the machine's own bookkeeping. */
export function storeNow<T>(cell: Cell<T>, value: T, text = ""): Operation<T> {
  const op = withOperand(OpKind.StoreNow, cell, value);
  op.text = text;
  return op;
}

/** Locked exchange; the result is the old value. */
export function exchange<T>(cell: Cell<T>, value: T, text = ""): Operation<T> {
  const op = withOperand(OpKind.Exchange, cell, value);
  op.text = text;
  return op;
}

/** Locked add, modulo the cell's size; the result is the old value. */
export function fetchAdd(cell: Cell, value: number, text = ""): Operation<number> {
  const op = begin(cell.world, OpKind.Add, cell);
  op.text = text;
  op.lo = value >>> 0;
  op.hi = Math.floor(value / 0x1_0000_0000) >>> 0;
  return op;
}

/** Locked and; the result is the old value. */
export function fetchAnd<T>(cell: Cell<T>, mask: T): Operation<T> {
  return withOperand(OpKind.And, cell, mask);
}

/** Locked or; the result is the old value. */
export function fetchOr<T>(cell: Cell<T>, mask: T, text = ""): Operation<T> {
  const op = withOperand(OpKind.Or, cell, mask);
  op.text = text;
  return op;
}

/** Locked compare-exchange; the result is the value found: `expected` if and only if it was replaced. */
export function compareExchange<T>(cell: Cell<T>, expected: T, replacement: T, text = ""): Operation<T> {
  const op = withOperand(OpKind.CompareExchange, cell, replacement);
  op.text = text;
  op.setExpected(expected as number | U64);
  return op;
}

// The same for an entry of a page table, by its address: a walk over many needs no cell for each.

export function loadEntry(world: World, addr: number): Operation<U64> {
  return beginAt(world, OpKind.Load, addr, 8, true);
}

function entryWithOperand(world: World, kind: OpKind, addr: number, value: U64): Operation<U64> {
  const op = beginAt<U64>(world, kind, addr, 8, true);
  op.setOperand(value);
  return op;
}

export function storeEntry(world: World, addr: number, value: U64): Operation<U64> {
  return entryWithOperand(world, OpKind.Store, addr, value);
}

export function exchangeEntry(world: World, addr: number, value: U64): Operation<U64> {
  return entryWithOperand(world, OpKind.Exchange, addr, value);
}

export function compareExchangeEntry(world: World, addr: number, expected: U64, replacement: U64): Operation<U64> {
  const op = entryWithOperand(world, OpKind.CompareExchange, addr, replacement);
  op.setExpected(expected);
  return op;
}

/**
 * A load that waits until `ready` holds of the value; the task is disabled until then.
 * @param strong for progress: it is not overlooked again and again that `ready` holds for a moment (a queue, not a poll)
 */
export function awaitUntil(cell: Cell, ready: Ready, text = "", strong = false): Operation<number> {
  const op = begin(cell.world, OpKind.Await, cell);
  op.ready = ready;
  op.text = text;
  op.lo = strong ? 1 : 0;
  return op;
}

/** Waits until `ready` holds, and in the same step replaces the value; the result is the old one. */
export function acquire(cell: Cell, ready: Ready, update: Update, text = ""): Operation<number> {
  const op = begin(cell.world, OpKind.Acquire, cell);
  op.ready = ready;
  op.update = update;
  op.text = text;
  return op;
}

/** As {@link acquire}, for operations that commute with one another and with {@link releaseShared}. */
export function acquireShared(cell: Cell, ready: Ready, update: Update, text = ""): Operation<number> {
  const op = begin(cell.world, OpKind.AcquireShared, cell);
  op.ready = ready;
  op.update = update;
  op.text = text;
  return op;
}

export function releaseShared(cell: Cell, update: Update, text = ""): Operation<number> {
  const op = begin(cell.world, OpKind.ReleaseShared, cell);
  op.update = update;
  op.text = text;
  return op;
}

const isEmpty = (waiting: number): boolean => waiting === 0;

/**
 * Full memory barrier: waits until the own store buffer is empty.
 * @param of wait for the buffer of this task instead: what an interrupt does to the CPU that it hits
 */
export function fence(world: World, of: Task | null = null): Operation<number> {
  const op = begin(world, OpKind.Fence, null) as Operation<number>;
  op.lo = of === null ? op.task.lane : of.lane;
  if (of === null) return op;
  assert(world.watchesBuffers, "a program that waits for others' store buffers sets watchesBuffers");
  op.ready = isEmpty;
  return op;
}

/** Any number from 0 to `n - 1`; each is explored. */
export function choose(world: World, n: number): Operation<number> {
  const op = begin(world, OpKind.Choose, null) as Operation<number>;
  op.lo = n;
  return op;
}

/** A step without effect on memory that the reader of a diagram should see. */
export function note(world: World, text: string): Operation<number> {
  const op = begin(world, OpKind.Note, null) as Operation<number>;
  op.text = text;
  return op;
}

/** The task has got something done (an instruction retired): a cycle that goes through here starves nobody. */
export function progress(world: World, text = "progress"): Operation<number> {
  const op = note(world, text);
  op.lo = 1;
  return op;
}

/** Starts a task; the result is for {@link join}. */
export function* spawn(world: World, name: string, body: () => Steps<unknown>): Steps<Task> {
  const parent = world.current as Task;
  const task = world.spawnedTask(parent, name, () => new GeneratorBody(body()));
  const op = begin(world, OpKind.Spawn, null);
  op.lo = task.lane;
  op.text = name;
  yield* op;
  return task;
}

/** Waits until `task` has ended. */
export function join(world: World, task: Task): Operation<number> {
  const op = begin(world, OpKind.Join, null) as Operation<number>;
  op.lo = task.lane;
  return op;
}

/**
 * Ends the life of the object at `addr`: any access to it that does not come before is a failure. {@link revive} takes that back.
 * @param because completes "access to X: ..." ("freed")
 * @param property the property that such an access violates
 */
export function retire(world: World, addr: number, because: string, property = "use-after-free"): Operation<number> {
  const op = begin(world, OpKind.Lifetime, null) as Operation<number>;
  op.addr = addr;
  op.text = because;
  op.lo = world.lifeState({ property, because });
  return op;
}

export function revive(world: World, addr: number): Operation<number> {
  const op = begin(world, OpKind.Lifetime, null) as Operation<number>;
  op.addr = addr;
  op.lo = world.lifeState(null);
  return op;
}

/**
 * Declares a loop of the running task, for state-graph search: the function returned is called at the head of the loop with all
 * the numbers, apart from shared memory, on which the rest of the function depends. See {@link Task.startLoop}.
 */
export function startLoop(world: World): (...values: readonly number[]) => void {
  assert(world.current !== null, "a loop was declared outside any task");
  return world.current.startLoop();
}
