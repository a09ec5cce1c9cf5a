/**
 * The explorer's benchmarks: does dpor explore exactly as many executions as there are execution graphs, and how fast?
 *
 *     node bench/dpor/run.ts                    all, under both models (some take a minute)
 *     node bench/dpor/run.ts fib "sbk(5)"       one benchmark, or one size of it (also sizes that no table has)
 *     node bench/dpor/run.ts --below 20000      only rows with fewer executions
 *     node bench/dpor/run.ts --model tso
 *
 * Each row is run in a process of its own: `blocked` counts redundant executions, `waiting` those that end with a task that waits for
 * ever (waiting.ts), `k/s` thousands of executions (waiting ones included) per second of user CPU time, `MB` the largest resident size.
 */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { check, type MemoryModel } from "../../src/engine/index.ts";
import { type Benchmark, title } from "./benchmark.ts";
import { BENCHMARKS } from "./benchmarks.ts";

interface Task {
  readonly benchmark: Benchmark;
  readonly sizes: readonly number[];
  readonly model: MemoryModel;
  /** Null when nobody has said. */
  readonly expected: number | null;
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    options: {
      model: { type: "string" },
      below: { type: "string", default: "Infinity" },
      // Runs one row in this process: what the others are run by.
      here: { type: "boolean", default: false },
    },
    allowPositionals: true,
  });
  const models = values.model === undefined ? (["sc", "tso"] as const) : [values.model as MemoryModel];
  const tasks = models.flatMap((model) => choose(positionals, model));
  if (values.here) {
    for (const task of tasks) console.log(await runHere(task));
    return 0;
  }
  console.log(line(["benchmark", "model", "executions", "expected", "blocked", "waiting", "seconds", "k/s", "MB"]));
  let wrong = 0;
  for (const task of tasks) if ((task.expected ?? 0) < Number(values.below)) wrong += runApart(task);
  console.log(wrong === 0 ? "every count is as expected" : `${wrong} counts are wrong`);
  return wrong === 0 ? 0 : 1;
}

/** The rows that the arguments name; all when there are none. */
function choose(names: readonly string[], model: MemoryModel): Task[] {
  if (names.length === 0) return BENCHMARKS.flatMap((benchmark) => rowsOf(benchmark, model));
  return names.flatMap((text) => {
    const [, name, sizes] = /^([\w+]+)(?:\(([\d,]*)\))?$/.exec(text) ?? [];
    const benchmark = BENCHMARKS.find((one) => one.name === name);
    if (benchmark === undefined) throw new RangeError(`${text}: no such benchmark`);
    if (sizes === undefined) return rowsOf(benchmark, model);
    const wanted = sizes === "" ? [] : sizes.split(",").map(Number);
    const row = benchmark.rows.find((one) => one.sizes.join() === wanted.join());
    const expected = row?.[model] ?? benchmark.count?.(model, ...wanted) ?? null;
    return [{ benchmark, sizes: wanted, model, expected }];
  });
}

function rowsOf(benchmark: Benchmark, model: MemoryModel): Task[] {
  return benchmark.rows.map((row) => ({ benchmark, sizes: row.sizes, model, expected: row[model] }));
}

async function runHere({ benchmark, sizes, model }: Task): Promise<string> {
  const program = benchmark.make(...sizes);
  const before = process.cpuUsage().user;
  const { executions, blocked, waiting, verdict } = await check(program, { model });
  const seconds = (process.cpuUsage().user - before) / 1e6;
  return JSON.stringify({ executions, blocked, waiting, verdict, seconds, kilobytes: process.resourceUsage().maxRSS });
}

interface Outcome {
  readonly executions: number;
  readonly blocked: number;
  readonly waiting: number;
  readonly verdict: string;
  readonly seconds: number;
  readonly kilobytes: number;
}

/** @returns 1 when the row is wrong */
function runApart({ benchmark, sizes, model, expected }: Task): number {
  const name = title(benchmark, sizes);
  const file = fileURLToPath(import.meta.url);
  const child = spawnSync(process.execPath, [file, "--here", "--model", model, name], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
  });
  if (child.status !== 0) {
    console.log(line([name, model, "crashed"]));
    return 1;
  }
  const { executions, blocked, waiting, verdict, seconds, kilobytes } = JSON.parse(child.stdout) as Outcome;
  const rate = (executions + waiting) / seconds / 1000;
  const figures = [executions, expected ?? "?", blocked, waiting, seconds.toFixed(2), rate.toFixed(1)];
  const isRight = verdict === "holds" && blocked === 0 && (expected ?? executions) === executions;
  const size = Math.round(kilobytes / 1024);
  console.log(line([name, model, ...figures.map(String), String(size)]) + (isRight ? "" : "  <-- wrong"));
  return isRight ? 0 : 1;
}

function line([name = "", model = "", ...rest]: readonly string[]): string {
  return `${name.padEnd(14)} ${model.padEnd(4)}${rest.map((text) => text.padStart(11)).join("")}`;
}

process.exitCode = await main();
