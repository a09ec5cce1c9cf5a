/**
 * A worker thread: imports the study once, and explores the cells that it is sent, one after the other.
 */
import { parentPort, workerData } from "node:worker_threads";
import { assert, type CheckFailure, check, type Program, type Strategy, UsageError } from "../engine/index.ts";
import { headingOf } from "../kvm/kernel-map.ts";
import type { CellFailure, CellResult, PlannedCell } from "./cells.ts";
import { faultInStudy, importStudy } from "./load.ts";
import { formatReplay, fullDiagram } from "./reproduce.ts";
import { SharedProgress, type WorkerInput, type WorkerReply } from "./run.ts";
import type { Study } from "./study.ts";

function main(): void {
  assert(parentPort !== null, "worker.ts runs in a worker thread only");
  const port = parentPort;
  const input = workerData as WorkerInput;
  const loaded = importStudy(input.source);
  // A failed import is reported when the first cell asks for the study.
  loaded.catch(() => undefined);
  port.on("message", (cell: PlannedCell) => {
    void answer(loaded, cell, input).then((reply) => port.postMessage(reply));
  });
}

async function answer(loaded: Promise<Study>, cell: PlannedCell, input: WorkerInput): Promise<WorkerReply> {
  try {
    return { kind: "result", result: await runCell(await loaded, cell, input) };
  } catch (error) {
    const fault = faultInStudy(error, input.source, `${cell.variant} ${cell.scenario}`);
    const kind = fault instanceof UsageError ? "usage" : "bug";
    return { kind, message: fault.message, stack: fault.stack ?? "" };
  }
}

async function runCell(study: Study, planned: PlannedCell, input: WorkerInput): Promise<CellResult> {
  const { model, strategy, property } = planned;
  const cannot = whyUndecidable(property, strategy);
  const shared = new SharedProgress(input.shared);
  const start = performance.now();
  const took = (): number => Math.round(performance.now() - start) / 1000;
  if (cannot !== null && property === "progress") return { ...NOTHING, cannot, seconds: took() };
  const program = programOf(study, planned.index);
  let stopped = false;
  const result = await check(program, {
    model,
    strategy,
    headingOf,
    ...(input.seed === null ? {} : { seed: input.seed }),
    ...(input.runs === null ? {} : { runs: input.runs }),
    shouldStop: ({ executions, states }) => {
      shared.set(input.slot, executions, states);
      stopped ||= shared.stopping;
      return stopped;
    },
  });
  const { verdict, complete, executions, blocked, waiting, states } = result;
  const failures = result.failures.map((failure) => shown(program, failure, input.allSteps));
  return {
    ...{ verdict, complete, executions, blocked, waiting, states, failures, cannot },
    stopped: stopped && !complete,
    seconds: took(),
  };
}

const NOTHING: Omit<CellResult, "cannot" | "seconds"> = {
  verdict: "unknown",
  complete: false,
  executions: 0,
  blocked: 0,
  waiting: 0,
  states: 0,
  failures: [],
  stopped: false,
};

function programOf(study: Study, index: number): Program {
  const cell = study.cells[index];
  assert(cell !== undefined, `the study has no cell ${index}: it differs from one import to the next`);
  return cell.program();
}

/** Some properties are out of reach of some strategies; "holds" would be a lie there. */
function whyUndecidable(property: string, strategy: Strategy): string | null {
  if (property === "progress" && strategy !== "graph")
    return "progress is decided on a state graph: use --strategy graph";
  if (property === "data-race" && strategy === "graph")
    return "a state graph does not see data races: use --strategy dpor";
  return null;
}

function shown(program: Program, failure: CheckFailure, allSteps: boolean): CellFailure {
  const { property, message } = failure;
  let switches = 0;
  for (const [i, step] of failure.steps.entries()) {
    const before = failure.steps[i - 1];
    if (before !== undefined && before.cpu !== step.cpu) switches++;
  }
  const schedule = formatReplay(failure.replay, failure.cycleFrom ?? null);
  return {
    property,
    message,
    schedule,
    diagram: allSteps ? fullDiagram(program, schedule, `${property}: ${message}`) : failure.diagram,
    switches,
    steps: failure.steps.length,
  };
}

main();
