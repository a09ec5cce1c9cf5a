/** `racewalk replay`: one execution of a study's cell again, step by step. */
import { UsageError } from "../engine/index.ts";
import { replayJson, replayText } from "../report/replay-text.ts";
import { faultInStudy, type LoadedStudy } from "../studies/load.ts";
import { type Reproduction, reproduce } from "../studies/reproduce.ts";
import { writeJson } from "./json.ts";
import { loadStudyFor, type OnKernelFlags } from "./on-kernel.ts";
import type { Terminal } from "./terminal.ts";

export interface ReplayCommandOptions extends OnKernelFlags {
  readonly variant: string;
  readonly schedule: string;
  readonly json?: true;
}

/** @returns 1 when something fails in the execution, as it should when the schedule is that of a failure */
export async function replayCommand(name: string, options: ReplayCommandOptions, terminal: Terminal): Promise<number> {
  const loaded = await loadStudyFor(name, options, terminal);
  const reproduction = reproduceHere(loaded, options);
  const report = { study: loaded.study, reproduction, folder: process.cwd() };
  if (options.json) writeJson(replayJson(report), terminal);
  else terminal.result(replayText(report, terminal.paint));
  return reproduction.failures.length > 0 ? 1 : 0;
}

function reproduceHere({ source, study }: LoadedStudy, { variant, schedule }: ReplayCommandOptions): Reproduction {
  try {
    return reproduce(study, variant, schedule);
  } catch (error) {
    throw faultInStudy(error, source, error instanceof UsageError ? "" : variant);
  }
}
