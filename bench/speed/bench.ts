/**
 * racewalk's own benchmarks: what `racewalk bench` runs.
 *
 * Speeds are executions (or states) per second of user CPU time, of one thread, so that others on the machine disturb them little; the median of
 * several runs in a process of its own, after one for the compiler. A count that is not the known one is an error, however fast it was reached.
 */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { type Benchmark, title } from "../dpor/benchmark.ts";
import { BENCHMARKS } from "../dpor/benchmarks.ts";
import type { Errand, Measured } from "./child.ts";
import { estimateRows } from "./estimate.ts";
import { GRAPHS, type GraphBenchmark } from "./graphs.ts";
import { GENMC, MARKS, type Mark } from "./marks.ts";
import { geometricMean, median, type Row, rowOf, rowsAgainst } from "./row.ts";
import { shadowFaultRows } from "./shadow-faults.ts";
import { hasSpin, runSpin } from "./spin.ts";
import { tdpRows } from "./tdp.ts";
import { workerRows } from "./workers.ts";

export interface BenchOptions {
  /** Whole explorations, large graphs, more runs. */
  readonly long: boolean;
  /** Is given the rows as they are measured. */
  readonly onRows: (rows: readonly Row[]) => void;
}

/** The parts, in their order; a name may also be that of a program, as in "fib", "fib(6)" or "graph walkzap(2,2)". */
export const PARTS = ["dpor", "graph", "workers", "estimate", "tdp", "shadow"] as const;

const RUNS = 3;
const RUNS_LONG = 5;
/** Runs are cut off after this, unless they are to be long. */
const SECONDS_QUICK = 0.7;
/** Only smaller explorations have their size estimated when it is to be quick. */
const ESTIMATED_QUICK = 100_000;

/**
 * @param names what to run; all when there are none
 * @throws RangeError when there is nothing of a name
 */
export async function bench(names: readonly string[], options: BenchOptions): Promise<readonly Row[]> {
  const rows: Row[] = [];
  const add = (more: readonly Row[]): void => {
    rows.push(...more);
    options.onRows(more);
  };
  for (const name of names.length === 0 ? PARTS : names) await benchOne(name, options, add);
  return rows;
}

async function benchOne(name: string, options: BenchOptions, add: (rows: readonly Row[]) => void): Promise<void> {
  switch (name) {
    case "dpor":
      marked(MARKS, options, add);
      return;
    case "graph":
      for (const graph of GRAPHS) add(graphRows(graph, options.long ? graph.sizesLong : graph.sizes, options));
      return;
    case "workers":
      add(options.long ? workerRows(8, RUNS) : workerRows(7, 1));
      return;
    case "estimate":
      for (const mark of MARKS) {
        if (options.long || sizeOf(mark) < ESTIMATED_QUICK) add(await estimateRows(mark));
      }
      return;
    case "tdp":
      tdpRows(options.long, add);
      return;
    case "shadow":
      add(shadowFaultRows(options.long));
      return;
    default:
      byName(name, options, add);
  }
}

function byName(text: string, options: BenchOptions, add: (rows: readonly Row[]) => void): void {
  const [, isGraph, name, list] = /^(graph )?([\w+]+)(?:\(([\d,]*)\))?$/.exec(text) ?? [];
  const found = (isGraph === undefined ? BENCHMARKS : GRAPHS).find((one) => one.name === name);
  if (found === undefined) throw new RangeError(`${text}: no such benchmark`);
  const sizes = list === undefined ? null : list.split(",").filter(Boolean).map(Number);
  if (isGraph !== undefined) {
    const graph = found as GraphBenchmark;
    add(graphRows(graph, sizes ?? (options.long ? graph.sizesLong : graph.sizes), options));
    return;
  }
  const known = MARKS.filter((mark) => mark.name === name && (sizes === null || sameSizes(mark.sizes, sizes)));
  if (known.length > 0) {
    marked(known, options, add);
    return;
  }
  const largest = sizes ?? (found as Benchmark).rows.at(-1)?.sizes ?? [];
  for (const model of ["sc", "tso"] as const) {
    add(dporRows({ name: found.name, sizes: largest, model, rates: {}, megabytes: {} }, options).rows);
  }
}

function sameSizes(a: readonly number[], b: readonly number[]): boolean {
  return a.every((size, i) => (b[i] ?? 1) === size) && b.length <= a.length;
}

// --- dpor ------------------------------------------------------------------------------------------------------------

/** The programs with marks, and when it is all of them, how they compare as a whole. */
function marked(marks: readonly Mark[], options: BenchOptions, add: (rows: readonly Row[]) => void): void {
  const rates: number[] = [];
  for (const mark of marks) {
    const { rows, rate } = dporRows(mark, options);
    add(rows);
    rates.push(rate);
  }
  if (marks.length < MARKS.length) return;
  const theirs = geometricMean(marks.map((mark) => mark.rates[GENMC] ?? Number.NaN));
  add(rowsAgainst("geometric mean", geometricMean(rates), "executions/s", { [GENMC]: theirs }));
}

function dporRows(mark: Mark, options: BenchOptions): { readonly rows: readonly Row[]; readonly rate: number } {
  const { name, sizes, model } = mark;
  const benchmark = benchmarkOf(name);
  const what = `${title(benchmark, sizes)} ${model}`;
  const { rates, first, total, megabytes } = measure(what, { strategy: "dpor", name, sizes, model }, options);
  const expected = sizeOf(mark);
  if (total !== null && !Number.isNaN(expected) && total !== expected)
    throw new Error(`${what}: ${total} executions, not ${expected}`);
  const rate = median(rates);
  const rows = [
    ...rowsAgainst(what, rate, "executions/s", mark.rates),
    rowOf(`${what}, first run`, first, "executions/s"),
    ...rowsAgainst(`${what}, memory`, megabytes, "MB", mark.megabytes),
  ];
  return { rows, rate };
}

/** The number of executions that there are; NaN when nobody has said. */
function sizeOf({ name, sizes, model }: Mark): number {
  const benchmark = benchmarkOf(name);
  const row = benchmark.rows.find((one) => sameSizes(one.sizes, sizes));
  return row?.[model] ?? benchmark.count?.(model, ...sizes) ?? Number.NaN;
}

function benchmarkOf(name: string): Benchmark {
  const found = BENCHMARKS.find((one) => one.name === name);
  if (found === undefined) throw new RangeError(`${name}: no such benchmark`);
  return found;
}

function measure(what: string, program: Pick<Errand, "strategy" | "name" | "sizes" | "model">, { long }: BenchOptions) {
  const errand: Errand = { ...program, runs: long ? RUNS_LONG : RUNS, secondsMax: long ? null : SECONDS_QUICK };
  const child = fileURLToPath(new URL("child.ts", import.meta.url));
  const { status, stdout, stderr } = spawnSync(process.execPath, [child, JSON.stringify(errand)], { encoding: "utf8" });
  if (status !== 0) throw new Error(`${what}: ${stderr}`);
  const measured = JSON.parse(stdout) as Measured;
  if (!measured.clean) throw new Error(`${what}: a failure, or an execution given up`);
  return measured;
}

// --- graph -----------------------------------------------------------------------------------------------------------

function graphRows(graph: GraphBenchmark, sizes: readonly number[], options: BenchOptions): Row[] {
  const { name } = graph;
  const what = `graph ${name}(${sizes.join(",")}) sc`;
  // A state graph that is cut off early is not the same graph: it is searched to its end.
  const { rates, total, megabytes } = measure(
    what,
    { strategy: "graph", name, sizes, model: "sc" },
    { ...options, long: true },
  );
  const spin = hasSpin() ? runSpin(graph, sizes, options.long ? RUNS : 1) : null;
  return [
    ...rowsAgainst(what, median(rates), "states/s", { SPIN: spin?.rate ?? null }),
    ...rowsAgainst(`${what}, states`, total ?? 0, "states", { SPIN: spin?.states ?? null }),
    ...rowsAgainst(`${what}, memory`, megabytes, "MB", { SPIN: spin?.megabytes ?? null }),
  ];
}
