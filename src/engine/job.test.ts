/** Piece by piece, in any order and by any runner, an exploration is the same. */
import { expect, test } from "vitest";
import { title } from "../../bench/dpor/benchmark.ts";
import { BENCHMARKS } from "../../bench/dpor/benchmarks.ts";
import { cell, cells } from "./cell.ts";
import { check, methodOf } from "./check.ts";
import type { MemoryModel } from "./execution.ts";
import { addTotals, firstJobs, type Job, JobRunner, type Method, NO_TOTALS, type Totals } from "./job.ts";
import { awaitUntil, choose, load, spawn, store } from "./ops.ts";
import { assertThat, type Program, program } from "./program.ts";
import { Random } from "./random.ts";

function benchmark(name: string, ...sizes: readonly number[]): Program {
  const found = BENCHMARKS.find((one) => one.name === name);
  if (found === undefined) throw new Error(`no benchmark ${name}`);
  return { ...found.make(...sizes), name: title(found, sizes) };
}

/** Does all jobs as threads would: by several runners, in random order, each job sent as text. */
function inPieces(made: Program, method: Method, runners: number, seed: number): { totals: Totals; jobs: number } {
  const pool = Array.from({ length: runners }, () => new JobRunner(made, method));
  const random = new Random(seed);
  let totals: Totals = NO_TOTALS;
  let jobs = 0;
  const pending: string[] = firstJobs(method).map((job) => JSON.stringify(job));
  while (pending.length > 0) {
    const [text] = pending.splice(random.below(pending.length), 1);
    const runner = pool[random.below(pool.length)] as JobRunner<unknown>;
    const { totals: more, rest } = runner.run(JSON.parse(text as string) as Job);
    totals = addTotals(totals, JSON.parse(JSON.stringify(more)) as Totals);
    for (const job of rest) pending.push(JSON.stringify(job));
    jobs++;
  }
  return { totals, jobs };
}

test.each([
  ["mp", [5], "sc"],
  ["fib", [4], "tso"],
  ["sbk", [4], "tso"],
  ["treiber", [3, 1], "sc"],
  ["readers", [10], "sc"],
  ["lastzero", [10], "sc"],
  ["mutex", [6], "sc"],
] as const)("%s%j under %s: the same for any order and number of runners", async (name, sizes, model: MemoryModel) => {
  const made = benchmark(name, ...sizes);
  const { executions, blocked } = await check(made, { model });
  const method = methodOf({ model });
  const alone = inPieces(made, method, 1, 1);
  expect(alone.totals).toMatchObject({ executions, blocked });
  expect(alone.jobs).toBeGreaterThan(3);
  expect(inPieces(made, method, 3, 2)).toEqual(alone);
});

/** Fails in many ways: which of them is shown must not depend on who finds it. */
const failing = program({
  name: "failing",
  setup: (world) => cells(world, "x", 2),
  tasks: {
    *writer(x) {
      for (let i = 1; i <= 2; i++) for (const one of x) yield* store(one, i);
    },
    *reader(x) {
      const got: number[] = [];
      for (const one of x) got.push(yield* load(one));
      for (const one of x) got.push(yield* load(one));
      assertThat(new Set(got).size < 4, "four values");
      assertThat(got[3] !== 1 || got[0] !== 1, "stale");
      assertThat(got[0] !== 7 || got[1] === 7, "other is not seen in order", "order");
    },
    *other(x) {
      for (const one of x) yield* store(one, 7);
    },
  },
});

test.each(["sc", "tso"] as const)("the same counterexamples, in any order of jobs, under %s", async (model) => {
  const method = methodOf({ model });
  const alone = inPieces(failing, method, 1, 1);
  expect(alone.totals.findings.length).toBeGreaterThan(2);
  for (const seed of [2, 3]) expect(inPieces(failing, method, 2, seed)).toEqual(alone);
  const { failures } = await check(failing, { model });
  expect(failures.map(({ replay }) => replay)).toEqual(alone.totals.findings.map(({ schedule }) => schedule));
});

test.each(["random", "pct"] as const)("samples are the same in any order of jobs: %s", (strategy) => {
  const method = methodOf({ strategy, runs: 1_100, seed: 5 });
  const alone = inPieces(failing, method, 1, 1);
  expect(alone.totals.executions).toBe(1_100);
  expect(inPieces(failing, method, 3, 4)).toEqual(alone);
  const single = (seed: number): string =>
    JSON.stringify(inPieces(failing, methodOf({ strategy, runs: 1, seed }), 1, 1).totals.findings);
  expect(new Set(Array.from({ length: 20 }, (_, seed) => single(seed))).size).toBeGreaterThan(1);
});

test("a task that is stopped for its steps makes the result incomplete, and no deadlock", async () => {
  const spinning = program({
    name: "spinning",
    setup: (world) => ({ flag: cell(world, "flag"), data: cell(world, "data") }),
    tasks: {
      *spinner({ flag, data }) {
        while ((yield* load(flag)) === 0);
        return yield* load(data);
      },
      *setter({ flag, data }) {
        yield* store(data, 1);
        yield* store(flag, 1);
      },
      *waiter({ data }) {
        yield* awaitUntil(data, (value) => value === 1);
      },
    },
    final: (_state, { spinner }) => spinner === 1,
  });
  const bounded = await check(spinning, { taskSteps: 5 });
  expect(bounded).toMatchObject({ verdict: "unknown", complete: false, failures: [] });
  expect(bounded.stopped).toBeGreaterThan(0);
  expect(bounded.executions).toBeGreaterThan(3);
  const broken = await check({ ...spinning, final: () => "always" }, { taskSteps: 5 });
  expect(broken.verdict).toBe("fails");
});

test("tasks that are spawned late have the same lanes for all who expect them", () => {
  const spawning = program({
    name: "spawning",
    spawns: 2,
    setup: (world) => ({ world, x: cell(world, "x") }),
    tasks: {
      *first({ world, x }) {
        if ((yield* choose(world, 2)) === 1)
          yield* spawn(world, "late", () =>
            (function* () {
              yield* store(x, 1);
            })(),
          );
      },
      *second({ world, x }) {
        if ((yield* choose(world, 2)) === 1)
          yield* spawn(world, "later", () =>
            (function* () {
              yield* store(x, 2);
            })(),
          );
      },
    },
  });
  const method = methodOf({});
  const one = new JobRunner(spawning, method);
  const [job] = firstJobs(method) as [Job];
  const { spawns, totals } = one.run(job);
  expect(spawns).toHaveLength(2);
  const two = new JobRunner(spawning, method);
  expect(two.expectSpawns([...spawns].reverse())).toBe(true);
  expect(two.run(job).totals.executions).toBe(totals.executions);
  expect(one.expectSpawns([...spawns].reverse())).toBe(false);
  expect(one.expectSpawns(spawns)).toBe(true);
});

test.each([
  [{ strategy: "graph", taskSteps: 3 }, /taskSteps do not bound a state graph/],
  [{ strategy: "random", preemptions: 3 }, /preemptions bound dpor, not random/],
  [{ strategy: "pct", depth: 0 }, /depth 0: must be a whole number/],
] as const)("a bound that the strategy does not know is refused: %j", async (options, message) => {
  await expect(check(failing, options)).rejects.toThrow(message);
});
