/**
 * Seeded random walks: one execution after the other, each step by a task drawn at random among those that can move.
 *
 * For programs too large to exhaust. The same seed gives the same executions on any machine.
 */
import type { Execution, Scheduler } from "../execution.ts";
import { Random } from "../random.ts";
import type { Task } from "../task.ts";

export class RandomExplorer implements Scheduler {
  private readonly execution: Execution;
  private readonly random: Random;
  private started = false;

  constructor(execution: Execution, seed: number) {
    this.execution = execution;
    this.random = new Random(seed);
    execution.scheduler = this;
  }

  /** One more execution, from the beginning to its end. */
  next(): void {
    if (this.started) this.execution.rollback(0);
    this.started = true;
    this.execution.run();
  }

  pick(): number {
    const { execution } = this;
    const enabled: number[] = [];
    for (let lane = 0; lane < execution.lanes; lane++) if (execution.isEnabled(lane)) enabled.push(lane);
    if (enabled.length === 0) return -1;
    return enabled[this.random.below(enabled.length)] as number;
  }

  choose(_task: Task, n: number): number {
    return this.random.below(n);
  }
}
