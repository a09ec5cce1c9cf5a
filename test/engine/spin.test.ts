/** Tasks that wait by looking again and again: refused with the task, the place and what to do, instead of explored for ever. */
import { expect, test } from "vitest";
import {
  type Cell,
  cell,
  cells,
  check,
  compareExchange,
  fence,
  load,
  program,
  type Steps,
  store,
  type World,
} from "../../src/engine/index.ts";
import { MODELS } from "./planted/planted.ts";

test.each(MODELS)("a task that looks again and again is named, with its line: %s", async (model) => {
  const setup = (world: World) => ({ world, flag: cell(world, "flag"), lock: cell(world, "lock") });
  type State = ReturnType<typeof setup>;
  const setter = function* ({ flag, lock }: State) {
    yield* store(lock, 1);
    yield* store(flag, 1);
    yield* store(lock, 0);
  };
  const made = (spinner: (state: State) => Steps<void>, first: boolean) =>
    program({ name: "spinning", setup, tasks: first ? { spinner, setter } : { setter, spinner } });
  function* looks({ flag }: State): Steps<void> {
    while ((yield* load(flag)) === 0);
  }
  function* tries({ world, lock, flag }: State): Steps<void> {
    while ((yield* compareExchange(lock, 0, 1)) !== 0 || (yield* load(flag)) === 0) yield* fence(world);
  }
  for (const first of [true, false]) {
    const options = { model, strategy: "dpor" } as const;
    await expect(check(made(looks, first), options)).rejects.toThrow(
      /^spinner reads flag \(0\) 500 times in a row and does nothing else \(looks\(\) in spin\.test\.ts:\d+\), and dpor .* awaitUntil\(\)/,
    );
  }
  // A lock that is never free: two tasks, one of which keeps it.
  const kept = program({
    name: "kept",
    setup,
    tasks: {
      *keeper({ lock }: State) {
        yield* store(lock, 1);
      },
      spinner: tries,
    },
  });
  await expect(check(kept, { model })).rejects.toThrow(/spinner reads lock \(1\) 500 times .* \(tries\(\) in spin/);
});

test("a loop over many places, or one that writes, is no spinning", async () => {
  const walking = program({
    name: "walking",
    setup: (world) => ({ flag: cell(world, "flag"), entries: cells(world, "entry", 20), count: cell(world, "count") }),
    tasks: {
      *walker({ flag, entries }) {
        for (let k = 0; k < 600; k++) yield* load(k % 2 === 0 ? flag : (entries[(k >> 1) % 20] as Cell));
      },
      *counter({ flag, count }) {
        for (let k = 0; k < 600; k++) {
          yield* load(flag);
          if (k % 300 === 0) yield* store(count, k);
        }
      },
    },
  });
  expect(await check(walking)).toMatchObject({ verdict: "holds", executions: 1 });
});
