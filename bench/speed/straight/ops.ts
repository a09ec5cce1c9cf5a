/**
 * The engine's operations where nobody else runs: each is carried out where it stands, and its result returned.
 *
 * Counterpart of src/engine/ops.ts for modules that hooks.ts has loaded. Lives of objects are checked as the engine does; an operation that would
 * wait would wait for ever.
 */
import { UsageError } from "../../../src/engine/assert.ts";
import { Cell } from "../../../src/engine/cell.ts";
import type { Ready, Update } from "../../../src/engine/operation.ts";
import { type U64, u64 } from "../../../src/engine/u64.ts";
import type { World } from "../../../src/engine/world.ts";
import { checkLives, checkPlain, PLAIN_READ, PLAIN_WRITE, read, readEntry, write, writeEntry } from "./access.ts";

/** Plain accesses go straight to the heap as well. */
Object.defineProperty(Cell.prototype, "value", {
  get(this: Cell<unknown>): unknown {
    checkPlain(this.world, this.addr, PLAIN_READ);
    return read(this);
  },
  set(this: Cell<unknown>, value: unknown): void {
    checkPlain(this.world, this.addr, PLAIN_WRITE);
    write(this, value);
  },
});

export function load<T>(cell: Cell<T>): T {
  checkLives(cell.world, cell.addr);
  return read(cell);
}

export function store<T>(cell: Cell<T>, value: T): void {
  checkLives(cell.world, cell.addr);
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

export function loadEntry(world: World, addr: number): U64 {
  checkLives(world, addr);
  return readEntry(world.heap, addr);
}

export function storeEntry(world: World, addr: number, value: U64): void {
  checkLives(world, addr);
  writeEntry(world.heap, addr, value);
}

export function exchangeEntry(world: World, addr: number, value: U64): U64 {
  const old = loadEntry(world, addr);
  writeEntry(world.heap, addr, value);
  return old;
}

export function compareExchangeEntry(world: World, addr: number, expected: U64, replacement: U64): U64 {
  const old = loadEntry(world, addr);
  if (old.lo === expected.lo && old.hi === expected.hi) writeEntry(world.heap, addr, replacement);
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
  world.setLife(addr, { property, because });
  return 0;
}

export function revive(world: World, addr: number): number {
  world.setLife(addr, null);
  return 0;
}

const nothing = (): void => {};

export function startLoop(): (...values: readonly number[]) => void {
  return nothing;
}
