/** Waiting for ever: deadlock, lost wake-ups, livelock. */
import { describe, expect, test } from "vitest";
import {
  awaitUntil,
  type Cell,
  cell,
  cells,
  fence,
  load,
  type Program,
  program,
  type Steps,
  startLoop,
  store,
  type World,
} from "../../../src/engine/index.ts";
import {
  finishWait,
  Kernel,
  Mutex,
  mutexLock,
  mutexUnlock,
  prepareToWait,
  schedule,
  WaitQueue,
  wakeUp,
} from "../../../src/kernel/index.ts";
import { expectClean, expectFound, MODELS } from "./planted.ts";

/** One waits with a mutex held for what the other does under the same mutex. */
function waitUnderLock(outside: boolean): Program {
  return program({
    name: "wait under lock",
    setup: (world) => {
      void new Kernel(world);
      return { lock: new Mutex(world, "lock"), done: cell(world, "done") };
    },
    tasks: {
      *waiter({ lock, done }) {
        yield* mutexLock(lock);
        yield* awaitUntil(done, (value) => value === 1);
        yield* mutexUnlock(lock);
      },
      *worker({ lock, done }) {
        if (outside) {
          yield* store(done, 1);
          return;
        }
        yield* mutexLock(lock);
        yield* store(done, 1);
        yield* mutexUnlock(lock);
      },
    },
  });
}

/** A sleeper that looks at the condition before it queues itself can miss the wake-up. */
function sleeper(queuesFirst: boolean): Program {
  return program({
    name: "sleeper",
    setup: (world) => {
      const { states } = new Kernel(world);
      return { queue: new WaitQueue(world, states, "wq"), condition: cell(world, "condition") };
    },
    tasks: {
      *sleeper({ queue, condition }) {
        if (queuesFirst) {
          yield* prepareToWait(queue);
          if ((yield* load(condition)) === 0) yield* schedule(queue);
          yield* finishWait(queue);
        } else if ((yield* load(condition)) === 0) {
          yield* prepareToWait(queue);
          yield* schedule(queue);
          yield* finishWait(queue);
        }
      },
      *waker({ queue, condition }) {
        yield* store(condition, 1);
        yield* wakeUp(queue);
      },
    },
  });
}

describe.each(MODELS)("under %s", (model) => {
  test("a deadlock is found", async () => {
    const { failures } = await expectFound(waitUnderLock(false), "deadlock", { model });
    expect(failures[0]?.diagram).toContain("...for ever");
    await expectClean(waitUnderLock(true), { model });
  });

  test("a lost wake-up is found", async () => {
    const { failures } = await expectFound(sleeper(false), "deadlock", { model });
    expect(failures[0]?.diagram).toContain("schedule()");
    await expectClean(sleeper(true), { model });
  });
});

interface Wants {
  readonly world: World;
  readonly want: readonly Cell[];
}

/**
 * Two tasks that each want a thing that only one may have at a time, and give way to each other. (Their barriers also keep the number of states
 * finite: a store buffer has no end.)
 */
function polite(name: string, give: (state: Wants, me: number) => Steps<void>): Program<Wants> {
  function* take(state: Wants, me: number): Steps<void> {
    const mine = state.want[me] as Cell;
    yield* store(mine, 1);
    yield* fence(state.world);
    const again = startLoop(state.world);
    for (;;) {
      again();
      if ((yield* load(state.want[1 - me] as Cell)) === 0) break;
      yield* give(state, me);
    }
    yield* store(mine, 0);
  }
  return program({
    name,
    setup: (world): Wants => ({ world, want: cells(world, "want", 2) }),
    tasks: { zero: (state) => take(state, 0), one: (state) => take(state, 1) },
  });
}

/** Both step back at once, and come forward at once: each runs as often as one likes, and neither gets anywhere. */
function* bothGiveWay({ world, want }: Wants, me: number): Steps<void> {
  yield* store(want[me] as Cell, 0);
  yield* fence(world);
  yield* store(want[me] as Cell, 1);
  yield* fence(world);
}

/** One steps back until the other is through. That one can only spin for ever if the first is never let run. */
function* secondGivesWay({ world, want }: Wants, me: number): Steps<void> {
  if (me === 0) return;
  yield* store(want[1] as Cell, 0);
  const again = startLoop(world);
  do again();
  while ((yield* load(want[0] as Cell)) === 1);
  yield* store(want[1] as Cell, 1);
  yield* fence(world);
}

describe.each(MODELS)("two tasks that back off for each other, under %s", (model) => {
  test("can do so for ever", async () => {
    const { failures } = await expectFound(polite("both", bothGiveWay), "progress", { model, strategy: "graph" });
    expect(failures).toHaveLength(1);
    expect(failures[0]?.cycleFrom).toBeGreaterThan(0);
    expect(failures[0]?.diagram).toContain("from here on, for ever");
  });

  test("are through when one waits for the other: spinning while the other is not let run is no finding", async () => {
    await expectClean(polite("second", secondGivesWay), { model, strategy: "graph" });
  });
});
