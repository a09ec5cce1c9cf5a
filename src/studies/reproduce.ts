/**
 * Showing a failure again, from the text that its report gives: `racewalk replay STUDY --variant V --schedule TEXT`.
 *
 *     use:sc/b15a5        scenario "use", then the engine's schedule
 *     storm:sc/a12b7@42   a livelock: from step 42 on, the schedule repeats for ever
 *
 * The scenario, with the variant, says which cell's program to run; it may be left out where the variant has only one.
 */
import {
  diagram,
  type Execution,
  type Observer,
  OpKind,
  type Program,
  parseSchedule,
  type Replay,
  type ReplayStep,
  replay,
  type Schedule,
  UsageError,
} from "../engine/index.ts";
import { headingOf } from "../kvm/kernel-map.ts";
import type { Study, StudyCell } from "./study.ts";

/** What went wrong in a replayed execution. */
export interface ReplayFailure {
  readonly property: string;
  readonly message: string;
  /** The step at which it shows, from 1; null when it shows at the end. */
  readonly step: number | null;
}

export interface Reproduction<T = null> {
  readonly cell: StudyCell;
  readonly schedule: Schedule;
  readonly replay: Replay<T>;
  /** From this step on (from 0), the schedule repeats for ever; null when it does not. */
  readonly cycleFrom: number | null;
  readonly failures: readonly ReplayFailure[];
}

/** @param cycleFrom for a livelock: the step, from 0, at which its cycle begins */
export function formatReplay(schedule: string, cycleFrom: number | null): string {
  return cycleFrom === null ? schedule : `${schedule}@${cycleFrom}`;
}

/**
 * @param observer looks at the state before the first step and after each
 * @throws UsageError when the text is no schedule, or fits none of the variant's programs
 */
export function reproduce<T = null>(
  study: Study,
  variant: string,
  text: string,
  observer: Observer<T> | null = null,
): Reproduction<T> {
  const { scenario, schedule: rest } = splitScenario(text);
  const cells = candidates(study, variant, scenario, rest);
  let misfit: unknown = null;
  for (const cell of cells) {
    try {
      return { cell, ...reproduceProgram(cell.program(), rest, observer) };
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      misfit ??= error;
    }
  }
  throw misfit;
}

/** The diagram of a failure with every step in it, not only those that another task can notice. */
export function fullDiagram(program: Program, text: string, verdictLine: string): string {
  const { replay: shown, cycleFrom } = reproduceProgram(program, text);
  return diagram(shown, verdictLine, { all: true, headingOf, ...(cycleFrom === null ? {} : { cycleFrom }) });
}

// --- which program ---------------------------------------------------------------------------------------------------

function splitScenario(text: string): { scenario: string | null; schedule: string } {
  const [, scenario, schedule] = /^(?:(.*):)?((?:sc|tso)\/[^:]*)$/.exec(text) ?? [];
  if (schedule === undefined) {
    throw new UsageError(
      `--schedule ${JSON.stringify(text)}: must be SCENARIO:SCHEDULE, as in use:sc/a3b2; copy it from the report of racewalk check`,
    );
  }
  return { scenario: scenario ?? null, schedule };
}

/** The cells whose program the schedule may be of: those under its model first. */
function candidates(study: Study, variant: string, scenario: string | null, schedule: string): StudyCell[] {
  const names = Object.keys(study.variants);
  if (!names.includes(variant)) {
    throw new UsageError(`has no variant ${JSON.stringify(variant)}; name one of ${names.join(", ")}`);
  }
  const ofVariant = study.cells.filter((cell) => cell.variant === variant);
  const ofModel = ofVariant.filter((cell) => schedule.startsWith(`${cell.model}/`));
  const scenarios = [...new Set((ofModel.length > 0 ? ofModel : ofVariant).map((cell) => cell.scenario))];
  const [only] = scenarios;
  if (scenario === null && scenarios.length > 1) {
    throw new UsageError(
      `--schedule ${schedule}: variant ${variant} has scenarios ${scenarios.join(", ")}; write ${only}:${schedule}`,
    );
  }
  const wanted = scenario ?? only;
  const found = [...ofModel, ...ofVariant.filter((cell) => !ofModel.includes(cell))].filter(
    (cell) => cell.scenario === wanted,
  );
  if (found.length > 0) return found;
  const all = [...new Set(ofVariant.map((cell) => cell.scenario))];
  throw new UsageError(`variant ${variant} has no scenario ${JSON.stringify(scenario)}; name one of ${all.join(", ")}`);
}

// --- running it ------------------------------------------------------------------------------------------------------

function reproduceProgram<T = null>(
  program: Program,
  text: string,
  observer: Observer<T> | null = null,
): Omit<Reproduction<T>, "cell"> {
  const [, body, cycle] = /^([^@]*)(?:@(\d+))?$/.exec(text) ?? [];
  if (body === undefined) {
    throw new UsageError(`schedule "${text}": cannot read what follows the @; copy it from the report`);
  }
  const schedule = parseSchedule(body, Object.keys(program.tasks).length + (program.spawns ?? 0));
  const cycleFrom = cycle === undefined ? null : Number(cycle);
  if (cycleFrom !== null && cycleFrom >= schedule.steps.length) {
    throw new UsageError(
      `schedule "${text}": begins to repeat at step ${cycleFrom} of ${schedule.steps.length}; copy it from the report`,
    );
  }
  const first = replay(program, schedule, undefined, observer);
  // The plain accesses of a race are no steps; they are shown when it is known where to look.
  const place = first.failures.find((failure) => failure.addr !== undefined)?.addr;
  const shown = place === undefined ? first : replay(program, schedule, place, observer);
  const livelock = cycleFrom === null ? [] : livelocks(program, schedule, cycleFrom, shown);
  const failures = [...failuresOf(shown), ...livelock];
  return { schedule, replay: { ...shown, steps: shown.steps.map(withoutCaller) }, cycleFrom, failures };
}

/** A step whose call stack ends where the modelled code was called: who replays it is of no interest. */
function withoutCaller(step: ReplayStep): ReplayStep {
  const end = step.stack.findIndex((place) => /[\\/]studies[\\/]reproduce\.[jt]s$/.test(place.file));
  return end < 0 ? step : { ...step, stack: step.stack.slice(0, end) };
}

/** What failed, once each: a race on both halves of a variable is one race. */
function failuresOf({ failures, execution }: Pick<Replay, "failures" | "execution">): ReplayFailure[] {
  const found = new Map<string, ReplayFailure>();
  for (const { property, message, event } of failures) {
    const step = event < execution.events.length ? event + 1 : null;
    found.set(`${property} ${message} ${step}`, { property, message, step });
  }
  return [...found.values()];
}

/** The tasks that starve in the cycle, when it can indeed be gone round again. */
function livelocks(
  program: Program,
  schedule: Schedule,
  cycleFrom: number,
  shown: Pick<Replay, "execution">,
): ReplayFailure[] {
  const cycle = schedule.steps.slice(cycleFrom);
  replay(program, { ...schedule, steps: [...schedule.steps, ...cycle, ...cycle] });
  const { execution } = shown;
  return execution.world.tasks
    .filter((task) => !task.daemon && !task.finished && !makesProgress(execution, task.lane, cycleFrom))
    .map((task) => ({
      property: "progress",
      message: `${task.name} makes no progress: the last ${cycle.length} steps can repeat for ever`,
      step: null,
    }));
}

function makesProgress(execution: Execution, lane: number, from: number): boolean {
  const { events } = execution;
  for (let i = from; i < events.length; i++) {
    if (events.lane[i] === lane && events.kind[i] === OpKind.Note && events.lo[i] === 1) return true;
  }
  return false;
}
