/** `racewalk conform`: runs recorded workloads on the model and compares with what real KVM did. */
import { resolve } from "node:path";
import {
  type CaseResult,
  compareWithRecording,
  findCases,
  formatDivergence,
  loadRecording,
  type MakeBody,
  type ModelRun,
  runWorkload,
} from "../conform/index.ts";
import { UsageError } from "../engine/index.ts";
import { bodyOnKernel, recordedKernel } from "../source/index.ts";
import { writeJson } from "./json.ts";
import { loadKernelFor, type OnKernelFlags } from "./on-kernel.ts";
import type { Terminal } from "./terminal.ts";

export interface ConformCommandOptions extends OnKernelFlags {
  readonly kernel?: string;
  readonly json?: true;
}

/** One row: a case on one kernel. */
interface ConformRow extends CaseResult {
  /** What the model cannot do yet, and left out. */
  readonly notModelled: readonly string[];
}

/** @returns 0 when everything matches, 1 otherwise */
export async function conformCommand(
  paths: readonly string[],
  options: ConformCommandOptions,
  terminal: Terminal,
): Promise<number> {
  const { makeBody, kernel } = await bodyFor(options, terminal);
  const rows: ConformRow[] = [];
  const directories = paths.flatMap((path) => findCases(path));
  for (const [at, directory] of directories.entries()) {
    if (terminal.showsProgress) terminal.progress(`${at}/${directories.length} cases  ${directory}`);
    // Lets ^C and the progress line through between cases.
    await new Promise((done) => setImmediate(done));
    for (const row of conformCase(directory, kernel, makeBody)) {
      rows.push(row);
      if (!options.json) {
        terminal.progress(null);
        terminal.result(`${textOf(row)}\n`);
      }
    }
  }
  terminal.progress(null);
  if (options.json) writeJson(rows, terminal);
  else terminal.result(summary(rows));
  return rows.every((row) => row.firstDivergence === null) ? 0 : 1;
}

/** What the cases run on, and which recordings it is held against; without --on racewalk's own MMU, and all of them. */
async function bodyFor(
  options: ConformCommandOptions,
  terminal: Terminal,
): Promise<{ readonly makeBody: MakeBody | null; readonly kernel: string | undefined }> {
  const loaded = await loadKernelFor(options, terminal);
  if (loaded === null) return { makeBody: null, kernel: options.kernel };
  return { makeBody: bodyOnKernel(loaded.image), kernel: options.kernel ?? recordedKernel(loaded.version) };
}

function conformCase(directory: string, kernel: string | undefined, makeBody: MakeBody | null): ConformRow[] {
  const recording = loadRecording(resolve(directory), kernel);
  return recording.kernels.map((each) => {
    const { workload, initial } = recording;
    const run: ModelRun = attributed(directory, () =>
      runWorkload({
        ...{ workload, initial, kernel: each.kernel, recording: each },
        ...(makeBody === null ? {} : { makeBody }),
      }),
    );
    return { ...compareWithRecording(recording, each, run), notModelled: run.notModelled };
  });
}

/** A workload that the model refuses is named. */
function attributed<T>(directory: string, run: () => T): T {
  try {
    return run();
  } catch (error) {
    if (error instanceof UsageError) throw new UsageError(`${directory}: ${error.message}`);
    throw error;
  }
}

function textOf(row: ConformRow): string {
  const left = row.notModelled.map((what) => `  not modelled: ${what}`);
  return [formatDivergence(row), ...left].join("\n");
}

function summary(rows: readonly ConformRow[]): string {
  const whole = rows.filter((row) => row.firstDivergence === null).length;
  return `\n${rows.length} recordings: ${whole} match whole, ${rows.length - whole} do not.\n`;
}
