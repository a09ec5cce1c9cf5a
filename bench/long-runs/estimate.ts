/**
 * How far off is the estimate of an exploration's size when a hundredth of it is done?
 *
 *     node bench/long-runs/estimate.ts [NAME]
 *
 * For the programs of the table of speeds: the last estimate that was made before 1 % of the executions were done (or the first, when looks
 * are rarer), as a multiple of their number, with its bounds; and the estimates furthest off from there to the end.
 */
import { check, type Estimate, type MemoryModel } from "../../src/engine/index.ts";
import { title } from "../dpor/benchmark.ts";
import { BENCHMARKS } from "../dpor/benchmarks.ts";

const ROWS: readonly (readonly [name: string, sizes: readonly number[], models: readonly MemoryModel[]])[] = [
  ["lastzero", [15], ["sc"]],
  ["ainc", [9], ["sc"]],
  ["fib", [6], ["sc", "tso"]],
  ["sbk", [6], ["sc", "tso"]],
  ["walkzap", [10], ["sc"]],
  ["treiber", [4, 1], ["sc"]],
  ["casw", [5], ["sc"]],
  ["mp", [7], ["sc"]],
];

async function measure(name: string, sizes: readonly number[], model: MemoryModel): Promise<void> {
  const benchmark = BENCHMARKS.find((one) => one.name === name);
  if (benchmark === undefined) throw new RangeError(`${name}: no such benchmark`);
  const seen: { done: number; estimate: Estimate }[] = [];
  const { executions } = await check(benchmark.make(...sizes), {
    model,
    estimate: true,
    shouldStop: ({ executions: done, estimate }) => {
      if (estimate !== null && estimate !== seen.at(-1)?.estimate) seen.push({ done, estimate });
      return false;
    },
  });
  const early = seen.findLast(({ done }) => done <= executions / 100) ?? seen[0];
  const what = `${title(benchmark, sizes)} ${model}, ${executions} executions:`;
  if (early === undefined) {
    console.log(what, "over before the first look");
    return;
  }
  const times = (n: number): string => (n / executions).toFixed(2);
  const { low, high, executions: guess } = early.estimate;
  const later = seen.map(({ estimate }) => estimate.executions);
  console.log(
    what,
    `at ${((100 * early.done) / executions).toFixed(2)} % x${times(guess)} (x${times(low)} to x${times(high)}),`,
    `later x${times(Math.min(...later))} to x${times(Math.max(...later))}`,
  );
}

for (const [name, sizes, models] of ROWS) {
  if (process.argv[2] !== undefined && process.argv[2] !== name) continue;
  for (const model of models) await measure(name, sizes, model);
}
