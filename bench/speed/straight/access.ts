/** Reads and writes of the heap where nobody else runs. */
import type { Cell } from "../../../src/engine/cell.ts";
import type { Heap } from "../../../src/engine/heap.ts";
import { numberOfHalves, TWO32, type U64, u64 } from "../../../src/engine/u64.ts";
import type { World } from "../../../src/engine/world.ts";

/** @param what the kind of access, for the message */
export function checkLives(world: World, addr: number, what = ""): void {
  if (!world.livePlaces.has(addr)) throw world.deadTouch(addr, what);
}

/** A plain access: set-up, which is no task, is not checked. */
export function checkPlain(world: World, addr: number, what: string): void {
  if (world.current !== null) checkLives(world, addr, what);
}

export function readEntry({ words }: Heap, addr: number): U64 {
  const index = addr >>> 2;
  return u64(words[index + 1] as number, words[index] as number);
}

function readNumber({ words }: Heap, addr: number): number {
  const index = addr >>> 2;
  return numberOfHalves(words[index + 1] as number, words[index] as number);
}

export function read<T>({ world: { heap }, addr, size, wide }: Cell<T>): T {
  if (size === 8) return (wide ? readEntry(heap, addr) : readNumber(heap, addr)) as T;
  return (size === 4 ? (heap.words[addr >>> 2] as number) : heap.read(addr, size)) as T;
}

export function writeEntry(heap: Heap, addr: number, { lo, hi }: U64): void {
  heap.write(addr, 8, lo, hi);
}

function highHalf(value: number): number {
  return value < TWO32 && value >= 0 ? 0 : Math.floor(value / TWO32) >>> 0;
}

export function write<T>({ world: { heap }, addr, size }: Cell<T>, value: T): void {
  if (typeof value === "number") heap.write(addr, size, value >>> 0, highHalf(value));
  else writeEntry(heap, addr, value as U64);
}

export const PLAIN_READ = "plain read of ";
export const PLAIN_WRITE = "plain write of ";

/** What the views' methods are made of (view.ts), by the field's type. */
export const FIELD_ACCESS = {
  plainNumber(world: World, addr: number): number {
    checkPlain(world, addr, PLAIN_READ);
    return readNumber(world.heap, addr);
  },
  plainWord(world: World, addr: number): number {
    checkPlain(world, addr, PLAIN_READ);
    return world.heap.words[addr >>> 2] as number;
  },
  plainEntry(world: World, addr: number): U64 {
    checkPlain(world, addr, PLAIN_READ);
    return readEntry(world.heap, addr);
  },
  loadNumber(world: World, addr: number): number {
    checkLives(world, addr);
    return readNumber(world.heap, addr);
  },
  loadWord(world: World, addr: number): number {
    checkLives(world, addr);
    return world.heap.words[addr >>> 2] as number;
  },
  loadEntry(world: World, addr: number): U64 {
    checkLives(world, addr);
    return readEntry(world.heap, addr);
  },
};
