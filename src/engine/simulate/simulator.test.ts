import { describe, expect, test } from "vitest";
import { type Cell, cell } from "../cell.ts";
import type { Steps } from "../operation.ts";
import { acquire, acquireShared, awaitUntil, fetchAdd, load, releaseShared, store } from "../ops.ts";
import { makeWorld, program } from "../program.ts";
import { percentileOf } from "./metrics.ts";
import { type SimulationOptions, Simulator } from "./simulator.ts";

interface State {
  readonly lock: Cell;
  readonly word: Cell;
  readonly log: string[];
}

type Body = (state: State) => Steps<unknown>;

const COSTS = { access: 1, "locked access": 10, "line transfer": 100, "lock hand-over": 50, fence: 5, work: 1 };

function simulate(tasks: Record<string, Body>, options: SimulationOptions = {}) {
  const { world, state } = makeWorld(
    program<State>({
      name: "simulated",
      setup: (w) => ({ lock: cell(w, "lock"), word: cell(w, "word"), log: [] }),
      tasks,
    }),
  );
  const simulator = new Simulator(world, { costs: COSTS, ...options });
  const metrics = simulator.run();
  return { metrics, state, word: state.word.peek() };
}

function* locked(state: State, name: string, before: number, inside: number): Steps<void> {
  const { world } = state.lock;
  world.clock?.spend("work", before);
  yield* acquire(
    state.lock,
    (value) => value === 0,
    () => 1,
    "lock",
  );
  state.log.push(name);
  world.clock?.spend("work", inside);
  yield* store(state.lock, 0, "unlock");
}

describe("the simulator", () => {
  test("adds up what one task does", () => {
    const { metrics } = simulate({
      *a({ word }) {
        yield* load(word);
        word.world.clock?.spend("work", 1000);
        yield* fetchAdd(word, 1);
      },
    });
    expect(metrics.end).toBe(1 + 1000 + 10);
  });

  test("charges a line that another CPU has written, once for all readers", () => {
    const reader: Body = function* ({ word }) {
      word.world.clock?.spend("work", 50);
      yield* load(word);
      return word.world.clock?.now;
    };
    const { metrics } = simulate({
      *w({ word }) {
        yield* store(word, 1);
      },
      reader,
    });
    expect(metrics.end).toBe(50 + 1 + 100);
  });

  test("lets locked accesses to one line follow one another", () => {
    const add: Body = function* ({ word }) {
      yield* fetchAdd(word, 1);
    };
    const { metrics, word } = simulate({ a: add, b: add, c: add });
    expect(word).toBe(3);
    // The first finds the line in nobody's cache; the others each wait for it to come, one after the other.
    expect(metrics.end).toBe(2 * 110);
  });

  test("serves a lock in the order of arrival, and says who waited and who held it", () => {
    const { state, metrics } = simulate({
      a: (s) => locked(s, "a", 0, 1000),
      b: (s) => locked(s, "b", 300, 10),
      c: (s) => locked(s, "c", 200, 10),
    });
    expect(state.log).toEqual(["a", "c", "b"]);
    const lock = metrics.locks.get("lock");
    expect(lock?.wait.count).toBe(2);
    expect(lock?.wait.by).toBe("b");
    expect(lock?.hold).toMatchObject({ count: 3, by: "a" });
    expect([...(lock?.holdBy ?? [])].map(([task, { count }]) => [task, count])).toEqual([
      ["a", 1],
      ["c", 1],
      ["b", 1],
    ]);
    expect(lock?.waitBy.get("b")?.longest).toBe(lock?.wait.longest);
    expect(lock?.hold.longest).toBeGreaterThan(1000);
  });

  test("queues a reader behind a writer that waits, as qrwlock does", () => {
    const read = (name: string, before: number, inside: number): Body =>
      function* (s) {
        s.lock.world.clock?.spend("work", before);
        yield* acquireShared(
          s.lock,
          (value) => value < 100,
          (value) => value + 1,
        );
        s.log.push(name);
        s.lock.world.clock?.spend("work", inside);
        yield* releaseShared(s.lock, (value) => value - 1);
      };
    const write: Body = function* (s) {
      s.lock.world.clock?.spend("work", 500);
      yield* acquire(
        s.lock,
        (value) => value === 0,
        () => 100,
      );
      s.log.push("writer");
      yield* store(s.lock, 0);
    };
    const { state, metrics } = simulate({ early: read("early", 0, 2000), write, late: read("late", 900, 10) });
    expect(state.log).toEqual(["early", "writer", "late"]);
    expect(metrics.locks.get("lock")?.holdShared).toMatchObject({ count: 2, by: "early" });
  });

  test("gives percentiles of sections exact to three digits", () => {
    const body: Body = function* ({ word }) {
      const { clock } = word.world;
      for (let i = 1; i <= 1000; i++) {
        clock?.enter("section");
        clock?.spend("work", 10 * i);
        clock?.leave("section");
      }
      yield* load(word);
    };
    const section = simulate({ body }).metrics.sections.get("section");
    for (const [share, length] of [
      [0.5, 5_000],
      [0.99, 9_900],
      [1, 10_000],
    ] as const) {
      const found = section === undefined ? null : percentileOf(section, share);
      expect(Math.abs((found ?? 0) - length)).toBeLessThanOrEqual(length / 500);
    }
  });

  test("wakes an await, and measures the wait", () => {
    const { metrics } = simulate({
      *waiter({ word }) {
        yield* awaitUntil(word, (value) => value === 1, "wait for CPU 7");
      },
      *writer({ word }) {
        word.world.clock?.spend("work", 5000);
        yield* store(word, 1);
      },
    });
    expect(metrics.waits.get("wait for CPU n")?.longest).toBeGreaterThan(4900);
  });

  test("says who waits when nothing can go on", () => {
    const stuck: Body = function* ({ word }) {
      yield* awaitUntil(word, (value) => value === 1);
    };
    expect(() => simulate({ stuck })).toThrow("the simulation stands still: stuck waits for word");
  });

  test("is the same every time", () => {
    const run = () =>
      simulate({ a: (s) => locked(s, "a", 3, 7), b: (s) => locked(s, "b", 3, 7), c: (s) => locked(s, "c", 1, 9) });
    expect(run().metrics).toEqual(run().metrics);
  });

  test("refuses a cost that is not in the table", () => {
    const body: Body = function* ({ word }) {
      word.world.clock?.spend("nothing known");
      yield* load(word);
    };
    expect(() => simulate({ body })).toThrow('no cost is known for "nothing known"');
  });
});
