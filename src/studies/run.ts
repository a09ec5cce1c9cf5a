/**
 * Running a study's cells in worker threads.
 *
 * The main thread only hands out jobs (src/engine/job.ts) and adds up what came of them. A job's outcome does not depend on who does it, so the
 * result does not depend on how many threads there are, nor on whether a run was interrupted and resumed. The threads share one block
 * of memory: a flag that stops them, and their progress.
 */
import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import { assert, EngineBug, UsageError } from "../engine/index.ts";
import { CellWork, type SavedWork } from "./cell-work.ts";
import { type CellReport, judge, type PlannedCell, type StopReason } from "./cells.ts";
import type { LoadedStudy, StudySource } from "./load.ts";
import { type Answer, SharedProgress, type Task, type WorkerInput } from "./messages.ts";

// --- running ---------------------------------------------------------------------------------------------------------

export interface RunOptions {
  /** Worker threads; null for one on each CPU. */
  readonly workers: number | null;
  /** Diagrams show every step. */
  readonly allSteps: boolean;
  /** Aborted with a {@link StopReason}: unfinished cells are then reported as unknown. */
  readonly signal: AbortSignal;
  /** Where an earlier run of the same plan was; null to begin. */
  readonly resume: readonly SavedWork[] | null;
}

/** What a run is doing, for a progress line. */
export interface RunProgress {
  readonly cells: number;
  readonly cellsDone: number;
  /** Executions and states of all cells, those of an earlier run included. */
  readonly executions: number;
  readonly states: number;
  /** Of the cells in work: executions that are done, and those that there are in all; null when that is not known. */
  readonly inWork: { readonly done: number; readonly expected: number } | null;
}

/** A run that goes on. */
export interface Running {
  progress(): RunProgress;
  /** All that is needed to go on from here in another process. */
  save(): SavedWork[];
}

export interface StudyRun {
  readonly cells: readonly CellReport[];
  readonly workers: number;
  /** Null when it ran to its end. */
  readonly stopped: StopReason | null;
}

/** After a stop, workers are given this long to report what they have. */
const GRACE_MS = 2_000;

const WORKER_URL = new URL(`./worker${import.meta.url.slice(import.meta.url.lastIndexOf("."))}`, import.meta.url);

/**
 * Runs the planned cells.
 * @param watch is given the run, to look at while it goes on
 * @throws UsageError when a cell cannot be explored, naming it; EngineBug when racewalk is broken
 */
export async function runCells(
  { source }: LoadedStudy,
  plan: readonly PlannedCell[],
  options: RunOptions,
  watch: (running: Running) => void = () => undefined,
): Promise<StudyRun> {
  const workers = Math.max(1, options.workers ?? availableParallelism());
  const pool = new Pool(source, plan, options, workers);
  watch(pool);
  const works = await pool.run();
  const stopped = options.signal.aborted ? (options.signal.reason as StopReason) : null;
  const cells = works.map(({ cell, result }) => judge(cell, result, stopped));
  const isUnfinished = works.some(({ result }) => result === null || result.stopped);
  return { cells, workers, stopped: isUnfinished ? stopped : null };
}

/** A worker thread, and what it is doing. */
interface Slot {
  worker: Worker | null;
  /** Null when it is idle. */
  busy: { readonly work: CellWork; readonly answer: (answer: Answer | null) => void } | null;
  /** The cell that it worked on last: it has that at hand. */
  last: CellWork | null;
}

class Pool implements Running {
  private readonly source: StudySource;
  private readonly options: RunOptions;
  private readonly shared: SharedProgress;
  private readonly works: readonly CellWork[];
  private readonly slots: readonly Slot[];
  private readonly ended = Promise.withResolvers<void>();
  private over = false;

  constructor(source: StudySource, plan: readonly PlannedCell[], options: RunOptions, workers: number) {
    this.source = source;
    this.options = options;
    this.shared = new SharedProgress(workers);
    this.works = plan.map((cell, i) => new CellWork(cell, options.resume?.[i] ?? null));
    this.slots = Array.from({ length: workers }, () => ({ worker: null, busy: null, last: null }));
  }

  progress(): RunProgress {
    const { executions, states } = this.shared.totals();
    const each = this.works.map((work) => ({ work, ...work.progress }));
    const inWork = each.filter(({ work }) => !work.isDone && !work.isUntouched && work.cell.strategy !== "graph");
    const expected = inWork.reduce((sum, one) => sum + (one.expected ?? Number.NaN), 0);
    const done = inWork.reduce((sum, one) => sum + one.executions, executions);
    return {
      cells: each.length,
      cellsDone: this.works.filter((work) => work.isDone).length,
      executions: each.reduce((sum, one) => sum + one.executions, executions),
      states: each.reduce((sum, one) => sum + one.states, states),
      inWork: inWork.length > 0 && expected >= done ? { done, expected } : null,
    };
  }

  save(): SavedWork[] {
    return this.works.map((work) => work.save());
  }

  async run(): Promise<readonly CellWork[]> {
    const { signal } = this.options;
    let grace: NodeJS.Timeout | undefined;
    const stop = (): void => {
      this.shared.stop();
      for (const work of this.works) work.halted = true;
      grace = setTimeout(() => this.end(), GRACE_MS);
      this.handOut();
    };
    if (signal.aborted) return this.works;
    signal.addEventListener("abort", stop, { once: true });
    try {
      this.handOut();
      await this.ended.promise;
    } finally {
      this.over = true;
      signal.removeEventListener("abort", stop);
      clearTimeout(grace);
      this.shared.stop();
      await Promise.all(this.slots.flatMap(({ worker }) => (worker === null ? [] : [worker.terminate()])));
    }
    return this.works;
  }

  private end(): void {
    this.over = true;
    this.ended.resolve();
  }

  private fail(error: Error): void {
    this.over = true;
    this.ended.reject(error);
  }

  // --- handing out ---------------------------------------------------------------------------------------------

  /** Gives every idle worker something to do; ends the run when all is done. */
  private handOut(): void {
    if (this.over) return;
    for (const [i, slot] of this.slots.entries()) {
      if (slot.busy !== null) continue;
      const next = this.nextFor(slot);
      if (next === null) break;
      this.send(slot, i, next);
    }
    if (this.slots.every(({ busy }) => busy === null)) this.end();
  }

  private nextFor(slot: Slot): Errand | null {
    return this.reportToMake() ?? this.glanceToTake() ?? this.jobFor(slot);
  }

  /** The report of a cell that is explored, or as far as it was when the run was stopped. */
  private reportToMake(): Errand | null {
    const work = this.works.find((one) => !one.isDone && !one.reporting && one.isExplored && !one.isUntouched);
    if (work === undefined) return null;
    work.reporting = true;
    const { cell, soFar: totals, isComplete, extras } = work;
    return {
      work,
      task: { kind: "report", cell, totals, isComplete, extras },
      answered: (answer) => {
        if (answer?.kind === "report") work.result = answer.result;
        else work.lost = true;
      },
    };
  }

  private glanceToTake(): Errand | null {
    const work = this.works.find((one) => one.wantsGlance);
    if (work === undefined) return null;
    const { open, spawns, seed, seen } = work.glance();
    const { cell, epoch } = work;
    return {
      work,
      task: { kind: "glance", cell, epoch, spawns, open, seed },
      answered: (answer) => seen(answer?.kind === "glance" ? answer.glance : null),
    };
  }

  /** A job of the cell that the worker has at hand, or else of a cell that nobody works on, or else of any. */
  private jobFor({ last }: Slot): Errand | null {
    const work =
      (last?.hasJob ? last : undefined) ??
      this.works.find((one) => one.hasJob && one.isUntouched) ??
      this.works.find((one) => one.hasJob);
    if (work === undefined) return null;
    const { job, spawns, epoch } = work.take();
    return {
      work,
      task: { kind: "job", cell: work.cell, epoch, spawns, job },
      answered: (answer) => {
        if (answer?.kind === "job") work.finish(job, epoch, answer.result, answer.seconds);
        else work.lost = true;
      },
    };
  }

  private send(slot: Slot, index: number, errand: Errand): void {
    const { work, task } = errand;
    const worker = slot.worker ?? this.start(slot, index);
    slot.last = work;
    slot.busy = {
      work,
      answer: (answer) => {
        slot.busy = null;
        this.shared.set(index, 0, 0);
        errand.answered(answer);
        this.handOut();
      },
    };
    worker.postMessage(task);
  }

  // --- workers -------------------------------------------------------------------------------------------------

  private start(slot: Slot, index: number): Worker {
    const { allSteps } = this.options;
    const input: WorkerInput = { source: this.source, allSteps, shared: this.shared.buffer, slot: index };
    // What a study prints is no part of a report.
    const worker = new Worker(WORKER_URL, { workerData: input, stdout: true });
    worker.stdout.pipe(process.stderr, { end: false });
    slot.worker = worker;
    worker.on("message", (answer: Answer) => {
      if (answer.kind === "usage" || answer.kind === "bug") {
        this.fail(errorOf(answer));
        return;
      }
      assert(slot.busy !== null, "a worker answers what nobody asked");
      slot.busy.answer(answer);
    });
    worker.on("error", (error: NodeJS.ErrnoException) => {
      slot.worker = null;
      // The cell stays without a result, and the next one gets a fresh thread.
      if (error.code === "ERR_WORKER_OUT_OF_MEMORY") slot.busy?.answer(null);
      else this.fail(new EngineBug(`a worker failed: ${error.message}`, { cause: error }));
    });
    worker.on("exit", () => {
      if (this.over || slot.worker !== worker) return;
      this.fail(new UsageError(`${this.source.name}: its code ended the worker thread; remove process.exit()`));
    });
    return worker;
  }
}

/** Something to send to a worker, and what to do with its answer; null when it ran out of memory. */
interface Errand {
  readonly work: CellWork;
  readonly task: Task;
  answered(answer: Answer | null): void;
}

function errorOf(reply: Extract<Answer, { kind: "usage" | "bug" }>): Error {
  const error = reply.kind === "usage" ? new UsageError(reply.message) : new EngineBug(reply.message);
  error.stack = reply.stack;
  return error;
}
