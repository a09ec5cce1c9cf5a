/**
 * Running a study's cells in worker threads.
 *
 * A cell is explored by one thread from its beginning to its end, so what comes of it does not depend on how many threads there are. The main
 * thread only hands out cells, and shares with the workers one block of memory: a flag that stops them, and their progress.
 */
import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import { EngineBug, UsageError } from "../engine/index.ts";
import { type CellReport, type CellResult, judge, type PlannedCell, type StopReason } from "./cells.ts";
import type { LoadedStudy, StudySource } from "./load.ts";

// --- running ---------------------------------------------------------------------------------------------------------

export interface RunOptions {
  /** Worker threads; null for one on each CPU. */
  readonly workers: number | null;
  /** For random: the seed, and how many executions; null for the engine's own. */
  readonly seed: number | null;
  readonly runs: number | null;
  /** Diagrams show every step. */
  readonly allSteps: boolean;
  /** Aborted with a {@link StopReason}: unfinished cells are then reported as unknown. */
  readonly signal: AbortSignal;
}

/** What a run is doing, for a progress line. */
export interface RunProgress {
  readonly cells: number;
  readonly cellsDone: number;
  readonly executions: number;
  readonly states: number;
}

export interface StudyRun {
  readonly cells: readonly CellReport[];
  readonly workers: number;
  /** Null when it ran to its end. */
  readonly stopped: StopReason | null;
}

/** What a worker thread is started with. */
export interface WorkerInput {
  readonly source: StudySource;
  readonly seed: number | null;
  readonly runs: number | null;
  readonly allSteps: boolean;
  /** See {@link SharedProgress}. */
  readonly shared: SharedArrayBuffer;
  readonly slot: number;
}

export type WorkerReply =
  | { readonly kind: "result"; readonly result: CellResult }
  | { readonly kind: "usage" | "bug"; readonly message: string; readonly stack: string };

/** The memory that the threads share: a flag that asks all to stop, and for each worker what it has done of its cell. */
export class SharedProgress {
  readonly buffer: SharedArrayBuffer;
  private readonly flag: Int32Array;
  private readonly counts: Float64Array;

  constructor(workers: number | SharedArrayBuffer) {
    this.buffer = typeof workers === "number" ? new SharedArrayBuffer(8 + 16 * workers) : workers;
    this.flag = new Int32Array(this.buffer, 0, 1);
    this.counts = new Float64Array(this.buffer, 8);
  }

  stop(): void {
    Atomics.store(this.flag, 0, 1);
  }

  get stopping(): boolean {
    return Atomics.load(this.flag, 0) === 1;
  }

  set(slot: number, executions: number, states: number): void {
    this.counts[2 * slot] = executions;
    this.counts[2 * slot + 1] = states;
  }

  /** Executions and states of all cells in work. */
  totals(): { executions: number; states: number } {
    const totals = { executions: 0, states: 0 };
    for (const [i, value] of this.counts.entries()) totals[i % 2 === 0 ? "executions" : "states"] += value;
    return totals;
  }
}

/** After a stop, workers are given this long to report what they have. */
const GRACE_MS = 2_000;

const WORKER_URL = new URL(`./worker${import.meta.url.slice(import.meta.url.lastIndexOf("."))}`, import.meta.url);

/**
 * Runs the planned cells.
 * @param onProgress is given a function that tells how far the run is
 * @throws UsageError when a cell cannot be explored, naming it; EngineBug when racewalk is broken
 */
export async function runCells(
  { source }: LoadedStudy,
  plan: readonly PlannedCell[],
  options: RunOptions,
  onProgress: (look: () => RunProgress) => void = () => undefined,
): Promise<StudyRun> {
  const workers = Math.max(1, Math.min(options.workers ?? availableParallelism(), plan.length));
  const pool = new Pool(source, plan, options, workers);
  onProgress(() => pool.progress());
  const results = await pool.run();
  const stopped = options.signal.aborted ? (options.signal.reason as StopReason) : null;
  const cells = plan.map((cell, i) => judge(cell, results[i] ?? null, stopped));
  return { cells, workers, stopped: cells.some((_, i) => isUnfinished(results[i])) ? stopped : null };
}

function isUnfinished(result: CellResult | null | undefined): boolean {
  return result === null || result === undefined || result.stopped;
}

class Pool {
  private readonly source: StudySource;
  private readonly plan: readonly PlannedCell[];
  private readonly options: RunOptions;
  private readonly shared: SharedProgress;
  private readonly results: (CellResult | null)[];
  private readonly slots: number;
  private readonly workers = new Set<Worker>();
  private next = 0;
  private done = 0;
  private executions = 0;
  private states = 0;

  constructor(source: StudySource, plan: readonly PlannedCell[], options: RunOptions, workers: number) {
    this.source = source;
    this.plan = plan;
    this.options = options;
    this.slots = workers;
    this.shared = new SharedProgress(workers);
    this.results = plan.map(() => null);
  }

  progress(): RunProgress {
    const { executions, states } = this.shared.totals();
    return {
      cells: this.plan.length,
      cellsDone: this.done,
      executions: this.executions + executions,
      states: this.states + states,
    };
  }

  /** The result of each planned cell; null for those that were not run to any end. */
  async run(): Promise<readonly (CellResult | null)[]> {
    const { signal } = this.options;
    let grace: NodeJS.Timeout | undefined;
    const stop = (): void => {
      this.shared.stop();
      grace = setTimeout(() => void this.terminate(), GRACE_MS);
    };
    if (signal.aborted) return this.results;
    signal.addEventListener("abort", stop, { once: true });
    try {
      await Promise.all(Array.from({ length: this.slots }, (_, slot) => this.serve(slot)));
    } finally {
      signal.removeEventListener("abort", stop);
      clearTimeout(grace);
      this.shared.stop();
      await this.terminate();
    }
    return this.results;
  }

  /** One worker after the other in this slot, until no cell is left. */
  private async serve(slot: number): Promise<void> {
    while (this.next < this.plan.length && !this.shared.stopping) {
      const worker = this.startWorker(slot);
      try {
        await this.feed(worker, slot);
      } finally {
        this.workers.delete(worker);
        await worker.terminate();
      }
    }
  }

  private startWorker(slot: number): Worker {
    const { seed, runs, allSteps } = this.options;
    const input: WorkerInput = { source: this.source, seed, runs, allSteps, shared: this.shared.buffer, slot };
    // What a study prints is no part of a report.
    const worker = new Worker(WORKER_URL, { workerData: input, stdout: true });
    worker.stdout.pipe(process.stderr, { end: false });
    this.workers.add(worker);
    return worker;
  }

  /** Gives the worker cells until none is left or the worker has died. */
  private feed(worker: Worker, slot: number): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    let at = -1;
    const give = (): void => {
      this.shared.set(slot, 0, 0);
      if (this.next >= this.plan.length || this.shared.stopping) {
        resolve();
        return;
      }
      at = this.next++;
      worker.postMessage(this.plan[at]);
    };
    worker.on("message", (reply: WorkerReply) => {
      if (reply.kind !== "result") {
        reject(errorOf(reply));
        return;
      }
      this.finish(at, reply.result);
      give();
    });
    worker.on("error", (error: NodeJS.ErrnoException) => {
      this.shared.set(slot, 0, 0);
      // The cell stays without a result, and the next one gets a fresh thread.
      if (error.code === "ERR_WORKER_OUT_OF_MEMORY") resolve();
      else reject(new EngineBug(`a worker failed: ${error.message}`, { cause: error }));
    });
    worker.on("exit", () => {
      if (this.shared.stopping) resolve();
      else reject(new UsageError(`${this.source.name}: its code ended the worker thread; remove process.exit()`));
    });
    give();
    return promise;
  }

  private finish(at: number, result: CellResult): void {
    this.results[at] = result;
    this.done++;
    this.executions += result.executions;
    this.states += result.states;
  }

  private async terminate(): Promise<void> {
    await Promise.all([...this.workers].map((worker) => worker.terminate()));
  }
}

function errorOf(reply: Exclude<WorkerReply, { kind: "result" }>): Error {
  const error = reply.kind === "usage" ? new UsageError(reply.message) : new EngineBug(reply.message);
  error.stack = reply.stack;
  return error;
}
