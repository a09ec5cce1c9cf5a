/** `racewalk litmus`: litmus tests on the engine, against what is known of them. */
import type { MemoryModel } from "../engine/index.ts";
import { type LitmusResult, litmusFiles, readLitmusFile, runLitmusTest } from "../litmus/index.ts";
import { litmusText } from "../report/litmus-text.ts";
import { writeJson } from "./json.ts";
import type { Terminal } from "./terminal.ts";

export interface LitmusCommandOptions {
  readonly model?: MemoryModel;
  readonly json?: true;
}

/** Milliseconds between two looks at the progress. */
const PROGRESS_MS = 100;

/** @returns 0 when all is as expected, 1 otherwise */
export async function litmusCommand(
  paths: readonly string[],
  options: LitmusCommandOptions,
  terminal: Terminal,
): Promise<number> {
  const start = performance.now();
  // All files are read before anything runs: a mistake in the last one is said at once.
  const tests = paths.flatMap(litmusFiles).flatMap(readLitmusFile);
  const models: readonly MemoryModel[] = options.model === undefined ? ["sc", "tso"] : [options.model];
  const results: LitmusResult[] = [];
  let shown = start;
  for (const test of tests) {
    for (const model of models) results.push(await runLitmusTest(test, model));
    if (performance.now() - shown < PROGRESS_MS) continue;
    shown = performance.now();
    terminal.progress(`${results.length}/${tests.length * models.length}  ${test.name}`);
    // Lets ^C through.
    await new Promise((done) => setImmediate(done));
  }
  terminal.progress(null);
  if (options.json) writeJson(results, terminal);
  else terminal.result(litmusText(results, (performance.now() - start) / 1000, terminal.paint));
  return results.every((result) => result.ok) ? 0 : 1;
}
