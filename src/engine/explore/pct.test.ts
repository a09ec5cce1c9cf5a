/** Priority-based sampling: what it promises, on failures of known depth. */
import { expect, test } from "vitest";
import { cell, cells } from "../cell.ts";
import { check, methodOf } from "../check.ts";
import { firstJobs, JobRunner } from "../job.ts";
import { compareExchange, load, store } from "../ops.ts";
import { program } from "../program.ts";
import { detectionProbability } from "./pct.ts";

/** Found only when the reader's loads fall between the writer's stores in one order: depth 3 for two steps of waiting. */
const chain = (length: number) =>
  program({
    name: "chain",
    setup: (world) => cells(world, "x", length),
    tasks: {
      *writer(x) {
        for (const one of x) yield* store(one, 1);
      },
      *chaser(x) {
        let seen = 0;
        for (const one of [...x].reverse()) seen = seen * 2 + (yield* load(one));
        return seen;
      },
    },
    // The last is not yet written when it is read, and all before it are a moment later.
    final: (_x, { chaser }) => chaser !== 2 ** (length - 1) - 1,
  });

test("the probability is that of the paper", () => {
  expect(detectionProbability(4, 100, 1)).toBe(1 / 4);
  expect(detectionProbability(4, 100, 3)).toBe(1 / (4 * 100 * 100));
  expect(detectionProbability(0, 0, 3)).toBe(1);
});

test.each([
  ["sc", 2],
  ["sc", 3],
  ["tso", 3],
] as const)("a failure within the depth is found at least as often as stated: %s, depth %d", (model, depth) => {
  const runs = 4_000;
  const made = chain(6);
  let failing = 0;
  const counting = {
    ...made,
    final: (x: Parameters<NonNullable<typeof made.final>>[0], results: Readonly<Record<string, unknown>>) => {
      if (made.final?.(x, results) === false) failing++;
      return true;
    },
  };
  const method = methodOf({ model, strategy: "pct", depth, runs });
  const runner = new JobRunner(counting, method);
  let probability = 0;
  for (const job of firstJobs(method)) {
    const { lanesSeen, stepsSeen } = runner.run(job).totals;
    probability = detectionProbability(lanesSeen, stepsSeen, depth);
  }
  expect(probability).toBeGreaterThan(0);
  expect(failing / runs).toBeGreaterThan(probability);
});

test("store buffers have priorities of their own: late stores are found under TSO", async () => {
  const storeBuffering = program({
    name: "sb",
    setup: (world) => ({ x: cell(world, "x"), y: cell(world, "y") }),
    tasks: {
      *left({ x, y }) {
        yield* store(x, 1);
        return yield* load(y);
      },
      *right({ x, y }) {
        yield* store(y, 1);
        return yield* load(x);
      },
    },
    final: (_cells, { left, right }) => left !== 0 || right !== 0,
  });
  const options = { strategy: "pct", depth: 1, runs: 200 } as const;
  expect((await check(storeBuffering, { ...options, model: "sc" })).verdict).toBe("unknown");
  const tso = await check(storeBuffering, { ...options, model: "tso" });
  expect(tso.verdict).toBe("fails");
  expect(tso.detection).toEqual({ depth: 1, lanes: 4, steps: 6, probability: 1 / 4 });
});

test("a task that spins does not keep the others from moving", async () => {
  const spinning = program({
    name: "spinning",
    setup: (world) => cell(world, "flag"),
    tasks: {
      *spinner(flag) {
        while ((yield* compareExchange(flag, 1, 2)) !== 1);
      },
      *setter(flag) {
        yield* store(flag, 1);
      },
    },
  });
  const result = await check(spinning, { strategy: "pct", runs: 20 });
  expect(result).toMatchObject({ verdict: "unknown", executions: 20, failures: [] });
});

test("the same seed makes the same executions", async () => {
  const options = { strategy: "pct", runs: 300, seed: 9 } as const;
  const [once, again] = [await check(chain(4), options), await check(chain(4), options)];
  expect(again).toEqual(once);
});
