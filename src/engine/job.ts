/**
 * Exploring piece by piece.
 *
 * An exploration is a tree of jobs. A job is plain data: which part of the work, and what its ancestors know. Run to its end it gives totals and
 * the jobs that are left to do, and both depend on the job alone: not on which thread runs it, in what order, or how often a run was
 * interrupted before. So the sum over all jobs is the same for any number of threads and for a run that was resumed.
 *
 * A job of an exploration tree ends when it has made a certain number of steps; what is open then is divided into a few new jobs. Whoever takes
 * the last of these first explores in depth-first order, and has no more to remember than a depth-first search.
 */
import { UsageError } from "./assert.ts";
import { Execution, type Failure, type MemoryModel, type Scheduler } from "./execution.ts";
import { type Divergence, DporExplorer } from "./explore/dpor.ts";
import { GraphExplorer, type Lasso } from "./explore/graph.ts";
import { PctExplorer } from "./explore/pct.ts";
import { RandomExplorer, type Sampler, seedOfRun } from "./explore/random.ts";
import type { Frame } from "./explore/reversals.ts";
import type { Spin } from "./explore/spin.ts";
import { divide, readSubtree, type Subtree, WHOLE_TREE, writeSubtree } from "./explore/subtree.ts";
import { type Fact, factsOf, failureOf, judgeFacts } from "./facts.ts";
import { betterOf, type Finding, isBetter, keyOf, type Length, mergeFindings } from "./failures.ts";
import { plainForm, type ShortForm, shortForms } from "./minimise.ts";
import { finish, makeWorld, type Program } from "./program.ts";
import { replay } from "./replay.ts";
import { formatSchedule, type Step } from "./schedule.ts";
import { sideText } from "./sides.ts";
import type { Task } from "./task.ts";
import { Verifier } from "./verify.ts";

export type Strategy = "dpor" | "random" | "pct" | "graph";

/** How a program is explored. */
export interface Method {
  readonly model: MemoryModel;
  readonly strategy: Strategy;
  /** For samples: where to start, and how many executions to make. */
  readonly seed: number;
  readonly runs: number;
  /** For pct. */
  readonly depth: number;
  /** For dpor: leave out what needs more preemptions; null for no bound. */
  readonly preemptions: number | null;
  /** Stop each task after so many steps; null for no bound. */
  readonly taskSteps: number | null;
  /** Longest execution; null for the usual. */
  readonly stepsMax: number | null;
  readonly statesMax: number;
  readonly stopAtFirst: boolean;
}

export type Job =
  | {
      readonly kind: "tree";
      readonly part: Subtree;
      /** Ancestors. */
      readonly generation: number;
      /** How many more failing executions may be minimised, and the shortest ones that the ancestors know. */
      readonly minimised: number;
      readonly known: Readonly<Record<string, Length>>;
    }
  | { readonly kind: "sample"; readonly from: number; readonly to: number }
  | { readonly kind: "graph" };

/** What came of some jobs. */
export interface Totals {
  /** Complete executions: with dpor, one per execution graph. */
  readonly executions: number;
  /** Executions given up because others cover them. */
  readonly blocked: number;
  /** Executions that ended with tasks waiting for ever, when the program allows that (mayBlock). */
  readonly waiting: number;
  /** Executions in which a task was stopped for having made all the steps that it was allowed. */
  readonly stopped: number;
  /** Sub-trees that were left out because they need more preemptions than allowed. */
  readonly leftOut: number;
  /** Paths that were given up because a data race decides what a task does. */
  readonly diverged: number;
  /** States visited (graph). */
  readonly states: number;
  /** Steps of all executions together. */
  readonly steps: number;
  /** Samples: the most lanes that moved in one execution, and the longest execution. */
  readonly lanesSeen: number;
  readonly stepsSeen: number;
  /** A state graph was left incomplete. */
  readonly partial: boolean;
  readonly findings: readonly Finding[];
  /** What tasks did that may not go together (facts.ts), each as a finding whose message is its key. */
  readonly facts: readonly Finding[];
}

/** What a runner counts up. */
const NO_COUNTS = {
  executions: 0,
  blocked: 0,
  waiting: 0,
  stopped: 0,
  leftOut: 0,
  diverged: 0,
  states: 0,
  steps: 0,
};

export const NO_TOTALS: Totals = {
  ...NO_COUNTS,
  lanesSeen: 0,
  stepsSeen: 0,
  partial: false,
  findings: [],
  facts: [],
};

export function addTotals(a: Totals, b: Totals): Totals {
  return {
    executions: a.executions + b.executions,
    blocked: a.blocked + b.blocked,
    waiting: a.waiting + b.waiting,
    stopped: a.stopped + b.stopped,
    leftOut: a.leftOut + b.leftOut,
    diverged: a.diverged + b.diverged,
    states: a.states + b.states,
    steps: a.steps + b.steps,
    lanesSeen: Math.max(a.lanesSeen, b.lanesSeen),
    stepsSeen: Math.max(a.stepsSeen, b.stepsSeen),
    partial: a.partial || b.partial,
    findings: mergeFindings(a.findings, b.findings),
    facts: mergeFindings(a.facts, b.facts),
  };
}

export interface JobResult {
  readonly totals: Totals;
  /** The jobs that are left to do. Meaningless when the job was stopped. */
  readonly rest: readonly Job[];
  /** It was stopped from outside: the totals are those of a part of it. */
  readonly stopped: boolean;
  /** Tasks that were seen spawned ({@link Totals} are right only if all jobs know the same). */
  readonly spawns: readonly string[];
}

/** Steps after which a job ends and is divided: few at first, so that there is soon work for all, then more. */
const STEPS_FIRST = 5_000;
const STEPS_MOST = 200_000;
const PIECES = 4;
/** Runs of a sample that make a job. */
const RUNS_A_JOB = 250;
/** Steps between two looks at the clock and at signals. */
const LOOK_STEPS = 8_192;
/** Failing executions that are minimised in all, beyond the first of a kind that a job finds; of a job of a sample. */
const MINIMISED_MAX = 400;
const MINIMISED_IN_SAMPLE = 20;

/** The property of findings that stand for facts. */
const FACT = "fact";

const IDLE: Scheduler = { pick: () => -1, choose: () => 0 };

/** The jobs to begin with. */
export function firstJobs(method: Method): Job[] {
  switch (method.strategy) {
    case "dpor":
      return [{ kind: "tree", part: WHOLE_TREE, generation: 0, minimised: MINIMISED_MAX, known: {} }];
    case "graph":
      return [{ kind: "graph" }];
    case "random":
    case "pct": {
      const jobs = Math.ceil(method.runs / RUNS_A_JOB);
      // The last one is taken first.
      return Array.from({ length: jobs }, (_, i): Job => {
        const from = (jobs - 1 - i) * RUNS_A_JOB;
        return { kind: "sample", from, to: Math.min(method.runs, from + RUNS_A_JOB) };
      });
    }
    default:
      throw new UsageError(`strategy ${String(method.strategy)}: not one of dpor, random, pct, graph`);
  }
}

/** Does jobs on one program, one after the other. */
export class JobRunner<S> {
  readonly execution: Execution;
  /** Explores trees; null for other strategies. */
  readonly explorer: DporExplorer | null;
  private readonly program: Program<S>;
  private readonly method: Method;
  private readonly state: S;
  /** What parts of the tree stand for, as long as this runner has them at hand. */
  private readonly frames = new WeakMap<Subtree, readonly Frame[]>();
  private started = false;

  private totals: Totals = NO_TOTALS;
  private readonly count = { ...NO_COUNTS };
  private found = new Map<string, Finding>();
  private facts = new Map<string, Finding>();
  private verifier: Verifier<S> | null = null;
  private known = new Map<string, Length>();
  private minimised = 0;
  private stopping = false;
  private stepsAtLook = 0;
  private look: (totals: Pick<Totals, "executions" | "states">) => boolean = () => false;

  constructor(program: Program<S>, method: Method) {
    this.program = program;
    this.method = method;
    const { strategy } = method;
    const { world, state } = makeWorld(program);
    world.comparesStates = strategy === "graph";
    this.state = state;
    this.execution = new Execution(world, method.model, IDLE);
    // A search of states may go as deep as there are states.
    const deepest = strategy === "graph" ? Number.POSITIVE_INFINITY : this.execution.stepsMax;
    this.execution.stepsMax = method.stepsMax ?? deepest;
    this.execution.taskStepsMax = method.taskSteps ?? Number.POSITIVE_INFINITY;
    this.explorer = strategy === "dpor" ? new DporExplorer(this.execution) : null;
    if (this.explorer === null) return;
    this.explorer.preemptionsMax = method.preemptions ?? Number.POSITIVE_INFINITY;
    if (method.taskSteps === null) this.explorer.onSpin = (spin) => this.refuseSpin(spin);
  }

  /** Makes known which tasks are spawned; false when this runner has seen them in another order and cannot be used any more. */
  expectSpawns(spawns: readonly string[]): boolean {
    this.startOnce();
    return this.execution.world.expectSpawns(spawns);
  }

  /** @param look called now and then with what was done; true stops the job */
  run(job: Job, look: (totals: Pick<Totals, "executions" | "states">) => boolean = () => false): JobResult {
    this.begin();
    this.look = look;
    let rest: readonly Job[] = [];
    switch (job.kind) {
      case "tree":
        rest = this.exploreTree(job);
        break;
      case "sample":
        this.sample(job.from, job.to);
        break;
      case "graph":
        this.searchGraph();
        break;
    }
    const totals = {
      ...this.totals,
      ...this.count,
      findings: [...this.found.values()],
      facts: [...this.facts.values()],
    };
    return { totals, rest, stopped: this.stopping, spawns: [...this.execution.world.spawns] };
  }

  /** The frames of a part of the tree; null for the whole tree. Leaves the explorer anywhere. */
  framesOf(part: Subtree): readonly Frame[] | null {
    const { explorer } = this;
    if (explorer === null) throw new UsageError("only dpor has a tree");
    this.startOnce();
    return this.frames.get(part) ?? readSubtree(explorer, part);
  }

  private begin(): void {
    this.startOnce();
    this.totals = NO_TOTALS;
    Object.assign(this.count, NO_COUNTS);
    this.found = new Map();
    this.facts = new Map();
    this.known = new Map();
    this.stopping = false;
    this.stepsAtLook = 0;
  }

  private startOnce(): void {
    if (!this.started) this.execution.start();
    this.started = true;
  }

  // --- the strategies ------------------------------------------------------------------------------------------

  private exploreTree(job: Job & { kind: "tree" }): Job[] {
    const { explorer } = this;
    if (explorer === null) throw new UsageError("a part of a tree is explored with dpor");
    this.minimised = job.minimised;
    this.known = new Map(Object.entries(job.known));
    const frames = this.framesOf(job.part);
    explorer.resume(frames);
    const stepsMax = Math.min(STEPS_MOST, STEPS_FIRST * 4 ** job.generation);
    explorer.explore({
      onExecution: () => {
        this.end();
        return this.count.steps < stepsMax && !this.stopping;
      },
      onBlocked: () => {
        this.count.blocked++;
        this.count.steps += this.execution.events.length;
      },
      onCut: () => {
        this.count.leftOut++;
        this.count.steps += this.execution.events.length;
      },
      onDiverged: (divergence) => this.noteDivergence(divergence),
    });
    if (this.stopping) return [];
    const pieces = divide(explorer.rest ?? [], PIECES);
    const minimised = Math.floor(this.minimised / Math.max(1, pieces.length));
    const known = Object.fromEntries(this.known);
    return pieces.map((piece): Job => {
      const part = writeSubtree(piece);
      this.frames.set(part, piece);
      return { kind: "tree", part, generation: job.generation + 1, minimised, known };
    });
  }

  private sample(from: number, to: number): void {
    const { execution, method } = this;
    this.minimised = MINIMISED_IN_SAMPLE;
    const pct = method.strategy === "pct" ? new PctExplorer(execution, method.depth) : null;
    const sampler: Sampler = pct ?? new RandomExplorer(execution);
    for (let run = from; run < to && !this.stopping; run++) {
      sampler.run(seedOfRun(method.seed, run));
      this.end();
    }
    if (pct !== null) this.totals = { ...NO_TOTALS, lanesSeen: pct.lanesSeen, stepsSeen: pct.stepsSeen };
  }

  private searchGraph(): void {
    const explorer = new GraphExplorer(this.execution);
    this.minimised = MINIMISED_MAX;
    const { statesMax } = this.method;
    const exhausted = explorer.explore({
      onFailure: (failure, path) => {
        this.note(failure, this.written(path), 0);
        return !this.stopping;
      },
      onEnd: () => this.end(),
      onState: (states) => {
        this.count.states = states;
        if (states % 4_096 === 0) this.lookUp();
        return states < statesMax && !this.stopping;
      },
    });
    this.count.states = explorer.states;
    this.totals = { ...NO_TOTALS, partial: !exhausted };
    const lasso = exhausted ? explorer.findStarvation() : null;
    if (lasso !== null) this.noteLasso(lasso);
  }

  // --- what came of an execution -------------------------------------------------------------------------------

  private end(): void {
    const { execution, count } = this;
    const outcome = finish(this.program, this.state, execution);
    if (outcome === "stopped") count.stopped++;
    else if (outcome === "waiting" && this.program.mayBlock) count.waiting++;
    else count.executions++;
    count.steps += execution.events.length;
    const facts = factsOf(execution);
    this.gather(facts);
    judgeFacts(execution, facts);
    for (const failure of execution.failures) this.consider(failure);
    if (count.steps - this.stepsAtLook >= LOOK_STEPS) this.lookUp();
  }

  private lookUp(): void {
    this.stepsAtLook = this.count.steps;
    if (this.look(this.count)) this.stopping = true;
  }

  private consider(failure: Failure): void {
    const known = this.known.get(keyOf(failure)) ?? null;
    if (known !== null && this.minimised <= 0) return;
    const [switches, steps] = known ?? [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY];
    let longest: ShortForm | null = null;
    for (const form of shortForms(this.execution, failure, known)) {
      if (longest === null) this.minimised--;
      if (form.switches > switches || (form.switches === switches && form.steps.length >= steps)) return;
      const shown = this.verify().show(form.steps, failure, this.execution.world.spawns);
      if (shown !== null) {
        this.note(failure, shown, form.switches);
        return;
      }
      longest = form;
    }
    // Where plain accesses race, what an explorer had the tasks do next may have been meant for other values: then only the race is certain.
    const isRacy = this.execution.failures.some((one) => one.property === "data-race");
    if (longest !== null && !isRacy) this.note(failure, longest.steps, longest.switches);
  }

  /** Steps of this world as a new one has them. */
  private written(steps: readonly Step[]): readonly Step[] {
    const { spawns } = this.execution.world;
    return spawns.length === 0 ? steps : (this.verify().follow(steps, spawns) ?? steps);
  }

  /** @throws UsageError that says which task spins, where, and what to do about it */
  private refuseSpin({ lane, reads, places }: Spin): never {
    const { execution, program, method } = this;
    const { world, events } = execution;
    const end: Failure = { property: "spin", message: "", lane, event: events.length };
    const steps = this.written(plainForm(execution, end).steps);
    const shown = replay(program, { model: method.model, steps });
    const name = (world.tasks[lane] as Task).name;
    const here = shown.execution.world.tasks.find((task) => task.name === name)?.lane ?? lane;
    const own = shown.steps.filter((step) => step.cpu === here && !step.drain && step.operation !== "Plain");
    const at = places.map(({ nth }) => nth).reverse();
    const found = at.map((nth) => `${own[nth - 1]?.name} (${own[nth - 1]?.value})`).join(", ");
    const text = `reads ${found} ${reads} times in a row and does nothing else`;
    const remedy = "wait with awaitUntil(), bound the loop (--task-steps), or search its states (--strategy graph)";
    const side = sideText(shown.execution, { lane: here, text, at }, shown.stackAt);
    throw new UsageError(`${side}, and dpor would explore each number of looks: ${remedy}`);
  }

  private verify(): Verifier<S> {
    this.verifier ??= new Verifier(this.program, this.method.model);
    return this.verifier;
  }

  /** Notes what tasks did that may not go together with what they did in other executions. */
  private gather(facts: readonly Fact[]): void {
    const { model, world } = this.execution;
    for (const fact of facts) {
      if (this.facts.has(fact.key)) continue;
      const form = plainForm(this.execution, failureOf(this.execution, FACT, fact.key, [fact]));
      const { switches } = form;
      const steps = this.written(form.steps);
      const schedule = formatSchedule({ model, steps }, world.tasksMax);
      this.facts.set(fact.key, { property: FACT, message: fact.key, switches, steps, schedule });
    }
  }

  /** @param decides for a race: the task whose course it decides */
  private note(failure: Failure, steps: readonly Step[], switches: number, decides?: string): void {
    const { property, message, addr } = failure;
    const { model, world } = this.execution;
    const schedule = formatSchedule({ model, steps }, world.tasksMax);
    const key = keyOf(failure);
    const place = addr === undefined ? {} : { addr };
    const course = decides === undefined ? {} : { decides };
    const finding: Finding = { property, message, switches, steps, schedule, ...place, ...course };
    const best = this.found.get(key);
    this.found.set(key, best === undefined ? finding : betterOf(finding, best));
    if (best === undefined || isBetter(finding, best)) this.known.set(key, [switches, steps.length]);
    if (this.method.stopAtFirst) this.stopping = true;
  }

  /** A path that cannot be followed, because a data race decides what a task does: the program is at fault, and not all of it can be explored. */
  private noteDivergence({ task, race, steps }: Divergence): void {
    this.count.diverged++;
    this.count.steps += this.execution.events.length;
    this.note(race, this.written(steps), this.switchesOf(steps), task.name);
  }

  private switchesOf(steps: readonly Step[]): number {
    const { tasksMax } = this.execution.world;
    return steps.filter(({ lane }, i) => i > 0 && lane % tasksMax !== (steps[i - 1] as Step).lane % tasksMax).length;
  }

  private noteLasso(lasso: Lasso): void {
    const message = `${lasso.task} makes no progress: the last ${lasso.cycle.length} steps can repeat for ever`;
    const failure: Failure = { property: "progress", message, event: lasso.prefix.length, lane: -1 };
    this.note(failure, this.written([...lasso.prefix, ...lasso.cycle]), 0);
    const finding = this.found.get(keyOf(failure)) as Finding;
    this.found.set(keyOf(failure), { ...finding, cycleFrom: lasso.prefix.length });
  }
}
