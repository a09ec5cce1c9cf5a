/**
 * `racewalk diff`: a workload on racewalk's own MMU and on a kernel's source; what the two say and what their tables hold must be the same.
 *
 * The compiled kernel stands where a recording does in `conform`: the comparison is the same, and to it come what operations returned and the entries
 * of the tables at the end.
 */
import {
  type CaseResult,
  compareRuns,
  type Divergence,
  type ModelRun,
  parseWorkload,
  type RandomOptions,
  randomWorkload,
  runWorkload,
  type Workload,
  type WorkloadDocument,
} from "../conform/index.ts";
import { UsageError } from "../engine/index.ts";
import type { Paging } from "../kvm/variants.ts";
import type { Image } from "./image.ts";
import { bodyOnKernel } from "./workloads.ts";

export interface DiffTarget {
  readonly image: Image;
  /** `v6.12`: the TypeScript MMU's counterpart. */
  readonly kernel: string;
  readonly paging: Paging;
}

export interface DiffRow extends CaseResult {
  /** Null for a workload from a file. */
  readonly seed: number | null;
  /** Why a run ended early; null when both came to their end. */
  readonly failure: string | null;
}

/** Runs a workload on both. */
export function diffWorkload(workload: Workload, target: DiffTarget, seed: number | null): DiffRow {
  const theirs = attempt(() => run(workload, target, bodyOnKernel(target.image)));
  const ours = attempt(() => run(workload, target, null));
  if (typeof theirs === "string" || typeof ours === "string") return failedRow(workload, target, seed, theirs, ours);
  const compared = compareRuns({
    ...{ case: workload.name, kernel: target.kernel, race: false, workload },
    ...{ recorded: theirs, other: ours },
  });
  const divergence =
    compared.firstDivergence ?? resultDivergence(workload, theirs, ours) ?? leafDivergence(theirs, ours);
  return { ...compared, firstDivergence: divergence, seed, failure: null };
}

function run(
  workload: Workload,
  { kernel, paging }: DiffTarget,
  makeBody: ReturnType<typeof bodyOnKernel> | null,
): ModelRun {
  const input = { workload, initial: null, kernel, recording: null, paging };
  return runWorkload(makeBody === null ? input : { ...input, makeBody });
}

/** A failure of a run is a finding like any other: a warning of the kernel's, a touch of freed memory. */
function attempt(code: () => ModelRun): ModelRun | string {
  try {
    return code();
  } catch (error) {
    // A workload that cannot be run at all is nobody's divergence.
    if (!(error instanceof Error) || error instanceof UsageError) throw error;
    if (process.env["RACEWALK_DEBUG"] === "1") return `${error.stack}`;
    return `${error.name}: ${error.message}`;
  }
}

function failedRow(
  workload: Workload,
  { kernel }: DiffTarget,
  seed: number | null,
  theirs: ModelRun | string,
  ours: ModelRun | string,
): DiffRow {
  const textOf = (result: ModelRun | string): string => (typeof result === "string" ? result : "comes to its end");
  const firstDivergence: Divergence = {
    ...{ operation: null, request: "run", index: 0, task: "", reason: "different", context: [] },
    ...{ expected: textOf(theirs), actual: textOf(ours) },
  };
  return {
    ...{ case: workload.name, kernel, race: false, events: 0, matched: 0, score: 0, firstDivergence, seed },
    flushes: { compared: 0, equal: 0, recorded: 0, actual: 0, firstDifference: null },
    failure: `kernel: ${textOf(theirs)}; racewalk: ${textOf(ours)}`,
  };
}

function resultDivergence(workload: Workload, theirs: ModelRun, ours: ModelRun): Divergence | null {
  for (const [at, { results }] of theirs.operations.entries()) {
    const expected = JSON.stringify(results ?? []);
    const actual = JSON.stringify(ours.operations[at]?.results ?? []);
    if (expected === actual) continue;
    const request = workload.requests[at] ?? null;
    return { operation: at, request, index: 0, task: "", reason: "different", expected, actual, context: [] };
  }
  return null;
}

function leafDivergence(theirs: ModelRun, ours: ModelRun): Divergence | null {
  const count = Math.max(theirs.leaves.length, ours.leaves.length);
  for (let i = 0; i < count; i++) {
    const expected = theirs.leaves[i] ?? null;
    const actual = ours.leaves[i] ?? null;
    if (expected === actual) continue;
    const context = theirs.leaves.slice(Math.max(0, i - 2), i);
    return {
      operation: null,
      request: "entries at the end",
      index: i,
      task: "",
      reason: "different",
      expected,
      actual,
      context,
    };
  }
  return null;
}

// --- random workloads --------------------------------------------------------------------------------------------------

export function diffRandom(seed: number, options: RandomOptions, target: DiffTarget): DiffRow {
  return diffDocument(randomWorkload(seed, options), target, seed);
}

function diffDocument(document: WorkloadDocument, target: DiffTarget, seed: number | null): DiffRow {
  return diffWorkload(parseWorkload(document.name, document), target, seed);
}

/** Drops operations from a workload that diverges for as long as it still does. */
export function minimiseDivergence(document: WorkloadDocument, target: DiffTarget): WorkloadDocument {
  let best = document;
  const diverges = (candidate: WorkloadDocument): boolean => {
    try {
      return diffDocument(candidate, target, null).firstDivergence !== null;
    } catch {
      return false;
    }
  };
  for (let size = Math.ceil(best.ops.length / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    for (let at = 0; at < best.ops.length; ) {
      const ops = [...best.ops.slice(0, at), ...best.ops.slice(at + size)];
      const candidate = { ...best, ops };
      if (ops.length < best.ops.length && diverges(candidate)) best = candidate;
      else at += size;
    }
  }
  return best;
}
