/** `racewalk check`: runs each variant of a study and compares with the expected verdicts. */
import type { MemoryModel, Strategy } from "../engine/index.ts";
import { type CheckReport, checkJson, checkText, isAllOk } from "../report/check-text.ts";
import { type PlannedCell, planCells, type StopReason } from "../studies/cells.ts";
import { faultInStudy, type LoadedStudy, loadStudy } from "../studies/load.ts";
import { type RunProgress, runCells, type StudyRun } from "../studies/run.ts";
import { writeJson } from "./json.ts";
import type { Terminal } from "./terminal.ts";

export interface CheckCommandOptions {
  readonly variant?: readonly string[];
  readonly model?: MemoryModel;
  readonly strategy?: Strategy;
  readonly seed?: number;
  readonly runs?: number;
  /** Milliseconds. */
  readonly budget?: number;
  readonly workers?: number;
  readonly allSteps?: true;
  readonly json?: true;
}

/** Milliseconds between two looks at the progress. */
const PROGRESS_MS = 200;

/** @returns 0 when every verdict is as expected, 1 otherwise */
export async function checkCommand(name: string, options: CheckCommandOptions, terminal: Terminal): Promise<number> {
  const start = performance.now();
  const loaded = await loadStudy(name);
  const plan = planHere(loaded, options);
  const run = await runWatched(loaded, plan, options, terminal);
  const seconds = (performance.now() - start) / 1000;
  const report: CheckReport = { study: loaded.study, name, seconds, ...run };
  if (options.json) writeJson(checkJson(report), terminal);
  else terminal.result(checkText(report, terminal.paint));
  if (run.stopped !== null) {
    const why = run.stopped === "budget" ? "the budget is over" : "interrupted";
    terminal.say(`racewalk: ${name}: ${why}; the result is incomplete`);
  }
  return isAllOk(report) ? 0 : 1;
}

function planHere({ source, study }: LoadedStudy, options: CheckCommandOptions): PlannedCell[] {
  try {
    return planCells(study, {
      variants: options.variant ?? [],
      model: options.model ?? null,
      strategy: options.strategy ?? null,
    });
  } catch (error) {
    throw faultInStudy(error, source, "");
  }
}

/** Runs the cells while watching the clock, ^C and, on a terminal, the progress. */
async function runWatched(
  loaded: LoadedStudy,
  plan: readonly PlannedCell[],
  options: CheckCommandOptions,
  terminal: Terminal,
): Promise<StudyRun> {
  const controller = new AbortController();
  const stop = (reason: StopReason): void => controller.abort(reason);
  const interrupt = (): void => {
    // The second ^C means it.
    if (controller.signal.aborted) process.exit(1);
    stop("interrupted");
  };
  process.on("SIGINT", interrupt);
  const timer = options.budget === undefined ? undefined : setTimeout(() => stop("budget"), options.budget);
  let ticker: NodeJS.Timeout | undefined;
  try {
    return await runCells(
      loaded,
      plan,
      {
        workers: options.workers ?? null,
        seed: options.seed ?? null,
        runs: options.runs ?? null,
        allSteps: options.allSteps ?? false,
        signal: controller.signal,
      },
      (look) => {
        if (terminal.showsProgress) ticker = showProgress(look, terminal);
      },
    );
  } finally {
    process.removeListener("SIGINT", interrupt);
    clearTimeout(timer);
    clearInterval(ticker);
    terminal.progress(null);
  }
}

function showProgress(look: () => RunProgress, terminal: Terminal): NodeJS.Timeout {
  const start = performance.now();
  return setInterval(() => {
    const { cells, cellsDone, executions, states } = look();
    const perSecond = Math.round(executions / ((performance.now() - start) / 1000));
    const parts = [`${cellsDone}/${cells} cells`, `${executions} executions`, `${perSecond}/s`];
    if (states > 0) parts.push(`${states} states`);
    terminal.progress(parts.join("  "));
  }, PROGRESS_MS);
}
