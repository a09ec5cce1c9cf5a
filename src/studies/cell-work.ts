/**
 * The work on one cell: the jobs that are left to do, and what came of those that are done.
 *
 * What is handed out stays noted until it is done, so at any moment the totals and the jobs not done are together the whole exploration: that
 * is what a checkpoint holds, and what an estimate is made from. A job that is stopped half-way counts as not done.
 */
import {
  addTotals,
  assert,
  Estimator,
  firstJobs,
  type Glance,
  type Job,
  type JobResult,
  NO_TOTALS,
  type Totals,
} from "../engine/index.ts";
import { type CellResult, type PlannedCell, whyUndecidable } from "./cells.ts";

/** What a checkpoint holds of a cell. */
export interface SavedWork {
  readonly totals: Totals;
  readonly open: readonly Job[];
  /** Tasks that were seen spawned, in the order of their lanes. */
  readonly spawns: readonly string[];
  readonly alone: boolean;
  readonly seconds: number;
  /** Null until all is done and reported. */
  readonly result: CellResult | null;
}

/** Seconds of work before the size of a cell is worth an estimate. */
const ESTIMATE_AFTER = 0.5;

export class CellWork {
  readonly cell: PlannedCell;
  result: CellResult | null = null;
  /** The worker ran out of memory. */
  lost = false;
  /** It was stopped: no more of it is done. */
  halted = false;
  /** A worker is asked for an estimate, or for the report. */
  glancing = false;
  reporting = false;
  private open: Job[];
  private readonly inFlight = new Set<Job>();
  private totals: Totals = NO_TOTALS;
  /** What was done of jobs that were stopped: part of the report, not of a checkpoint. */
  private halfDone: Totals = NO_TOTALS;
  private seconds = 0;
  /** A job is done. */
  private begun = false;
  private spawns: readonly string[] = [];
  /** One job after the other: tasks are spawned that the first job has not seen, and all have to number them alike. */
  private alone = false;
  /** Raised when it begins anew. */
  epoch = 0;
  private readonly estimator = new Estimator();

  constructor(cell: PlannedCell, saved: SavedWork | null) {
    this.cell = cell;
    this.open = firstJobs(cell.method);
    if (saved === null) {
      const cannot = whyUndecidable(cell);
      if (cannot !== null && cell.property === "progress") this.result = { ...NOTHING, cannot };
      return;
    }
    this.open = [...saved.open];
    this.totals = saved.totals;
    this.begun = saved.totals.steps > 0;
    this.seconds = saved.seconds;
    this.spawns = saved.spawns;
    this.alone = saved.alone;
    this.result = saved.result;
  }

  save(): SavedWork {
    const { totals, spawns, alone, seconds } = this;
    // What was reported of a cell that was stopped is not the end of it.
    const result = this.result?.stopped === true ? null : this.result;
    const open = result === null ? [...this.open, ...this.inFlight] : [];
    return { totals, open, spawns, alone, seconds, result };
  }

  /** Nothing is left to do for it, but perhaps to report. */
  get isExplored(): boolean {
    return this.halted ? this.inFlight.size === 0 : this.open.length + this.inFlight.size === 0;
  }

  /** Neither begun nor done. */
  get isUntouched(): boolean {
    return !this.begun && this.inFlight.size === 0 && this.halfDone === NO_TOTALS;
  }

  get isDone(): boolean {
    return this.result !== null || this.lost;
  }

  /** True when a job can be taken now. */
  get hasJob(): boolean {
    if (this.isDone || this.halted || this.open.length === 0) return false;
    const isFirst = !this.begun && this.cell.strategy === "dpor";
    return this.inFlight.size === 0 || !(this.alone || isFirst);
  }

  take(): { job: Job; spawns: readonly string[]; epoch: number } {
    const job = this.open.pop();
    assert(job !== undefined, "no job is left of a cell");
    this.inFlight.add(job);
    return { job, spawns: this.spawns, epoch: this.epoch };
  }

  finish(job: Job, epoch: number, { totals, rest, stopped, spawns }: JobResult, seconds: number): void {
    this.seconds += seconds;
    if (epoch !== this.epoch) return;
    this.inFlight.delete(job);
    if (stopped) {
      this.halted = true;
      this.halfDone = addTotals(this.halfDone, totals);
      this.open.push(job);
      return;
    }
    if (spawns.length > this.spawns.length && !this.learn(spawns)) return;
    this.begun = true;
    this.totals = addTotals(this.totals, totals);
    this.open.push(...rest);
  }

  /** @returns false when all begins anew */
  private learn(spawns: readonly string[]): boolean {
    if (!this.begun || this.alone) {
      this.spawns = spawns;
      return true;
    }
    // Others may have numbered other tasks so in the meantime.
    this.epoch++;
    this.alone = true;
    this.spawns = [];
    this.begun = false;
    this.totals = NO_TOTALS;
    this.open = firstJobs(this.cell.method);
    this.inFlight.clear();
    return false;
  }

  // --- estimates -----------------------------------------------------------------------------------------------

  get wantsGlance(): boolean {
    if (this.isDone || this.halted || this.glancing || this.alone) return false;
    return this.cell.strategy === "dpor" && this.seconds > ESTIMATE_AFTER && this.estimator.wants(this.totals);
  }

  /** What an estimate is made from, and what to call with it. */
  glance(): { open: readonly Job[]; spawns: readonly string[]; seed: number; seen: (glance: Glance | null) => void } {
    this.glancing = true;
    const { totals, spawns } = this;
    return {
      open: [...this.open, ...this.inFlight],
      spawns,
      seed: this.estimator.seed,
      seen: (glance) => {
        this.glancing = false;
        if (glance !== null) this.estimator.add(glance, totals);
      },
    };
  }

  /** How far the cell is: executions that are done, and how many there are, as far as known. */
  get progress(): { executions: number; states: number; expected: number | null } {
    const { executions, states } = this.soFar;
    const { strategy, method } = this.cell;
    if (strategy === "random" || strategy === "pct") return { executions, states, expected: method.runs };
    return { executions, states, expected: this.estimator.current?.executions ?? null };
  }

  // --- the end -------------------------------------------------------------------------------------------------

  get soFar(): Totals {
    return addTotals(this.totals, this.halfDone);
  }

  /** No job is left to do. */
  get isComplete(): boolean {
    return this.open.length + this.inFlight.size === 0;
  }

  /** What is not in the totals. */
  get extras(): Pick<CellResult, "estimate" | "seconds" | "stopped" | "cannot"> {
    return {
      estimate: this.estimator.current,
      seconds: Math.round(this.seconds * 1000) / 1000,
      stopped: !this.isComplete,
      cannot: whyUndecidable(this.cell),
    };
  }
}

const NOTHING: Omit<CellResult, "cannot"> = {
  verdict: "unknown",
  complete: false,
  executions: 0,
  blocked: 0,
  waiting: 0,
  states: 0,
  cutShort: 0,
  leftOut: 0,
  detection: null,
  estimate: null,
  failures: [],
  stopped: false,
  seconds: 0,
};
