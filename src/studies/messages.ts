/** What the main thread and its workers tell each other: plain data. */
import type { Glance, Job, JobResult, Totals } from "../engine/index.ts";
import type { CellResult, PlannedCell } from "./cells.ts";
import type { StudySource } from "./load.ts";

/** What a worker thread is started with. */
export interface WorkerInput {
  readonly source: StudySource;
  readonly allSteps: boolean;
  /** See {@link SharedProgress}. */
  readonly shared: SharedArrayBuffer;
  readonly slot: number;
}

/** Something to do, of one cell. */
export type Task =
  /** A job; `epoch` changes when the cell is begun anew, and `spawns` are the spawned tasks that are known. */
  | {
      readonly kind: "job";
      readonly cell: PlannedCell;
      readonly epoch: number;
      readonly spawns: readonly string[];
      readonly job: Job;
    }
  /** An estimate of how much these jobs are. */
  | {
      readonly kind: "glance";
      readonly cell: PlannedCell;
      readonly epoch: number;
      readonly spawns: readonly string[];
      readonly open: readonly Job[];
      readonly seed: number;
    }
  /** The result that follows from the totals, with its diagrams. */
  | {
      readonly kind: "report";
      readonly cell: PlannedCell;
      readonly totals: Totals;
      readonly isComplete: boolean;
      readonly extras: Pick<CellResult, "estimate" | "seconds" | "stopped" | "cannot">;
    };

export type Answer =
  | { readonly kind: "job"; readonly result: JobResult; readonly seconds: number }
  | { readonly kind: "glance"; readonly glance: Glance }
  | { readonly kind: "report"; readonly result: CellResult }
  | { readonly kind: "usage" | "bug"; readonly message: string; readonly stack: string };

/** The memory that the threads share: a flag that asks all to stop, and for each worker what it has done of its job. */
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

  /** Executions and states of all jobs in work. */
  totals(): { executions: number; states: number } {
    const totals = { executions: 0, states: 0 };
    for (const [i, value] of this.counts.entries()) totals[i % 2 === 0 ? "executions" : "states"] += value;
    return totals;
  }
}
