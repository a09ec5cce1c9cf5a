import { describe, expect, test } from "vitest";
import { type Cell, cell } from "./cell.ts";
import { type Callee, deepCall } from "./deep-call.ts";
import type { Steps } from "./operation.ts";
import { fetchAdd, load, store } from "./ops.ts";
import { assertThat, makeWorld, program } from "./program.ts";
import { Simulator } from "./simulate/index.ts";
import type { World } from "./world.ts";

type Call = <T>(world: World, steps: Steps<T>) => Callee<T>;
const directly: Call = (_, steps) => steps;

interface State {
  readonly word: Cell;
  readonly log: string[];
}

/** Two tasks that take turns at every operation, some calls deep. */
function run(call: Call, body: (state: State, name: string, call: Call) => Steps<unknown>) {
  const { world, state } = makeWorld(
    program<State>({
      name: "deep",
      setup: (w) => ({ word: cell(w, "word"), log: [] }),
      tasks: { a: (s) => body(s, "a", call), b: (s) => body(s, "b", call) },
    }),
  );
  const { operations, end } = new Simulator(world).run();
  return { operations, end, log: state.log, word: state.word.peek(), values: world.tasks.map(({ value }) => value) };
}

function* leaf({ word, log }: State, name: string): Steps<number> {
  const old = yield* fetchAdd(word, 1);
  log.push(`${name} ${old}`);
  return old;
}

function* middle(state: State, name: string, call: Call): Steps<number> {
  const { world } = state.word;
  const first = yield* call(world, leaf(state, name));
  yield* load(state.word);
  return first + (yield* leaf(state, name)) + (yield* call(world, leaf(state, name)));
}

function* twice(state: State, name: string, call: Call): Steps<number> {
  let sum = 0;
  for (let i = 0; i < 2; i++) sum += yield* call(state.word.world, middle(state, name, call));
  return sum;
}

describe("a deep call", () => {
  test("gives what a plain call gives, in the same order and at the same time", () => {
    const plain = run(directly, twice);
    expect(plain.word).toBe(12);
    expect(plain.log[1]).toBe("b 1");
    expect(run(deepCall, twice)).toEqual(plain);
  });

  test("does not resume those that called", () => {
    let resumed = 0;
    /** `yield*` asks the iterator that it was given whenever it is resumed. */
    function counted<T>(steps: Steps<T>): Steps<T> {
      const next = steps.next.bind(steps);
      steps.next = () => {
        resumed++;
        return next();
      };
      return steps;
    }
    const inside = (call: Call) =>
      run(call, function* (state, name) {
        return yield* counted(
          (function* () {
            return yield* call(state.word.world, twice(state, name, directly));
          })(),
        );
      });
    const plain = inside(directly);
    expect(resumed).toBeGreaterThan(10);
    resumed = 0;
    expect(inside(deepCall)).toEqual(plain);
    expect(resumed).toBe(4);
  });

  test("throws what its callee throws, at the place of the call", () => {
    const { values, word } = run(deepCall, function* (state, name, call) {
      function* failing(): Steps<void> {
        yield* leaf(state, name);
        assertThat(name !== "a", "a fails", "planted");
      }
      try {
        yield* call(state.word.world, middle(state, name, call));
        yield* call(state.word.world, failing());
      } catch (error) {
        yield* store(state.word, 100);
        return `caught: ${(error as Error).message}`;
      }
      return "nothing";
    });
    expect(values).toEqual([expect.stringContaining("caught: a fails"), "nothing"]);
    expect(word).toBeGreaterThanOrEqual(100);
    expect(() =>
      run(deepCall, function* (state, name, call) {
        function* failing(): Steps<void> {
          yield* leaf(state, name);
          assertThat(name !== "b", "b fails", "planted");
        }
        yield* call(state.word.world, failing());
      }),
    ).toThrow("b fails");
  });

  test("is a plain call where no clock runs", () => {
    const { world, state } = makeWorld(
      program<State>({ name: "deep", setup: (w) => ({ word: cell(w, "word"), log: [] }), tasks: {} }),
    );
    const steps = leaf(state, "a");
    expect(deepCall(world, steps)).toBe(steps);
  });
});
