/**
 * Seeded random walks: each step by a task drawn at random among those that can move.
 *
 * For programs too large to exhaust. A run is made from its own seed, so that it can be made again alone, on any machine and by any thread.
 */
import type { Execution, Scheduler } from "../execution.ts";
import { Random } from "../random.ts";
import type { Task } from "../task.ts";

/** Makes executions one after the other, each from its own seed. */
export interface Sampler {
  /** One more execution, from the beginning to its end. */
  run(seed: number): void;
}

export class RandomExplorer implements Scheduler, Sampler {
  private readonly execution: Execution;
  private random = new Random(0);

  constructor(execution: Execution) {
    this.execution = execution;
  }

  run(seed: number): void {
    const { execution } = this;
    execution.scheduler = this;
    this.random = new Random(seed);
    execution.rollback(0);
    execution.run();
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

/** The seed of the `n`-th run of a sample: far from those of its neighbours, and of other samples. */
export function seedOfRun(seed: number, n: number): number {
  let x = Math.imul((seed ^ 0x2545f491) >>> 0, 0x9e3779b1) ^ Math.imul(n + 1, 0x85ebca77);
  x = Math.imul(x ^ (x >>> 15), 0x2c1b3c6d);
  x = Math.imul(x ^ (x >>> 12), 0x297a2d39);
  return (x ^ (x >>> 15)) >>> 0;
}
