/**
 * PCT: random priorities, and a few random points at which they change.
 *
 * Burckhardt, Kothari, Musuvathi and Nagarakatte, "A randomized scheduler with probabilistic guarantees of finding bugs", ASPLOS 2010. Each
 * lane gets a random priority; at each step the one of the highest priority that can move does so. At d-1 steps drawn at random before the
 * execution begins, whoever is about to move falls below all the others. A failure of depth d (one that some d ordering constraints bring about)
 * shows in an execution with a probability of at least 1/(n * k^(d-1)), for n lanes and k steps.
 *
 * Where it departs from the paper:
 *   - Under TSO a store buffer is a lane like a task's: it has a priority of its own, and draining a store is a step. A buffer of low
 *     priority holds its stores back until nobody else can move, which is what late stores take.
 *   - k is not given. It is the longest execution seen so far; a few random walks come first to have one.
 *   - A lane that spins while others could move would keep them from it for ever. After {@link STREAK_MAX} steps in a row it falls below all
 *     others, as it would when it yielded. For executions with such a streak the probability is not promised.
 *   - Outcomes of choose() are drawn evenly; the probability is that of the scheduling alone.
 */
import type { Execution, Scheduler } from "../execution.ts";
import { Random } from "../random.ts";
import type { Task } from "../task.ts";
import { RandomExplorer, type Sampler } from "./random.ts";

/** Steps in a row that a lane may make while others could move. */
const STREAK_MAX = 1_000;
/** Random walks that tell how long executions are. */
const FIRST_WALKS = 4;

export class PctExplorer implements Scheduler, Sampler {
  /** Most lanes that moved in one execution, and the longest execution. */
  lanesSeen = 0;
  stepsSeen = 0;
  private readonly execution: Execution;
  private readonly depth: number;
  private random = new Random(0);
  /** By lane; the highest goes first. Those drawn at the start are above 0, those of fallen lanes below. */
  private readonly priority: Float64Array;
  private lowest = 0;
  /** Steps at which the lane at hand falls, ascending. */
  private points: number[] = [];
  private nextPoint = 0;
  private streakLane = -1;
  private streak = 0;

  /** @param depth d: how many ordering constraints a failure may take to be found with the stated probability */
  constructor(execution: Execution, depth: number) {
    this.execution = execution;
    this.depth = depth;
    this.priority = new Float64Array(execution.lanes);
  }

  run(seed: number): void {
    if (this.stepsSeen === 0) this.measure(seed);
    const { execution } = this;
    execution.scheduler = this;
    this.random = new Random(seed);
    this.draw();
    execution.rollback(0);
    execution.run();
    this.look();
  }

  private measure(seed: number): void {
    const walker = new RandomExplorer(this.execution);
    for (let i = 0; i < FIRST_WALKS; i++) {
      walker.run(seed + i);
      this.look();
    }
  }

  /** Notes how large the execution at hand is. */
  private look(): void {
    const { events } = this.execution;
    this.stepsSeen = Math.max(this.stepsSeen, events.length);
    const lanes = new Set(events.lane.subarray(0, events.length));
    this.lanesSeen = Math.max(this.lanesSeen, lanes.size);
  }

  private draw(): void {
    const { priority, random } = this;
    for (let lane = 0; lane < priority.length; lane++) {
      const other = random.below(lane + 1);
      priority[lane] = priority[other] as number;
      priority[other] = lane + 1;
    }
    this.lowest = 0;
    this.points = Array.from({ length: this.depth - 1 }, () => random.below(this.stepsSeen)).sort((a, b) => a - b);
    this.nextPoint = 0;
    this.streakLane = -1;
    this.streak = 0;
  }

  pick(): number {
    const at = this.execution.events.length;
    let lane = this.highest();
    for (; lane >= 0 && at >= (this.points[this.nextPoint] ?? Number.POSITIVE_INFINITY); this.nextPoint++) {
      this.fall(lane);
      lane = this.highest();
    }
    this.streak = lane === this.streakLane ? this.streak + 1 : 1;
    this.streakLane = lane;
    if (lane >= 0 && this.streak > STREAK_MAX) {
      this.fall(lane);
      this.streak = 0;
      return this.highest();
    }
    return lane;
  }

  /** The lane of the highest priority among those that can move; -1 when none can. */
  private highest(): number {
    const { execution, priority } = this;
    let best = -1;
    for (let lane = 0; lane < execution.lanes; lane++) {
      if (best >= 0 && (priority[lane] as number) < (priority[best] as number)) continue;
      if (execution.isEnabled(lane)) best = lane;
    }
    return best;
  }

  private fall(lane: number): void {
    this.priority[lane] = --this.lowest;
  }

  choose(_task: Task, n: number): number {
    return this.random.below(n);
  }
}

/** How likely one execution is to show a failure of the given depth, at the least. */
export function detectionProbability(lanes: number, steps: number, depth: number): number {
  return lanes === 0 || steps === 0 ? 1 : 1 / (lanes * steps ** (depth - 1));
}
