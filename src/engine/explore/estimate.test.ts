/** Estimates of an exploration's size, made before it begins and as it goes. The numbers drawn are always the same. */
import { expect, test } from "vitest";
import { BENCHMARKS } from "../../../bench/dpor/benchmarks.ts";
import { type Cell, cell } from "../cell.ts";
import { check } from "../check.ts";
import type { MemoryModel } from "../execution.ts";
import { choose, fetchAdd, spawn } from "../ops.ts";
import { program } from "../program.ts";
import type { World } from "../world.ts";
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
  ["lastzero", [10], "sc"],
  ["lastzero", [13], "sc"],
  ["ainc", [6], "sc"],
  ["ainc", [8], "sc"],
  ["fib", [5], "sc"],
  ["fib", [5], "tso"],
  ["sbk", [5], "sc"],
  ["sbk", [5], "tso"],
  ["walkzap", [5, 1], "sc"],
  ["walkzap", [10, 1], "sc"],
  ["treiber", [3, 1], "sc"],
  ["casw", [3], "sc"],
  ["casw", [4], "sc"],
  ["casw", [5], "sc"],
  ["mp", [4], "sc"],
  ["mp", [6], "sc"],
] as const)("%s%j under %s: within a factor of 2 before the run begins, and ever after", async (name, sizes, model) => {
  const { executions, seen } = await estimates(name, sizes, model);
  expect(seen[0]?.[0]).toBe(0);
  for (const [done, { executions: guess, low, high }] of seen) {
    expect(guess / executions, `after ${done}`).toBeGreaterThan(0.5);
    expect(guess / executions, `after ${done}`).toBeLessThan(2);
    expect(low).toBeLessThanOrEqual(guess);
    expect(high).toBeGreaterThanOrEqual(guess);
    expect(low).toBeGreaterThan(0);
  }
});

test("looking changes no count, also where whoever looks sees tasks spawned in another order", async () => {
  const spawning = program({
    name: "spawning",
    spawns: 3,
    setup: (world) => ({ world, x: cell(world, "x") }),
    tasks: Object.fromEntries(
      ["a", "b", "c"].map((name) => [
        name,
        function* ({ world, x }: { world: World; x: Cell }) {
          if ((yield* choose(world, 2)) === 1) {
            yield* spawn(world, `child of ${name}`, () =>
              (function* () {
                yield* fetchAdd(x, 1);
              })(),
            );
          }
          yield* fetchAdd(x, 1);
        },
      ]),
    ),
  });
  const looks = new Set<Estimate | null>();
  const looking = await check(spawning, {
    estimate: true,
    shouldStop: ({ estimate }) => {
      looks.add(estimate);
      return false;
    },
  });
  const { executions } = await check(spawning);
  expect(looks.size).toBeGreaterThan(1);
  expect(looking.executions).toBe(executions);
});
