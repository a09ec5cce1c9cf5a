/**
 * How fast virtual time passes: operations of the model (accesses, locks, flushes, RCU; not what modelled code computes between them) for each second of user CPU
 * time of one core, and the memory of it.
 *
 *     node bench/simulate/run.ts            each in a process of its own, so that the first run's compiler is in its figure; then once more
 *     node bench/simulate/run.ts 3          the fourth only
 */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { Simulator } from "../../src/engine/index.ts";
import { withParameters } from "../../src/studies/measurement.ts";
import { builtInMeasurement } from "../../src/studies/measurements.ts";

interface Run {
  readonly study: string;
  readonly variant: string;
  readonly set: Readonly<Record<string, number>>;
}

const RUNS: readonly Run[] = [
  { study: "root-zap", variant: "Z1", set: { gib: 16 } },
  { study: "root-zap", variant: "Z3", set: { gib: 8 } },
  { study: "lockless-walk", variant: "V6", set: { duration: 400 } },
  { study: "gpc-refresh", variant: "D4", set: { duration: 400 } },
  { study: "lazy-large-spte", variant: "eager", set: {} },
  { study: "lockless-aging", variant: "A0", set: { vcpus: 8, pages: 4096 } },
  { study: "lockless-aging", variant: "A0", set: { vcpus: 64, pages: 1024 } },
  { study: "lockless-aging", variant: "A7", set: { vcpus: 512, pages: 128 } },
];

/** What one run of a simulation took. */
interface Measured {
  readonly operations: number;
  readonly seconds: number;
}

function speedOf({ operations, seconds }: Measured): string {
  return (operations / seconds / 1e6).toFixed(2);
}

async function measureRun({ study, variant, set }: Run): Promise<void> {
  const measurement = await builtInMeasurement(study);
  // What all measurements have in common is that a simulator runs them.
  const run = Object.getOwnPropertyDescriptor(Simulator.prototype, "run")?.value as Simulator["run"];
  const runs: Measured[] = [];
  Simulator.prototype.run = function (this: Simulator) {
    const begin = process.cpuUsage();
    const metrics = run.call(this);
    runs.push({ operations: metrics.operations, seconds: process.cpuUsage(begin).user / 1e6 });
    return metrics;
  };
  const parameters = withParameters(measurement, set);
  measurement.run(variant, parameters, {});
  const what = Object.entries(set).map(([name, value]) => `${name}=${value}`);
  const megabytes = Math.round((process.resourceUsage().maxRSS * 1024) / 1e6);
  measurement.run(variant, parameters, {});
  const [first, again] = runs as [Measured, Measured];
  const columns = [study, variant, what.join(" "), first.operations, first.seconds.toFixed(2), speedOf(first)];
  process.stdout.write(`| ${[...columns, speedOf(again), megabytes].join(" | ")} |\n`);
}

const [, , wanted] = process.argv;
const one = wanted === undefined ? undefined : RUNS[Number(wanted)];
if (one === undefined) {
  process.stdout.write(
    "| study | variant | with | operations | user CPU, s | million/s | again | MB |\n|---|---|---|---|---|---|---|---|\n",
  );
  for (const i of RUNS.keys()) {
    spawnSync(process.execPath, [fileURLToPath(import.meta.url), String(i)], { stdio: "inherit" });
  }
} else await measureRun(one);
