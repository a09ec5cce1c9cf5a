import { describe, expect, test } from "vitest";
import {
  check,
  note,
  program,
  retire,
  runSequentially,
  type Steps,
  startLoop,
  UsageError,
  World,
} from "../engine/index.ts";
import { ObjectPool } from "./object-pool.ts";

const BYTES = 16;

function poolOf(world: World, objects: number): ObjectPool {
  return new ObjectPool(world, "thing", BYTES, objects, () => world.allocate(BYTES, "thing"));
}

/** As kmem_cache_free() has it. */
function* release(world: World, pool: ObjectPool, addr: number): Steps<void> {
  yield* retire(world, addr, "freed");
  yield* pool.put(addr);
}

describe("a pool of objects", () => {
  test("gives the lowest free one, zeroed, beyond one word of its map", () => {
    const world = new World();
    const pool = poolOf(world, 60);
    runSequentially(world, 0, "test", function* () {
      const taken: number[] = [];
      for (let i = 0; i < 60; i++) taken.push(yield* pool.take());
      expect(new Set(taken).size).toBe(60);
      world.plainWrite(taken[55] as number, 4, 7, 0);
      for (const i of [58, 55, 57]) yield* release(world, pool, taken[i] as number);
      expect(yield* pool.take()).toBe(taken[55]);
      expect(world.plainRead(taken[55] as number, 4)).toBe(0);
    });
  });

  test("that is empty says so", () => {
    const world = new World();
    const pool = poolOf(world, 1);
    const twice = function* (): Steps<void> {
      yield* pool.take();
      yield* pool.take();
    };
    expect(() => runSequentially(world, 0, "test", twice)).toThrow(UsageError);
  });

  test("what is not its own stays away", () => {
    const world = new World();
    const pool = poolOf(world, 1);
    const other = world.allocate(BYTES, "another thing");
    runSequentially(world, 0, "test", function* () {
      yield* pool.put(other);
      expect(yield* pool.take()).not.toBe(other);
    });
  });

  test("a use after free is one, until the object is given out again", async () => {
    const uses = (again: boolean) =>
      program<{ world: World; pool: ObjectPool }>({
        name: "pool",
        setup: (world) => ({ world, pool: poolOf(world, 2) }),
        tasks: {
          *a({ world, pool }) {
            const addr = yield* pool.take();
            yield* release(world, pool, addr);
            if (again) yield* pool.take();
            world.plainRead(addr, 4);
          },
        },
      });
    const failed = await check(uses(false));
    expect(failed.failures.map(({ property }) => property)).toEqual(["use-after-free"]);
    expect((await check(uses(true))).failures).toEqual([]);
  });
});

describe("words that are left out of the hash of states", () => {
  /** A loop that counts: it goes on for ever, and only the counter tells one round from another. */
  const counting = (leavesOut: boolean) =>
    program<{ world: World; counter: number }>({
      name: "counting",
      setup: (world) => {
        const counter = world.allocate(8, "counter");
        if (leavesOut) world.heap.leaveOutOfHash(counter, 8);
        return { world, counter };
      },
      tasks: {
        *a({ world, counter }) {
          for (const again = startLoop(world); ; ) {
            again();
            yield* note(world, "a round");
            world.plainWrite(counter, 4, world.plainRead(counter, 4) + 1, 0);
          }
        },
      },
    });

  test("a loop that only counts leads back to a known state", async () => {
    const found = await check(counting(true), { strategy: "graph" });
    expect(found.failures.map(({ property }) => property)).toEqual(["progress"]);
    const endless = await check(counting(false), { strategy: "graph", statesMax: 1000 });
    expect(endless.failures).toEqual([]);
    expect(endless.complete).toBe(false);
  });
});
