/**
 * Findings as reports: each is run again, for its diagram.
 *
 * What tasks did in different executions and must not do both (facts.ts) is judged here, once all executions are known. What one execution shows
 * whole has been found there; of the rest each side has a schedule of its own.
 */
import { diagram, type HeadingOf } from "./diagram.ts";
import type { MemoryModel } from "./execution.ts";
import { factsOf, type Judgement } from "./facts.ts";
import type { Side } from "./failure.ts";
import type { Finding } from "./failures.ts";
import type { Totals } from "./job.ts";
import { makeWorld, type Program } from "./program.ts";
import { type Replay, type ReplayStep, replay } from "./replay.ts";
import { sideText } from "./sides.ts";

/** A property that fails, with the shortest execution found that shows it. */
export interface CheckFailure {
  readonly property: string;
  readonly message: string;
  /** The schedule: `replay(program, parseSchedule(failure.replay))` shows it again. */
  readonly replay: string;
  readonly diagram: string;
  readonly steps: readonly ReplayStep[];
  /** For a livelock: the step from which on the schedule repeats. */
  readonly cycleFrom?: number;
  /** For a race: the place. */
  readonly addr?: number;
}

/** The reports of what was found, and of what does not go together. */
export function reportsOf<S>(
  program: Program<S>,
  model: MemoryModel,
  { findings, facts }: Pick<Totals, "findings" | "facts">,
  headingOf?: HeadingOf,
): CheckFailure[] {
  const options = headingOf === undefined ? {} : { headingOf };
  const reports = findings.map((finding) => reportOf(program, model, finding, options));
  if (facts.length < 2) return reports;
  const { world } = makeWorld(program);
  for (const judgement of world.factJudge?.judge(facts.map(({ message }) => message)) ?? []) {
    const { property, message } = judgement;
    if (findings.some((one) => one.property === property && one.message === message)) continue;
    reports.push(reportAcross(program, model, judgement, facts, options));
  }
  return reports;
}

interface Headings {
  readonly headingOf?: HeadingOf;
}

function reportOf<S>(program: Program<S>, model: MemoryModel, finding: Finding, headings: Headings): CheckFailure {
  const { property, steps, schedule, addr } = finding;
  const replayed = replay(program, { model, steps }, addr);
  const cycleFrom = finding.cycleFrom === undefined ? {} : { cycleFrom: finding.cycleFrom };
  // The replay says more where several tasks make the failure together: what each did, and where.
  const told = replayed.failures.find((one) => one.property === property && one.message.startsWith(finding.message));
  const whole = told?.sides === undefined ? finding.message : told.message;
  const message = finding.decides === undefined ? whole : `${whole}; ${decisionText(finding.decides)}`;
  const shown = withSides(replayed, told?.sides ?? []);
  return {
    property,
    message,
    replay: schedule,
    diagram: diagram(shown, `${property}: ${message}`, { ...cycleFrom, ...headings }),
    steps: shown.steps,
    ...cycleFrom,
    ...(addr === undefined ? {} : { addr }),
  };
}

/** What it means for an exploration that a race decides what a task does. */
function decisionText(task: string): string {
  return `it decides what ${task} does next, so mark these accesses`;
}

/** Sides of several executions: a diagram for each, one below the other. The schedule is that of the first. */
function reportAcross<S>(
  program: Program<S>,
  model: MemoryModel,
  { property, message, keys }: Judgement,
  facts: readonly Finding[],
  headings: Headings,
): CheckFailure {
  const sides = keys.flatMap((key) => facts.filter((fact) => fact.message === key));
  const replays = sides.map(({ steps, message: key }) => {
    const shown = replay(program, { model, steps });
    const fact = factsOf(shown.execution).find((one) => one.key === key);
    return fact === undefined
      ? shown
      : { ...withSides(shown, [fact]), text: sideText(shown.execution, fact, shown.stackAt) };
  });
  const texts = replays.map((shown) => ("text" in shown ? shown.text : ""));
  const whole = `${[message, ...texts].join("; ")}; each in an execution of its own`;
  const diagrams = replays.map((shown, i) => {
    const isLast = i === replays.length - 1;
    return diagram(shown, isLast ? `${property}: ${whole}` : `${texts[i]}; in another execution:`, headings);
  });
  return {
    property,
    message: whole,
    replay: sides[0]?.schedule ?? "",
    diagram: diagrams.join("\n\n"),
    steps: replays.flatMap(({ steps }) => steps),
  };
}

/** The replay with the steps that a side is about among those that a diagram shows, though no other task need notice them. */
function withSides(shown: Replay, sides: readonly Side[]): Replay {
  const { lane, nth } = shown.execution.events;
  const isOfSide = ({ index, operation }: ReplayStep): boolean =>
    operation !== "Plain" && sides.some((side) => side.lane === lane[index] && side.at.includes(nth[index] as number));
  return { ...shown, steps: shown.steps.map((step) => (isOfSide(step) ? { ...step, shared: true } : step)) };
}
