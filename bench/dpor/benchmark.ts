/** What a benchmark of the explorer is: a program of some size, and how many executions it has. */
import type { Cell, MemoryModel, Program, Steps } from "../../src/engine/index.ts";

export interface Benchmark {
  /** As in the literature: "fib". Sizes follow in brackets: fib(5), treiber(2,1). */
  readonly name: string;
  make(...sizes: readonly number[]): Program;
  readonly rows: readonly Row[];
  /** The number of executions in general, where one is known. */
  count?(model: MemoryModel, ...sizes: readonly number[]): number;
}

/** A size, and its complete executions: one for each execution graph. */
export interface Row {
  readonly sizes: readonly number[];
  readonly sc: number;
  readonly tso: number;
}

/** Rows whose counts are the same under both models: [size, executions], or [[sizes], executions]. */
export function same(...rows: readonly (readonly [number | readonly number[], number])[]): Row[] {
  return rows.map(([sizes, count]) => ({ sizes: sizesOf(sizes), sc: count, tso: count }));
}

/** Rows as [size, under SC, under TSO]. */
export function both(...rows: readonly (readonly [number | readonly number[], number, number])[]): Row[] {
  return rows.map(([sizes, sc, tso]) => ({ sizes: sizesOf(sizes), sc, tso }));
}

function sizesOf(sizes: number | readonly number[]): readonly number[] {
  return typeof sizes === "number" ? [sizes] : sizes;
}

export function title(benchmark: Benchmark, sizes: readonly number[]): string {
  return `${benchmark.name}(${sizes.join(",")})`;
}

/** Little memory: these programs share a few words. */
export const SMALL = { staticBytes: 4 * 4096, arenaBytes: 4096 };

/** Tasks `name0`, `name1` ... of the same code. */
export function repeat<S>(
  name: string,
  count: number,
  code: (state: S, index: number) => Steps<unknown>,
): Record<string, (state: S) => Steps<unknown>> {
  return Object.fromEntries(
    Array.from({ length: count }, (_, i) => [`${name}${i}`, (state: S) => code(state, i)] as const),
  );
}

/** The i-th cell of an array. */
export function at(array: readonly Cell[], i: number): Cell {
  const found = array[i];
  if (found === undefined) throw new RangeError(`no element ${i} in an array of ${array.length}`);
  return found;
}

export function factorial(n: number): number {
  return n <= 1 ? 1 : n * factorial(n - 1);
}

/** The middle coefficient of (1 + x + x^2)^n: interleavings of two sequences of n accesses that conflict crosswise. */
export function centralTrinomial(n: number): number {
  let row = [1];
  for (let i = 0; i < n; i++) {
    row = Array.from({ length: row.length + 2 }, (_, k) => (row[k] ?? 0) + (row[k - 1] ?? 0) + (row[k - 2] ?? 0));
  }
  return row[n] ?? 1;
}
