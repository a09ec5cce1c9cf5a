/** Estimates of an exploration's size, made when about a hundredth of it is done. The numbers drawn are always the same. */
import { expect, test } from "vitest";
import { BENCHMARKS } from "../../../bench/dpor/benchmarks.ts";
import { check } from "../check.ts";
import type { MemoryModel } from "../execution.ts";
import type { Estimate } from "./estimate.ts";

/** Estimates by the number of executions that were done, and the number that there were. */
async function estimates(name: string, sizes: readonly number[], model: MemoryModel) {
  const seen: [done: number, estimate: Estimate][] = [];
  const program = BENCHMARKS.find((one) => one.name === name)?.make(...sizes);
  if (program === undefined) throw new Error(`no benchmark ${name}`);
  const { executions } = await check(program, {
    model,
    estimate: true,
    shouldStop: ({ executions: done, estimate }) => {
      if (estimate !== null) seen.push([done, estimate]);
      return false;
    },
  });
  return { executions, seen };
}

test.each([
  ["mp", [6], "sc"],
  ["ainc", [8], "sc"],
  ["sbk", [5], "tso"],
  ["fib", [5], "tso"],
  ["lastzero", [13], "sc"],
  ["casw", [5], "sc"],
] as const)("%s%j under %s: within a factor of 2 from the first look on", async (name, sizes, model) => {
  const { executions, seen } = await estimates(name, sizes, model);
  expect(seen.length).toBeGreaterThan(2);
  for (const [done, { executions: guess, low, high }] of seen) {
    expect(guess / executions, `after ${done}`).toBeGreaterThan(0.5);
    expect(guess / executions, `after ${done}`).toBeLessThan(2);
    expect(low).toBeLessThanOrEqual(guess);
    expect(high).toBeGreaterThanOrEqual(guess);
    expect(low).toBeGreaterThan(0);
  }
});
