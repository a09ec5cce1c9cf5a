/** `racewalk diff`: workloads on racewalk's own MMU and on a kernel's source, which must agree. */
import { writeFileSync } from "node:fs";
import {
  type Divergence,
  formatDivergence,
  type RandomOptions,
  randomMmu,
  randomWorkload,
  readWorkload,
} from "../conform/index.ts";
import { UsageError } from "../engine/index.ts";
import type { Paging } from "../kvm/variants.ts";
import {
  type DiffRow,
  type DiffTarget,
  diffRandom,
  diffWorkload,
  minimiseDivergence,
  recordedKernel,
} from "../source/index.ts";
import { writeJson } from "./json.ts";
import { loadKernelFor, type OnKernelFlags } from "./on-kernel.ts";
import type { Terminal } from "./terminal.ts";

export interface DiffCommandOptions extends OnKernelFlags {
  readonly random?: number;
  readonly seed?: number;
  readonly mmu?: string;
  readonly set?: readonly string[];
  /** Where the workload of the first divergence goes. */
  readonly keep?: string;
  readonly json?: true;
}

/** What is said of one workload. */
interface DiffDocument {
  readonly workload: string;
  readonly seed: number | null;
  readonly events: number;
  readonly matched: number;
  readonly firstDivergence: Divergence | null;
}

/** @returns 0 when all agree, 1 otherwise */
export async function diffCommand(
  files: readonly string[],
  options: DiffCommandOptions,
  terminal: Terminal,
): Promise<number> {
  const { random = 0, seed = 1 } = options;
  if (random > 0 === files.length > 0) throw new UsageError("diff: name workload files, or give --random N");
  if (options.on === undefined) throw new UsageError("diff: needs --on kernel:DIR, the source to be held against");
  const paging = pagingOf(options.set ?? []);
  const generated: RandomOptions = { mmu: options.mmu === undefined ? null : randomMmu(options.mmu) };
  const workloads = files.map((file) => readWorkload(file));
  const loaded = await loadKernelFor(options, terminal);
  if (loaded === null) throw new UsageError("diff: needs --on kernel:DIR");
  const target: DiffTarget = { image: loaded.image, kernel: recordedKernel(loaded.version), paging };
  const rows: DiffRow[] = [];
  const note = async (row: DiffRow): Promise<void> => {
    rows.push(row);
    const bad = rows.filter(({ firstDivergence }) => firstDivergence !== null).length;
    if (terminal.showsProgress) terminal.progress(`${rows.length} workloads, ${bad} diverge`);
    if (row.firstDivergence !== null && options.json === undefined) {
      terminal.progress(null);
      terminal.result(`${formatDivergence(row)}\n`);
    }
    await new Promise((done) => setImmediate(done));
  };
  for (const workload of workloads) await note(diffWorkload(workload, target, null));
  for (let i = 0; i < random; i++) await note(diffRandom(seed + i, generated, target));
  terminal.progress(null);
  const first = rows.find((row) => row.seed !== null && row.firstDivergence !== null);
  if (first !== undefined && first.seed !== null) {
    const small = minimiseDivergence(randomWorkload(first.seed, generated), target);
    const text = `${JSON.stringify(small, null, 1)}\n`;
    if (options.keep !== undefined) writeFileSync(options.keep, text);
    else if (options.json === undefined)
      terminal.result(`\nThe first of them, with no more operations than it takes:\n${text}`);
  }
  if (options.json) writeJson(rows.map(documentOf), terminal);
  else terminal.result(summary(rows));
  return rows.every((row) => row.firstDivergence === null) ? 0 : 1;
}

function documentOf({ case: workload, seed, events, matched, firstDivergence }: DiffRow): DiffDocument {
  return { workload, seed, events, matched, firstDivergence };
}

function summary(rows: readonly DiffRow[]): string {
  const whole = rows.filter((row) => row.firstDivergence === null).length;
  const events = rows.reduce((sum, row) => sum + row.events, 0);
  return `${rows.length} workloads, ${events} events and statistics: ${whole} agree, ${rows.length - whole} do not.\n`;
}

function pagingOf(settings: readonly string[]): Paging {
  let paging: Paging = "npt";
  for (const setting of settings) {
    const value = /^paging=(npt|ept|ept-no-ad)$/.exec(setting)?.[1];
    if (value === undefined) {
      throw new UsageError(`--set ${setting}: no such setting; use paging=npt, paging=ept or paging=ept-no-ad`);
    }
    paging = value as Paging;
  }
  return paging;
}
