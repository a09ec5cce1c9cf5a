/**
 * What failed: for each property and message the shortest execution found, whoever found it and in whatever order.
 */
import type { Failure } from "./execution.ts";
import type { Step } from "./schedule.ts";

/** A failure with a short execution that shows it; plain data. */
export interface Finding {
  readonly property: string;
  readonly message: string;
  /** Times that the CPU changes. */
  readonly switches: number;
  readonly steps: readonly Step[];
  /** The steps as a schedule. */
  readonly schedule: string;
  /** For a race: the place. */
  readonly addr?: number;
  /** For a race: a task that does something else by it, so that not all could be explored. */
  readonly decides?: string;
  /** For a livelock: the step from which on the schedule repeats. */
  readonly cycleFrom?: number;
}

/** How short an execution is; two of them are equally good. */
export type Length = readonly [switches: number, steps: number];

export function keyOf(failure: Pick<Failure, "property" | "message">): string {
  return `${failure.property}\n${failure.message}`;
}

/** True when `a` is the one to show: fewer switches, then fewer steps; then whose steps come first, tasks before store buffers. */
export function isBetter(a: Finding, b: Finding): boolean {
  if (a.switches !== b.switches) return a.switches < b.switches;
  if (a.steps.length !== b.steps.length) return a.steps.length < b.steps.length;
  for (const [i, { lane, choice }] of a.steps.entries()) {
    const other = b.steps[i] as Step;
    if (lane !== other.lane) return lane < other.lane;
    if (choice !== other.choice) return choice < other.choice;
  }
  return false;
}

/** The one of two findings of one failure to show, with what either knows of it. */
export function betterOf(a: Finding, b: Finding): Finding {
  const [decides] = [a.decides, b.decides].filter((name) => name !== undefined).sort();
  const better = isBetter(a, b) ? a : b;
  return decides === undefined ? better : { ...better, decides };
}

/** The best findings of both lists, by property and message. */
export function mergeFindings(a: readonly Finding[], b: readonly Finding[]): readonly Finding[] {
  if (b.length === 0) return a;
  const best = new Map<string, Finding>();
  for (const finding of [...a, ...b]) {
    const known = best.get(keyOf(finding));
    best.set(keyOf(finding), known === undefined ? finding : betterOf(finding, known));
  }
  return [...best.values()].sort(byProperty);
}

/** By property, and of one property the shortest first. */
function byProperty(a: Finding, b: Finding): number {
  if (a.property !== b.property) return a.property < b.property ? -1 : 1;
  if (isBetter(a, b)) return -1;
  return isBetter(b, a) || a.message > b.message ? 1 : -1;
}
