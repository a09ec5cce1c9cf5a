/**
 * Exploring a program: the engine's front door.
 *
 *     const result = await check(peterson, { model: "tso" });
 *     result.verdict        "holds", "fails" or "unknown"
 *     result.failures[0]    what failed, the schedule that shows it, and a diagram
 */
import { UsageError } from "./assert.ts";
import { diagram, type HeadingOf } from "./diagram.ts";
import { Execution, type Failure, type MemoryModel, type Scheduler } from "./execution.ts";
import { DporExplorer } from "./explore/dpor.ts";
import { GraphExplorer, type Lasso } from "./explore/graph.ts";
import { RandomExplorer } from "./explore/random.ts";
import { isShorter, type ShortForm, shortForm } from "./minimise.ts";
import { finish, makeWorld, type Program } from "./program.ts";
import { type Replay, type ReplayStep, replay } from "./replay.ts";
import { formatSchedule, type Step } from "./schedule.ts";

export type Strategy = "dpor" | "random" | "graph";
export type Verdict = "holds" | "fails" | "unknown";

export interface CheckOptions {
  /** Default: sc. */
  readonly model?: MemoryModel;
  /** Default: dpor. */
  readonly strategy?: Strategy;
  /** For random: where to start; the same seed gives the same executions. Default 1. */
  readonly seed?: number;
  /** For random: how many executions. Default 10,000. */
  readonly runs?: number;
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
  /** Awaited now and then, so that a caller can let other work happen. */
  readonly breathe?: () => Promise<void>;
}

export interface Progress {
  readonly executions: number;
  readonly states: number;
  /** Branches still open at each depth of the exploration (dpor). */
  readonly openBranches: readonly number[];
}

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
  /** States visited (graph). */
  readonly states: number;
  readonly failures: readonly CheckFailure[];
}

const IDLE: Scheduler = { pick: () => -1, choose: () => 0 };
/** Executions between two looks at the clock and at signals. */
const SLICE = 256;
/** Failing executions of one property that are minimised. */
const MINIMISED_MAX = 400;

/** Explores `program`. @throws UsageError when the program cannot be explored that way */
export async function check<S>(program: Program<S>, options: CheckOptions = {}): Promise<CheckResult> {
  const run = new Run(program, options);
  switch (options.strategy ?? "dpor") {
    case "dpor":
      await run.dpor();
      break;
    case "random":
      await run.random();
      break;
    case "graph":
      await run.graph();
      break;
    default:
      throw new UsageError(`strategy ${String(options.strategy)}: not one of dpor, random, graph`);
  }
  return run.result();
}

interface Candidate {
  readonly failure: Failure;
  readonly form: ShortForm;
  readonly lasso?: Lasso;
}

class Run<S> {
  private readonly program: Program<S>;
  private readonly options: CheckOptions;
  private readonly execution: Execution;
  private readonly state: S;
  private executions = 0;
  private blocked = 0;
  private waiting = 0;
  private states = 0;
  private complete = false;
  private stopped = false;
  /** By property and message: the shortest so far, and how many were minimised. */
  private readonly found = new Map<string, Candidate>();
  private minimised = 0;
  private openBranches: readonly number[] = [];

  constructor(program: Program<S>, options: CheckOptions) {
    this.program = program;
    this.options = options;
    const { world, state } = makeWorld(program);
    world.comparesStates = options.strategy === "graph";
    this.state = state;
    this.execution = new Execution(world, options.model ?? "sc", IDLE);
    // A search of states may go as deep as there are states.
    const deepest = options.strategy === "graph" ? Number.POSITIVE_INFINITY : this.execution.stepsMax;
    this.execution.stepsMax = options.stepsMax ?? deepest;
  }

  async dpor(): Promise<void> {
    const explorer = new DporExplorer(this.execution);
    this.execution.start();
    let ended = 0;
    for (let exhausted = false; !exhausted && !this.stopped; ) {
      const target = ended + SLICE;
      exhausted = explorer.explore({
        onExecution: () => {
          ended++;
          this.end();
          return ended < target && !this.stopped;
        },
        onBlocked: () => {
          this.blocked++;
        },
      });
      this.openBranches = explorer.openBranches;
      this.complete = exhausted;
      await this.pause();
    }
  }

  async random(): Promise<void> {
    const explorer = new RandomExplorer(this.execution, this.options.seed ?? 1);
    this.execution.start();
    const runs = this.options.runs ?? 10_000;
    while (this.executions + this.waiting < runs && !this.stopped) {
      explorer.next();
      this.end();
      if (this.executions % SLICE === 0) await this.pause();
    }
  }

  async graph(): Promise<void> {
    const explorer = new GraphExplorer(this.execution);
    this.execution.start();
    const statesMax = this.options.statesMax ?? 2_000_000;
    const exhausted = explorer.explore({
      onFailure: (failure, path) => {
        this.note({ failure, form: { steps: path, switches: 0 } });
        return !this.stopped;
      },
      onEnd: () => this.end(),
      onState: (states) => {
        this.states = states;
        if (states % (SLICE * 16) === 0) this.checkStop();
        return states < statesMax && !this.stopped;
      },
    });
    this.states = explorer.states;
    this.complete = exhausted;
    if (!exhausted) return;
    const lasso = explorer.findStarvation();
    if (lasso !== null) this.noteLasso(lasso);
  }

  result(): CheckResult {
    const failures = [...this.found.values()].map((candidate) => this.report(candidate));
    failures.sort((a, b) => (a.property < b.property ? -1 : a.property > b.property ? 1 : 0));
    return {
      verdict: failures.length > 0 ? "fails" : this.complete ? "holds" : "unknown",
      complete: this.complete,
      executions: this.executions,
      blocked: this.blocked,
      waiting: this.waiting,
      states: this.states,
      failures,
    };
  }

  // --- what came of an execution -------------------------------------------------------------------------------

  private end(): void {
    const { execution } = this;
    const outcome = finish(this.program, this.state, execution);
    if (outcome === "waiting" && this.program.mayBlock) this.waiting++;
    else this.executions++;
    for (const failure of execution.failures) this.consider(failure);
  }

  private consider(failure: Failure): void {
    const known = this.found.get(keyOf(failure));
    if (known !== undefined && (this.minimised >= MINIMISED_MAX || known.form.switches <= 1)) return;
    this.minimised++;
    this.note({ failure, form: shortForm(this.execution, failure) });
  }

  private note(candidate: Candidate): void {
    const key = keyOf(candidate.failure);
    const known = this.found.get(key);
    if (known === undefined || isShorter(candidate.form, known.form)) this.found.set(key, candidate);
    if (this.options.stopAtFirst) this.stopped = true;
  }

  private noteLasso(lasso: Lasso): void {
    const message = `${lasso.task} makes no progress: the last ${lasso.cycle.length} steps can repeat for ever`;
    const failure: Failure = { property: "progress", message, event: lasso.prefix.length, lane: -1 };
    this.note({ failure, form: { steps: [...lasso.prefix, ...lasso.cycle], switches: 0 }, lasso });
  }

  private report(candidate: Candidate): CheckFailure {
    const { failure, lasso } = candidate;
    const { model } = this.execution;
    const { steps, replay: shown } = this.replayed(candidate);
    const text = formatSchedule({ model, steps }, this.execution.world.tasksMax);
    const cycleFrom = lasso === undefined ? {} : { cycleFrom: lasso.prefix.length };
    const { headingOf } = this.options;
    const options = headingOf === undefined ? cycleFrom : { ...cycleFrom, headingOf };
    return {
      property: failure.property,
      message: failure.message,
      replay: text,
      diagram: diagram(shown, `${failure.property}: ${failure.message}`, options),
      steps: shown.steps,
      ...cycleFrom,
    };
  }

  /** Replays the short form; the whole execution if the short form does not show the failure. */
  private replayed(candidate: Candidate): { steps: readonly Step[]; replay: Replay } {
    const { model } = this.execution;
    const { steps } = candidate.form;
    return { steps, replay: replay(this.program, { model, steps }, candidate.failure.addr) };
  }

  // --- time ----------------------------------------------------------------------------------------------------

  private async pause(): Promise<void> {
    this.checkStop();
    await this.options.breathe?.();
  }

  private checkStop(): void {
    const { executions, states, openBranches } = this;
    if (this.options.shouldStop?.({ executions, states, openBranches })) this.stopped = true;
  }
}

function keyOf(failure: Failure): string {
  return `${failure.property}\n${failure.message}`;
}
