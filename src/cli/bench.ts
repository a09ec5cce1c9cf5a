/** `racewalk bench`: the project's own benchmarks, which are in a clone and not in the installed package. */
import { existsSync } from "node:fs";
import { UsageError } from "../engine/index.ts";
import { type BenchRow, benchText } from "../report/bench-text.ts";
import { writeJson } from "./json.ts";
import type { Terminal } from "./terminal.ts";

export interface BenchCommandOptions {
  readonly long?: true;
  readonly json?: true;
}

/** What is used of bench/speed/bench.ts: it is found at run time, as it is no part of what is built. */
interface BenchModule {
  readonly bench: (
    names: readonly string[],
    options: { readonly long: boolean; readonly onRows: (rows: readonly BenchRow[]) => void },
  ) => Promise<readonly BenchRow[]>;
}

const MODULE = new URL("../../bench/speed/bench.ts", import.meta.url);

/** @returns 0; what is measured is no verdict */
export async function benchCommand(
  names: readonly string[],
  options: BenchCommandOptions,
  terminal: Terminal,
): Promise<number> {
  if (!existsSync(MODULE)) throw new UsageError("bench: the benchmarks are not in this package; run it in a clone");
  const { bench } = (await import(MODULE.href)) as BenchModule;
  const isJson = options.json === true;
  const onRows = (rows: readonly BenchRow[]): void => {
    if (!isJson) terminal.result(benchText(rows));
  };
  try {
    const rows = await bench(names, { long: options.long === true, onRows });
    if (isJson) writeJson(rows, terminal);
  } catch (error) {
    throw error instanceof RangeError ? new UsageError(error.message) : error;
  }
  return 0;
}
