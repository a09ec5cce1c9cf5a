/**
 * Sleeping and waking.
 *
 *     waiter                                   waker
 *     prepareToWait():                         make the condition true
 *       queue itself, state = sleeping, mb     wakeUp():
 *     condition true? then finishWait()          take each waiter off the queue,
 *     schedule(): wait until state is running     state = running
 *
 * The order matters on both sides: a waiter that looked at the condition before it queued itself could miss the wake-up, and sleep for ever.
 */
import {
  awaitUntil,
  type Cell,
  cell,
  cells,
  exchange,
  type Operation,
  type Steps,
  store,
  type World,
} from "../engine/index.ts";
import { current } from "./current.ts";
import { SpinLock, spinLock, spinUnlock } from "./locks.ts";

const TASK_RUNNING = 0;
const TASK_UNINTERRUPTIBLE = 2;

/** task->__state of every thread. */
export class ThreadStates {
  private readonly states: readonly Cell[];

  constructor(world: World) {
    this.states = cells(world, "task->__state", world.tasksMax);
  }

  of(lane: number): Cell {
    return this.states[lane] as Cell;
  }
}

/** A wait_queue_head_t, or (with one waiter) a struct rcuwait. */
export class WaitQueue {
  readonly world: World;
  readonly name: string;
  readonly states: ThreadStates;
  readonly lock: SpinLock;
  /** The queued threads, a bit for each; protected by the lock. */
  readonly waiters: Cell;

  constructor(world: World, states: ThreadStates, name: string) {
    this.world = world;
    this.name = name;
    this.states = states;
    this.lock = new SpinLock(world, `${name}.lock`);
    this.waiters = cell(world, `${name}.head`);
  }
}

/** prepare_to_wait(): from here on a wake-up is not lost. */
export function* prepareToWait(queue: WaitQueue): Steps<void> {
  const { lane } = current(queue.world).task;
  yield* spinLock(queue.lock);
  queue.waiters.value |= 1 << lane;
  // set_current_state(): a store and a full barrier, before the condition is looked at.
  yield* exchange(queue.states.of(lane), TASK_UNINTERRUPTIBLE, "set_current_state(UNINTERRUPTIBLE)");
  yield* spinUnlock(queue.lock);
}

/** schedule(): sleeps until woken. */
export function schedule(queue: WaitQueue): Operation<number> {
  const self = current(queue.world);
  self.mightSleep("schedule()");
  return awaitUntil(queue.states.of(self.task.lane), (state) => state === TASK_RUNNING, `schedule()  [${queue.name}]`);
}

/** finish_wait(): off the queue, if a wake-up has not done it. */
export function* finishWait(queue: WaitQueue): Steps<void> {
  const { lane } = current(queue.world).task;
  yield* store(queue.states.of(lane), TASK_RUNNING, "__set_current_state(RUNNING)");
  yield* spinLock(queue.lock);
  queue.waiters.value &= ~(1 << lane);
  yield* spinUnlock(queue.lock);
}

/** wake_up_all() */
export function* wakeUp(queue: WaitQueue): Steps<void> {
  yield* spinLock(queue.lock);
  const waiters = queue.waiters.value;
  queue.waiters.value = 0;
  for (let lane = 0; waiters >> lane !== 0; lane++) {
    if (((waiters >> lane) & 1) !== 0) yield* store(queue.states.of(lane), TASK_RUNNING, `wake_up(): CPU ${lane}`);
  }
  yield* spinUnlock(queue.lock);
}
