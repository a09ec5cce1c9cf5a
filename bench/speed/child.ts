/**
 * Measures one program in a process of its own, so that nobody else's memory and compiled code are in the figures.
 *
 * `node child.ts JSON` prints a {@link Measured}. The first run is for the compiler and is reported apart; a program that is over at once is
 * explored again and again until there is something to measure.
 */
import { check, type MemoryModel, type Strategy } from "../../src/engine/index.ts";
import { BENCHMARKS } from "../dpor/benchmarks.ts";
import { GRAPHS } from "./graphs.ts";

export interface Errand {
  readonly strategy: Strategy & ("dpor" | "graph");
  readonly name: string;
  readonly sizes: readonly number[];
  readonly model: MemoryModel;
  /** Runs to measure after the first. */
  readonly runs: number;
  /** A run is cut off after so much user CPU time; null for never. */
  readonly secondsMax: number | null;
}

export interface Measured {
  /** Executions or states per second of user CPU time, by run. */
  readonly rates: readonly number[];
  readonly first: number;
  /** Executions or states of the whole program; null when each run was cut off. */
  readonly total: number | null;
  /** Nothing failed, and no execution was given up. */
  readonly clean: boolean;
  readonly megabytes: number;
}

/** Runs that are shorter are repeated. */
const SECONDS_MIN = 0.2;

async function main(): Promise<void> {
  const errand = JSON.parse(process.argv[2] ?? "") as Errand;
  const { name, sizes, runs } = errand;
  const found = (errand.strategy === "graph" ? GRAPHS : BENCHMARKS).find((one) => one.name === name);
  if (found === undefined) throw new RangeError(`${name}: no such benchmark`);
  const rates: number[] = [];
  let total: number | null = null;
  let clean = true;
  for (let run = 0; run <= runs; run++) {
    let count = 0;
    const seconds = await timed(async (elapsed) => {
      do {
        const result = await check(found.make(...sizes), {
          model: errand.model,
          strategy: errand.strategy,
          statesMax: 100_000_000,
          shouldStop: () => errand.secondsMax !== null && elapsed() > errand.secondsMax,
        });
        const done = errand.strategy === "graph" ? result.states : result.executions + result.waiting;
        count += done;
        if (result.complete) total = done;
        clean &&= result.verdict !== "fails" && result.blocked === 0;
      } while (elapsed() < SECONDS_MIN);
    });
    rates.push(count / seconds);
  }
  const [first = 0, ...rest] = rates;
  const measured: Measured = {
    rates: rest,
    first,
    total,
    clean,
    megabytes: process.resourceUsage().maxRSS / 1024,
  };
  console.log(JSON.stringify(measured));
}

/** Seconds of user CPU time that the work took. */
async function timed(work: (elapsed: () => number) => Promise<void>): Promise<number> {
  const before = process.cpuUsage();
  const elapsed = (): number => process.cpuUsage(before).user / 1e6;
  await work(elapsed);
  return elapsed();
}

if (import.meta.main) await main();
