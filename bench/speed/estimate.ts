/**
 * How far off is the estimate of an exploration's size when a hundredth of it is done?
 *
 * The last estimate that was made before 1 % of the executions were done, as a multiple of their number, with its bounds.
 */
import { check, type Estimate } from "../../src/engine/index.ts";
import { title } from "../dpor/benchmark.ts";
import { BENCHMARKS } from "../dpor/benchmarks.ts";
import type { Mark } from "./marks.ts";
import { type Row, rowOf } from "./row.ts";

export async function estimateRows({ name, sizes, model }: Mark): Promise<Row[]> {
  const benchmark = BENCHMARKS.find((one) => one.name === name);
  if (benchmark === undefined) throw new RangeError(`${name}: no such benchmark`);
  const seen: { readonly done: number; readonly estimate: Estimate }[] = [];
  const { executions } = await check(benchmark.make(...sizes), {
    model,
    estimate: true,
    shouldStop: ({ executions: done, estimate }) => {
      if (estimate !== null && estimate !== seen.at(-1)?.estimate) seen.push({ done, estimate });
      return false;
    },
  });
  const early = seen.findLast(({ done }) => done <= executions / 100);
  if (early === undefined) throw new Error(`${name}: no estimate after a hundredth of ${executions} executions`);
  const what = `estimate ${title(benchmark, sizes)} ${model}`;
  const { executions: guess, low, high } = early.estimate;
  return [
    rowOf(`${what}, made at`, (100 * early.done) / executions, "%"),
    rowOf(what, guess / executions, "x"),
    rowOf(`${what}, low`, low / executions, "x"),
    rowOf(`${what}, high`, high / executions, "x"),
  ];
}
