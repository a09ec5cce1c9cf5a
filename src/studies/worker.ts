/**
 * A worker thread: imports the study once, and does what it is sent, one thing after the other.
 */
import { parentPort, workerData } from "node:worker_threads";
import { assert, type CheckFailure, glance, JobRunner, type Program, resultOf, UsageError } from "../engine/index.ts";
import { headingOf } from "../kvm/kernel-map.ts";
import type { CellFailure, CellResult, PlannedCell } from "./cells.ts";
import { faultInStudy, importStudy } from "./load.ts";
import { type Answer, SharedProgress, type Task, type WorkerInput } from "./messages.ts";
import { formatReplay, fullDiagram } from "./reproduce.ts";
import type { Study } from "./study.ts";

function main(): void {
  assert(parentPort !== null, "worker.ts runs in a worker thread only");
  const port = parentPort;
  const input = workerData as WorkerInput;
  const loaded = importStudy(input.source);
  // A failed import is reported when the first task asks for the study.
  loaded.catch(() => undefined);
  let hand: Hand | null = null;
  const answer = async (task: Task): Promise<Answer> => {
    try {
      hand ??= new Hand(await loaded, input);
      return hand.do(task);
    } catch (error) {
      const { variant, scenario } = task.cell;
      const fault = faultInStudy(error, input.source, `${variant} ${scenario}`);
      const kind = fault instanceof UsageError ? "usage" : "bug";
      return { kind, message: fault.message, stack: fault.stack ?? "" };
    }
  };
  port.on("message", (task: Task) => void answer(task).then((reply) => port.postMessage(reply)));
}

/** Does tasks on the cells of a study; keeps what it made for the last cell, because the next task is likely about it too. */
class Hand {
  private readonly study: Study;
  private readonly input: WorkerInput;
  private readonly shared: SharedProgress;
  private runner: JobRunner<unknown> | null = null;
  private runnerKey = "";

  constructor(study: Study, input: WorkerInput) {
    this.study = study;
    this.input = input;
    this.shared = new SharedProgress(input.shared);
  }

  do(task: Task): Answer {
    const { shared, input } = this;
    switch (task.kind) {
      case "job": {
        const start = performance.now();
        const result = this.runnerFor(task).run(task.job, ({ executions, states }) => {
          shared.set(input.slot, executions, states);
          return shared.stopping;
        });
        return { kind: "job", result, seconds: (performance.now() - start) / 1000 };
      }
      case "glance":
        return { kind: "glance", glance: glance(this.runnerFor(task), task.open, task.seed) };
      case "report":
        return { kind: "report", result: this.report(task) };
    }
  }

  private runnerFor({ cell, epoch, spawns }: Exclude<Task, { kind: "report" }>): JobRunner<unknown> {
    const key = JSON.stringify([cell.index, cell.method, epoch]);
    if (this.runner === null || key !== this.runnerKey || !this.runner.expectSpawns(spawns)) {
      this.runner = new JobRunner(this.programOf(cell), cell.method);
      this.runnerKey = key;
      assert(this.runner.expectSpawns(spawns), "a new world knows no spawned tasks");
    }
    return this.runner;
  }

  private report({ cell, totals, isComplete, extras }: Task & { kind: "report" }): CellResult {
    const program = this.programOf(cell);
    const result = resultOf(program, cell.method, totals, isComplete, headingOf);
    const { verdict, complete, executions, blocked, waiting, states, leftOut, stopped: cutShort, detection } = result;
    return {
      ...{ verdict, complete, executions, blocked, waiting, states, leftOut, cutShort, detection },
      ...extras,
      failures: result.failures.map((failure) => shown(program, failure, this.input.allSteps)),
    };
  }

  private programOf(cell: PlannedCell): Program {
    const found = this.study.cells[cell.index];
    assert(found !== undefined, `the study has no cell ${cell.index}: it differs from one import to the next`);
    return found.program();
  }
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
