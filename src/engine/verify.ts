/**
 * Does a schedule show a failure? It is followed in a world of its own, as whoever replays it will follow it.
 *
 * A shortened schedule does, as long as what a task does follows from what its events are ordered after. Plain accesses that race are ordered by
 * nothing: when the steps around them change places, a task may read another value there, or use what is freed by now, and go another way.
 *
 * Spawned tasks have their lanes in the order in which a world first saw them asked for. An explorer has seen many executions; who replays one has
 * not, so the lanes of a schedule are written as the new world has them.
 */
import { Execution, type MemoryModel } from "./execution.ts";
import { factsOf, judgeFacts } from "./facts.ts";
import type { Failure } from "./failure.ts";
import { Follower } from "./follow.ts";
import { OpKind } from "./operation.ts";
import { finish, makeWorld, type Program } from "./program.ts";
import type { Step } from "./schedule.ts";

export class Verifier<S> {
  private readonly program: Program<S>;
  private readonly execution: Execution;
  private readonly state: S;
  private readonly follower = new Follower([]);
  /** Tasks that are not spawned; those whose spawning is asked for, and failures that show, before the first step. */
  private readonly tasks: number;
  private readonly spawns: number;
  private readonly failures: number;

  constructor(program: Program<S>, model: MemoryModel) {
    const { world, state } = makeWorld(program);
    this.program = program;
    this.state = state;
    this.tasks = world.tasks.length;
    this.execution = new Execution(world, model, this.follower);
    this.execution.stepsMax = Number.POSITIVE_INFINITY;
    this.follower.execution = this.execution;
    this.execution.start();
    this.spawns = world.spawns.length;
    this.failures = this.execution.failures.length;
  }

  /**
   * The schedule as it is to be written down, when it shows the failure; null when it does not.
   * @param spawns the spawned tasks of the schedule's world, in the order of their lanes there
   */
  show(steps: readonly Step[], { property, message }: Failure, spawns: readonly string[]): readonly Step[] | null {
    const { execution } = this;
    const followed = this.follow(steps, spawns);
    if (followed === null) return null;
    conclude(this.program, this.state, execution);
    return execution.failures.some((one) => one.property === property && one.message === message) ? followed : null;
  }

  /** The schedule with the lanes of a new world; null when it cannot be followed there. */
  follow(steps: readonly Step[], spawns: readonly string[]): readonly Step[] | null {
    const { execution, follower, tasks } = this;
    const { events, world } = execution;
    execution.rollback(0);
    execution.failures.length = this.failures;
    world.forgetSpawns(this.spawns);
    follower.steps = steps;
    follower.refused = 0;
    follower.laneHere = (lane) => {
      const task = lane % world.tasksMax;
      if (task < tasks) return lane;
      const here = world.laneOf(spawns[task - tasks] ?? "");
      return here < 0 ? here : lane - task + here;
    };
    execution.run();
    if (follower.refused > 0) return null;
    return steps.map(({ choice }, i) => ({
      lane: events.lane[i] as number,
      choice: events.kind[i] === OpKind.Choose ? (events.resultLo[i] as number) : choice,
    }));
  }
}

/** What shows at the end of a schedule: as far as it goes, and when no task can go on. @returns true when none can */
export function conclude<S>(program: Program<S>, state: S, execution: Execution): boolean {
  const isOver = !execution.anyEnabled();
  if (isOver) finish(program, state, execution);
  judgeFacts(execution, factsOf(execution));
  return isOver;
}
