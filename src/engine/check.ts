/**
 * Exploring a program: the engine's front door.
 *
 *     const result = await check(peterson, { model: "tso" });
 *     result.verdict        "holds", "fails" or "unknown"
 *     result.failures[0]    what failed, the schedule that shows it, and a diagram
 *
 * This explores in the thread that calls it. Whoever has more threads (src/studies/run.ts) hands out the jobs of job.ts, adds up what came of
 * them, and asks {@link resultOf} for the result: it is the same.
 */
import { UsageError } from "./assert.ts";
import type { HeadingOf } from "./diagram.ts";
import type { MemoryModel } from "./execution.ts";
import { type Estimate, Estimator } from "./explore/estimate.ts";
import { detectionProbability } from "./explore/pct.ts";
import {
  addTotals,
  firstJobs,
  type Job,
  JobRunner,
  type Method,
  NO_TOTALS,
  type Strategy,
  type Totals,
} from "./job.ts";
import type { Program } from "./program.ts";
import { type CheckFailure, reportsOf } from "./reports.ts";

export type { CheckFailure };

export type Verdict = "holds" | "fails" | "unknown";

export interface CheckOptions {
  /** Default: sc. */
  readonly model?: MemoryModel;
  /** Default: dpor. */
  readonly strategy?: Strategy;
  /** For random and pct: where to start; the same seed gives the same executions. Default 1. */
  readonly seed?: number;
  /** For random and pct: how many executions. Default 10,000. */
  readonly runs?: number;
  /** For pct: how many ordering constraints a failure may take to be found with the stated probability. Default 3. */
  readonly depth?: number;
  /** For dpor: leave out executions that need more preemptions than this. Those that need fewer are all explored. */
  readonly preemptions?: number;
  /** Stop each task after so many steps: a bound on loops. Executions in which no task makes more are all explored. */
  readonly taskSteps?: number;
  /** Stop at the first failure, instead of looking for the shortest one. */
  readonly stopAtFirst?: boolean;
  /** Longest execution, in steps; default 20,000. */
  readonly stepsMax?: number;
  /** Largest state graph; default 2,000,000. */
  readonly statesMax?: number;
  /** The headings of diagrams; left out, they name every function. */
  readonly headingOf?: HeadingOf;
  /** Called now and then; true stops the check, which then says that it is incomplete. */
  readonly shouldStop?: (progress: Progress) => boolean;
  /** For dpor: estimate the size of the exploration as it goes, for {@link Progress}. Costs up to some thousand executions. */
  readonly estimate?: boolean;
  /** Awaited now and then, so that a caller can let other work happen. */
  readonly breathe?: () => Promise<void>;
}

export interface Progress {
  readonly executions: number;
  readonly states: number;
  /** Executions that there are in all, as far as known (dpor, when asked for). */
  readonly estimate: Estimate | null;
}

/** What a clean sample means: a failure of this depth would have shown in each execution with this probability at the least. */
export interface Detection {
  readonly depth: number;
  /** Lanes that moved (tasks, and under TSO store buffers), and the longest execution. */
  readonly lanes: number;
  readonly steps: number;
  readonly probability: number;
}

export interface CheckResult {
  readonly verdict: Verdict;
  /** Everything was explored within the program as given. */
  readonly complete: boolean;
  /** Complete executions: with dpor, one per execution graph. */
  readonly executions: number;
  /** Executions given up because others cover them. */
  readonly blocked: number;
  /** Executions that ended with tasks waiting for ever, when the program allows that (mayBlock). */
  readonly waiting: number;
  /** Executions that were cut short because a task had made all the steps allowed. */
  readonly stopped: number;
  /** Sub-trees that were left out because they need more preemptions than allowed. */
  readonly leftOut: number;
  /** Paths that were given up because a data race, which is among the failures, decides what a task does. */
  readonly diverged: number;
  /** States visited (graph). */
  readonly states: number;
  /** For pct. */
  readonly detection: Detection | null;
  readonly failures: readonly CheckFailure[];
}

/** Explores `program`. @throws UsageError when the program cannot be explored that way */
export async function check<S>(program: Program<S>, options: CheckOptions = {}): Promise<CheckResult> {
  const method = methodOf(options);
  const pending: Job[] = firstJobs(method);
  const runner = new JobRunner(program, method);
  const estimator = options.estimate === true && method.strategy === "dpor" ? new Estimator() : null;
  let source: JobRunner<S> | null = null;
  let totals: Totals = NO_TOTALS;
  let stopped = false;
  while (pending.length > 0 && !stopped) {
    if (estimator?.wants(totals)) {
      const { spawns } = runner.execution.world;
      // Whoever estimates has to number the tasks that are spawned as whoever explores does.
      if (source === null || !source.expectSpawns(spawns)) {
        source = new JobRunner(program, method);
        source.expectSpawns(spawns);
      }
      estimator.look(source, pending, totals);
      const { executions, states } = totals;
      stopped = options.shouldStop?.({ executions, states, estimate: estimator.current }) ?? false;
      if (stopped) break;
    }
    const job = pending.pop() as Job;
    const before = totals;
    const result = runner.run(job, ({ executions, states }) => {
      const progress = { executions: before.executions + executions, states: before.states + states };
      return options.shouldStop?.({ ...progress, estimate: estimator?.current ?? null }) ?? false;
    });
    totals = addTotals(totals, result.totals);
    pending.push(...result.rest);
    stopped = result.stopped;
    await options.breathe?.();
  }
  return resultOf(program, method, totals, !stopped, options.headingOf);
}

/** The options with everything filled in. @throws UsageError when a bound is given that the strategy does not know */
export function methodOf(options: CheckOptions): Method {
  const { strategy = "dpor" } = options;
  if (options.preemptions !== undefined && strategy !== "dpor")
    throw new UsageError(`preemptions bound dpor, not ${strategy}: leave them out`);
  if (options.taskSteps !== undefined && strategy === "graph")
    throw new UsageError("taskSteps do not bound a state graph: leave them out, or give statesMax");
  if (options.depth !== undefined && (!Number.isInteger(options.depth) || options.depth < 1))
    throw new UsageError(`depth ${options.depth}: must be a whole number from 1 on`);
  return {
    model: options.model ?? "sc",
    strategy,
    seed: options.seed ?? 1,
    runs: options.runs ?? 10_000,
    depth: options.depth ?? 3,
    preemptions: options.preemptions ?? null,
    taskSteps: options.taskSteps ?? null,
    stepsMax: options.stepsMax ?? null,
    statesMax: options.statesMax ?? 2_000_000,
    stopAtFirst: options.stopAtFirst ?? false,
  };
}

/** What follows from the totals of all jobs. @param ended no job is left to do */
export function resultOf<S>(
  program: Program<S>,
  method: Method,
  totals: Totals,
  ended: boolean,
  headingOf?: HeadingOf,
): CheckResult {
  const { executions, blocked, waiting, stopped, leftOut, diverged, states } = totals;
  const failures = reportsOf(program, method.model, totals, headingOf);
  const isSample = method.strategy === "random" || method.strategy === "pct";
  const complete = ended && !isSample && !totals.partial && stopped === 0 && leftOut + diverged === 0;
  return {
    verdict: failures.length > 0 ? "fails" : complete ? "holds" : "unknown",
    complete,
    ...{ executions, blocked, waiting, stopped, leftOut, diverged, states },
    detection: method.strategy === "pct" ? detectionOf(method.depth, totals) : null,
    failures,
  };
}

function detectionOf(depth: number, { lanesSeen: lanes, stepsSeen: steps }: Totals): Detection {
  return { depth, lanes, steps, probability: detectionProbability(lanes, steps, depth) };
}
