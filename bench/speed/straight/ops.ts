/**
 * The engine's operations where nobody else runs: each is carried out where it stands, and its result returned.
 *
 * Counterpart of src/engine/ops.ts for modules that hooks.ts has loaded. Lives of objects are checked as the engine does; an operation that would
 * wait would wait for ever.
 */
import { UsageError, Violation } from "../../../src/engine/assert.ts";
import type { Cell } from "../../../src/engine/cell.ts";
import type { Ready, Update } from "../../../src/engine/operation.ts";
import { numberOfHalves, TWO32, type U64, u64 } from "../../../src/engine/u64.ts";
import type { World } from "../../../src/engine/world.ts";

function checkAlive(world: World, addr: number): void {
  const death = world.deathOf(addr);
  if (death !== null) throw new Violation(death.property, `${world.nameOf(addr)}: ${death.because}`, addr);
}

export function load<T>(cell: Cell<T>): T {
  const { world, addr, size } = cell;
  checkAlive(world, addr);
  const { heap } = world;
  const lo = heap.read(addr, size);
  return (cell.wide ? u64(heap.high, lo) : numberOfHalves(heap.high, lo)) as T;
}

function write<T>(cell: Cell<T>, value: T): void {
  const { heap } = cell.world;
  if (typeof value === "number") {
    heap.write(cell.addr, cell.size, value >>> 0, value < TWO32 && value >= 0 ? 0 : Math.floor(value / TWO32) >>> 0);
  } else {
    const { lo, hi } = value as U64;
    heap.write(cell.addr, cell.size, lo, hi);
  }
}

export function store<T>(cell: Cell<T>, value: T): void {
  checkAlive(cell.world, cell.addr);
  write(cell, value);
}

export const storeNow = store;

export function exchange<T>(cell: Cell<T>, value: T): T {
  const old = load(cell);
  write(cell, value);
  return old;
}

/** Wraps around like the machine's, also below zero. */
export function fetchAdd(cell: Cell, value: number): number {
  const old = load(cell);
  const modulus = 2 ** (8 * cell.size);
  write(cell, cell.size === 8 ? old + value : (((old + value) % modulus) + modulus) % modulus);
  return old;
}

export function fetchAnd<T>(cell: Cell<T>, mask: T): T {
  const old = load(cell);
  const [a, b] = [old as U64, mask as U64];
  write(cell, (cell.wide ? u64(a.hi & b.hi, a.lo & b.lo) : ((old as number) & (mask as number)) >>> 0) as T);
  return old;
}

export function fetchOr<T>(cell: Cell<T>, mask: T): T {
  const old = load(cell);
  const [a, b] = [old as U64, mask as U64];
  write(cell, (cell.wide ? u64(a.hi | b.hi, a.lo | b.lo) : ((old as number) | (mask as number)) >>> 0) as T);
  return old;
}

export function compareExchange<T>(cell: Cell<T>, expected: T, replacement: T): T {
  const old = load(cell);
  const [a, b] = [old as U64, expected as U64];
  if (cell.wide ? a.lo === b.lo && a.hi === b.hi : old === expected) write(cell, replacement);
  return old;
}

export function awaitUntil(cell: Cell, ready: Ready): number {
  const value = load(cell);
  if (!ready(value)) throw new UsageError(`waits for ever for ${cell.name}: nobody else runs`);
  return value;
}

export function acquire(cell: Cell, ready: Ready, update: Update): number {
  const old = awaitUntil(cell, ready);
  write(cell, update(old));
  return old;
}

export const acquireShared = acquire;

export function releaseShared(cell: Cell, update: Update): number {
  const old = load(cell);
  write(cell, update(old));
  return old;
}

export function fence(): number {
  return 0;
}

export function choose(): number {
  return 0;
}

export function note(): number {
  return 0;
}

export const progress = note;

export function spawn(): never {
  throw new UsageError("a thread that runs alone starts no other");
}

export const join = spawn;

export function retire(world: World, addr: number, because: string, property = "use-after-free"): number {
  world.heap.write(world.lifeOf(addr), 8, world.lifeState({ property, because }), 0);
  return 0;
}

export function revive(world: World, addr: number): number {
  world.heap.write(world.lifeOf(addr), 8, world.lifeState(null), 0);
  return 0;
}

const nothing = (): void => {};

export function startLoop(): (...values: readonly number[]) => void {
  return nothing;
}
