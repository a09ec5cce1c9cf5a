/** `racewalk check`: runs each variant of a study and compares with the expected verdicts. */
import { writeFileSync } from "node:fs";
import { type MemoryModel, type Strategy, UsageError } from "../engine/index.ts";
import { type CheckReport, checkJson, checkText, isAllOk } from "../report/check-text.ts";
import { checkHtml, type MeasuredPart } from "../report/html.ts";
import { progressLine } from "../report/progress-text.ts";
import { type PlannedCell, planCells, type StopReason } from "../studies/cells.ts";
import { Checkpoint, checkpointKey } from "../studies/checkpoint.ts";
import { faultInStudy, type LoadedStudy } from "../studies/load.ts";
import type { Measurement } from "../studies/measurement.ts";
import { builtInMeasurement } from "../studies/measurements.ts";
import { type Running, runCells, type StudyRun } from "../studies/run.ts";
import { writeJson } from "./json.ts";
import { flagWords, loadStudyFor, type OnKernelFlags } from "./on-kernel.ts";
import type { Terminal } from "./terminal.ts";
import { racewalkVersion } from "./version.ts";

export interface CheckCommandOptions extends OnKernelFlags {
  readonly variant?: readonly string[];
  readonly model?: MemoryModel;
  readonly strategy?: Strategy;
  readonly seed?: number;
  readonly runs?: number;
  readonly depth?: number;
  readonly preemptions?: number;
  readonly taskSteps?: number;
  /** Milliseconds. */
  readonly budget?: number;
  readonly workers?: number;
  readonly checkpoint?: string;
  readonly allSteps?: true;
  /** A file to write the report to as well. */
  readonly html?: string;
  /** Figures of the study's measurement in the report. */
  readonly measure?: true;
  readonly json?: true;
}

/** Milliseconds between two looks at the progress, and between two checkpoints. */
const PROGRESS_MS = 200;
const CHECKPOINT_MS = 1_000;
/** Looks at the progress that the speed is taken from: those of the last ten seconds. */
const LOOKS_MAX = 50;

/** @returns 0 when every verdict is as expected, 1 otherwise */
export async function checkCommand(name: string, options: CheckCommandOptions, terminal: Terminal): Promise<number> {
  const start = performance.now();
  const loaded = await loadStudyFor(name, options, terminal);
  const measurement = await measurementFor(loaded.study.id, options);
  const plan = planHere(loaded, options);
  const run = await runWatched(loaded, plan, options, terminal);
  const seconds = (performance.now() - start) / 1000;
  const peakRssBytes = process.resourceUsage().maxRSS * 1024;
  const report: CheckReport = { study: loaded.study, name, flags: flagWords(options), seconds, peakRssBytes, ...run };
  if (options.html !== undefined) writeHtml(options.html, report, await measuredPart(measurement, terminal));
  if (options.json) writeJson(checkJson(report), terminal);
  else terminal.result(checkText(report, terminal.paint));
  if (run.stopped !== null) {
    const why = run.stopped === "budget" ? "the budget is over" : "interrupted";
    const next = options.checkpoint === undefined ? "" : `; the same command goes on from ${options.checkpoint}`;
    terminal.say(`racewalk: ${name}: ${why}; the result is incomplete${next}`);
  }
  return isAllOk(report) ? 0 : 1;
}

/** @throws UsageError when figures are wanted of which there are none, or for no report; before hours of work, not after */
async function measurementFor(study: string, { measure, html }: CheckCommandOptions): Promise<Measurement | null> {
  if (!measure) return null;
  if (html === undefined) throw new UsageError("--measure: puts figures into a report; name its file with --html");
  return builtInMeasurement(study);
}

async function measuredPart(measurement: Measurement | null, terminal: Terminal): Promise<MeasuredPart | null> {
  if (measurement === null) return null;
  // What draws is large, and seldom needed.
  const { measuredFigures } = await import("../report/measured-figures.ts");
  const figures = await measuredFigures(measurement, async (variant) => {
    terminal.progress(`measuring  ${variant}`);
    await new Promise((resolve) => setImmediate(resolve));
  });
  terminal.progress(null);
  return { measurement, figures };
}

/** @throws UsageError when the file cannot be written */
function writeHtml(path: string, report: CheckReport, measured: MeasuredPart | null): void {
  const document = checkHtml(report, process.cwd(), measured);
  try {
    writeFileSync(path, document);
  } catch (error) {
    const { code = "" } = error as NodeJS.ErrnoException;
    throw new UsageError(`${path}: the report cannot be written (${code}); name a file that can`);
  }
}

function planHere({ source, study }: LoadedStudy, options: CheckCommandOptions): PlannedCell[] {
  const { seed, runs, depth, preemptions, taskSteps } = options;
  try {
    return planCells(study, {
      variants: options.variant ?? [],
      model: options.model ?? null,
      strategy: options.strategy ?? null,
      bounds: {
        ...(seed === undefined ? {} : { seed }),
        ...(runs === undefined ? {} : { runs }),
        ...(depth === undefined ? {} : { depth }),
        ...(preemptions === undefined ? {} : { preemptions }),
        ...(taskSteps === undefined ? {} : { taskSteps }),
      },
    });
  } catch (error) {
    throw faultInStudy(error, source, "");
  }
}

/** Runs the cells while watching the clock, ^C and, on a terminal, the progress; keeps a checkpoint when asked to. */
async function runWatched(
  loaded: LoadedStudy,
  plan: readonly PlannedCell[],
  options: CheckCommandOptions,
  terminal: Terminal,
): Promise<StudyRun> {
  const { checkpoint: path } = options;
  const checkpoint = path === undefined ? null : new Checkpoint(path, checkpointKey(loaded, plan, racewalkVersion()));
  const resume = checkpoint?.read() ?? null;
  const controller = new AbortController();
  const stop = (reason: StopReason): void => controller.abort(reason);
  const interrupt = (): void => {
    // The second ^C means it.
    if (controller.signal.aborted) process.exit(1);
    stop("interrupted");
  };
  process.on("SIGINT", interrupt);
  const timer = options.budget === undefined ? undefined : setTimeout(() => stop("budget"), options.budget);
  const tickers: NodeJS.Timeout[] = [];
  let running: Running | null = null;
  try {
    const run = await runCells(
      loaded,
      plan,
      {
        workers: options.workers ?? null,
        allSteps: options.allSteps ?? false,
        signal: controller.signal,
        resume,
      },
      (started) => {
        running = started;
        if (terminal.showsProgress) tickers.push(showProgress(started, terminal));
        if (checkpoint !== null) tickers.push(keep(checkpoint, started, terminal));
      },
    );
    if (running !== null) checkpoint?.write((running as Running).save());
    return run;
  } catch (error) {
    throw path !== undefined && resume !== null && error instanceof UsageError ? inCheckpoint(path, error) : error;
  } finally {
    process.removeListener("SIGINT", interrupt);
    clearTimeout(timer);
    for (const ticker of tickers) clearInterval(ticker);
    terminal.progress(null);
  }
}

/** A checkpoint of a study whose imports have changed is found out when a cell goes on from it. */
function inCheckpoint(path: string, error: UsageError): UsageError {
  return new UsageError(`${error.message} (${path} may be the checkpoint of something else: delete it to begin anew)`);
}

/** Writes checkpoints from now on; the first at once, so that a file that cannot be written is known before hours of work. */
function keep(checkpoint: Checkpoint, running: Running, terminal: Terminal): NodeJS.Timeout {
  checkpoint.write(running.save());
  return setInterval(() => {
    try {
      checkpoint.write(running.save());
    } catch (error) {
      // A disk that is full for a while is no reason to lose the run.
      terminal.say(`racewalk: ${(error as Error).message}`);
    }
  }, CHECKPOINT_MS);
}

function showProgress(running: Running, terminal: Terminal): NodeJS.Timeout {
  const looks: { readonly at: number; readonly executions: number }[] = [];
  return setInterval(() => {
    const progress = running.progress();
    const look = { at: performance.now(), executions: progress.executions };
    looks.push(look);
    if (looks.length > LOOKS_MAX) looks.shift();
    const { at, executions } = looks[0] ?? look;
    const seconds = Math.max(PROGRESS_MS, look.at - at) / 1000;
    terminal.progress(progressLine(progress, (look.executions - executions) / seconds));
  }, PROGRESS_MS);
}
