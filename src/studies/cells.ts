/**
 * The cells of a check: which are run, and whether each came out as expected.
 *
 * A user may ask for another memory model or strategy than a cell's own. What a study expects is a fact about a program under a model, however it
 * is explored; under a model that the study says nothing about, nothing is expected.
 */
import {
  type CheckOptions,
  type Detection,
  type Estimate,
  type MemoryModel,
  type Method,
  methodOf,
  type Strategy,
  UsageError,
  type Verdict,
} from "../engine/index.ts";
import type { Expected, Study, StudyCell } from "./study.ts";

// --- what to run -----------------------------------------------------------------------------------------------------

export interface Selection {
  /** Empty: all. */
  readonly variants: readonly string[];
  /** Runs every cell under this model instead of its own. */
  readonly model: MemoryModel | null;
  readonly strategy: Strategy | null;
  /** How samples are made, and what is left out. Bounds on preemptions count for dpor, those on steps for all but graph. */
  readonly bounds: Pick<CheckOptions, "seed" | "runs" | "depth" | "preemptions" | "taskSteps">;
}

export interface PlannedCell {
  /** Index among the study's cells. */
  readonly index: number;
  readonly variant: string;
  readonly scenario: string;
  /** The property asked for. */
  readonly property: string;
  readonly model: MemoryModel;
  readonly strategy: Strategy;
  readonly method: Method;
  /** Null when the study does not say what comes of it under this model. */
  readonly expected: Expected | null;
  readonly because: string;
}

/**
 * The selected cells, in the study's order. Cells that become the same under another model or strategy are run once.
 * @throws UsageError when a variant is none of the study's
 */
export function planCells(study: Study, selection: Selection): PlannedCell[] {
  const names = Object.keys(study.variants);
  const unknown = selection.variants.find((name) => !names.includes(name));
  if (unknown !== undefined) {
    throw new UsageError(`has no variant ${JSON.stringify(unknown)}; name one of ${names.join(", ")}`);
  }
  const planned = new Map<string, PlannedCell>();
  for (const [index, cell] of study.cells.entries()) {
    if (selection.variants.length > 0 && !selection.variants.includes(cell.variant)) continue;
    const { variant, scenario, property } = cell;
    const model = selection.model ?? cell.model;
    const strategy = selection.strategy ?? cell.strategy;
    const key = JSON.stringify([variant, scenario, property, model, strategy]);
    if (planned.has(key)) continue;
    const source = study.cells.find((other) => isAbout(other, cell) && other.model === model);
    const expected = source?.expected ?? null;
    const because = source?.because ?? "";
    const method = methodFor(model, strategy, selection.bounds);
    planned.set(key, { index, variant, scenario, property, model, strategy, method, expected, because });
  }
  return [...planned.values()];
}

function methodFor(model: MemoryModel, strategy: Strategy, bounds: Selection["bounds"]): Method {
  const { preemptions, taskSteps, ...rest } = bounds;
  return methodOf({
    ...{ model, strategy, ...rest },
    ...(preemptions === undefined || strategy !== "dpor" ? {} : { preemptions }),
    ...(taskSteps === undefined || strategy === "graph" ? {} : { taskSteps }),
  });
}

/** Some properties are out of reach of some strategies; "holds" would be a lie there. */
export function whyUndecidable({ property, strategy }: Pick<PlannedCell, "property" | "strategy">): string | null {
  if (property === "progress" && strategy !== "graph")
    return "progress is decided on a state graph: use --strategy graph";
  if (property === "data-race" && strategy === "graph")
    return "a state graph does not see data races: use --strategy dpor";
  return null;
}

/** True when two cells ask the same of the same program. */
function isAbout(a: StudyCell, b: StudyCell): boolean {
  return a.variant === b.variant && a.scenario === b.scenario && a.property === b.property;
}

// --- what came of it -------------------------------------------------------------------------------------------------

/** A property that failed, with its shortest race. */
export interface CellFailure {
  readonly property: string;
  readonly message: string;
  /** For `racewalk replay --schedule`, without the scenario. */
  readonly schedule: string;
  readonly diagram: string;
  /** Times that the CPU changes, and steps: the measure of "short". */
  readonly switches: number;
  readonly steps: number;
}

/** What came of exploring a cell. */
export interface CellResult {
  readonly verdict: Verdict;
  readonly complete: boolean;
  readonly executions: number;
  readonly blocked: number;
  readonly waiting: number;
  readonly states: number;
  /** Executions in which a task was stopped for its steps; sub-trees that need more preemptions than allowed. */
  readonly cutShort: number;
  readonly leftOut: number;
  /** For pct: what a clean sample means. */
  readonly detection: Detection | null;
  /** How many executions there are in all, where that was estimated. */
  readonly estimate: Estimate | null;
  readonly failures: readonly CellFailure[];
  /** It was stopped from outside before it had done what it was asked for. */
  readonly stopped: boolean;
  /** Why no verdict can be had this way; null when one can. */
  readonly cannot: string | null;
  readonly seconds: number;
}

/** Why a run ended before its time. */
export type StopReason = "interrupted" | "budget";

/** One row of a check: what `racewalk check --json` prints of a cell. */
export interface CellReport {
  readonly variant: string;
  readonly scenario: string;
  readonly model: MemoryModel;
  readonly strategy: Strategy;
  readonly verdict: Verdict;
  readonly expected: Expected | null;
  /** The verdict is the expected one, in the property asked for; where none is expected, nothing failed. */
  readonly ok: boolean;
  /** Everything was explored. */
  readonly complete: boolean;
  readonly executions: number;
  /** Redundant executions. */
  readonly blocked: number;
  /** Executions that ended with tasks waiting for ever, where the program allows that. */
  readonly waiting: number;
  readonly states: number;
  /** With a bound on steps: executions in which a task was stopped. */
  readonly cutShort: number;
  /** With a bound on preemptions: sub-trees that were left out. */
  readonly leftOut: number;
  /** For pct: the probability with which each execution shows a failure of that depth, if there is one. */
  readonly detection: Detection | null;
  /** When it is incomplete: how many executions there are in all, as far as could be estimated. */
  readonly estimate: Estimate | null;
  /** Seconds of all threads together. */
  readonly seconds: number;
  /** The property that failed; of a cell that did not fail, the one asked for. */
  readonly property: string;
  /** Every property that failed. */
  readonly failed: readonly string[];
  /** What failed, or why the verdict is unknown. */
  readonly message: string | null;
  /** `SCENARIO:SCHEDULE`, for `racewalk replay --schedule`. */
  readonly replay: string | null;
  readonly diagram: string | null;
  readonly because: string;
}

/**
 * Compares what came of a cell with what was expected.
 * @param result null when the cell was not run to any end
 */
export function judge(cell: PlannedCell, result: CellResult | null, reason: StopReason | null): CellReport {
  const { variant, scenario, model, strategy, expected, because } = cell;
  const asked = (result?.failures ?? []).filter((failure) => failure.property === cell.property);
  const shown = [...(asked.length > 0 ? asked : (result?.failures ?? []))].sort(byLength)[0];
  const verdict = decide(result);
  return {
    variant,
    scenario,
    model,
    strategy,
    verdict,
    expected,
    ok: isOk(cell, result, verdict, asked.length > 0),
    complete: result?.complete ?? false,
    executions: result?.executions ?? 0,
    blocked: result?.blocked ?? 0,
    waiting: result?.waiting ?? 0,
    states: result?.states ?? 0,
    cutShort: result?.cutShort ?? 0,
    leftOut: result?.leftOut ?? 0,
    detection: result?.detection ?? null,
    estimate: result === null || result.complete ? null : result.estimate,
    seconds: result?.seconds ?? 0,
    property: shown?.property ?? cell.property,
    failed: [...new Set((result?.failures ?? []).map((failure) => failure.property))],
    message: shown?.message ?? (verdict === "unknown" ? whyUnknown(cell, result, reason) : null),
    replay: shown === undefined ? null : `${scenario}:${shown.schedule}`,
    diagram: shown?.diagram ?? null,
    because,
  };
}

function byLength(a: CellFailure, b: CellFailure): number {
  return a.switches - b.switches || a.steps - b.steps || (a.message < b.message ? -1 : 1);
}

function decide(result: CellResult | null): Verdict {
  if (result === null) return "unknown";
  return result.verdict === "holds" && result.cannot !== null ? "unknown" : result.verdict;
}

function isOk(cell: PlannedCell, result: CellResult | null, verdict: Verdict, failedAsAsked: boolean): boolean {
  if (verdict === "fails") return cell.expected === "fails" && failedAsAsked;
  if (cell.expected === "fails") return false;
  if (verdict === "holds") return true;
  // A sample that finds nothing, or a bounded search that leaves something out, is all that was asked for when it was made in full.
  if (result === null || result.stopped || result.cannot !== null) return false;
  return isSample(cell) || isCut(result);
}

function isSample({ strategy }: PlannedCell): boolean {
  return strategy === "random" || strategy === "pct";
}

function isCut({ cutShort, leftOut }: CellResult): boolean {
  return cutShort + leftOut > 0;
}

function whyUnknown(cell: PlannedCell, result: CellResult | null, reason: StopReason | null): string {
  if (result !== null && result.cannot !== null) return result.cannot;
  if (reason !== null && (result === null || result.stopped)) {
    return reason === "budget" ? "the budget was over before it was done" : "interrupted before it was done";
  }
  if (result === null) return "ran out of memory";
  if (isSample(cell)) return sampleText(result);
  if (isCut(result)) return boundText(cell.method, result);
  return `stopped at ${result.states} states, the most that are kept`;
}

/** What a sample that found nothing means. */
function sampleText({ executions, cutShort, detection }: CellResult): string {
  const runs = executions + cutShort;
  if (detection === null) return `nothing failed in ${runs} random executions, which proves nothing`;
  const { depth, lanes, steps, probability } = detection;
  const missed = (1 - probability) ** runs;
  const formula = `1/(${lanes}*${steps}^${depth - 1})`;
  return (
    `nothing failed in ${runs} executions by pct; a failure of depth ${depth} would show in each with a probability of at least ` +
    `${probability.toPrecision(2)} (${formula}), and be missed by all with ${missed.toPrecision(2)} at most`
  );
}

/** What a bounded exploration that found nothing did not cover. */
function boundText({ preemptions, taskSteps }: Method, { cutShort, leftOut }: CellResult): string {
  const parts: string[] = [];
  if (leftOut > 0)
    parts.push(`nothing failed within ${preemptions} preemptions; ${leftOut} sub-trees that need more were left out`);
  if (cutShort > 0)
    parts.push(
      `nothing failed while no task made more than ${taskSteps} steps; ${cutShort} executions were cut short there`,
    );
  return parts.join("; ");
}
