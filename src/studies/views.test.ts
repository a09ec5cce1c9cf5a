/** What is to be seen of a world, step by step. */
import { expect, test } from "vitest";
import { type Execution, parseSchedule, program, replay, type Steps, type World } from "../engine/index.ts";
import {
  Kernel,
  kthread,
  RwLock,
  readLock,
  readUnlock,
  SpinLock,
  spinLock,
  spinUnlock,
  writeLock,
  writeUnlock,
} from "../kernel/index.ts";
import { builtInStudy } from "./registry.ts";
import { reproduce } from "./reproduce.ts";
import { Viewer, type Views } from "./views.ts";

const observe = (state: unknown): ((execution: Execution) => Views) => {
  const viewer = new Viewer(state);
  return (execution) => viewer.views(execution);
};

interface Scene {
  readonly world: World;
  readonly spin: SpinLock;
  readonly rw: RwLock;
}

const TWO_LOCKS = program<Scene>({
  name: "two locks",
  setup: (world) => {
    const kernel = new Kernel(world);
    return { world: kernel.world, spin: new SpinLock(world, "spin"), rw: new RwLock(world, "rw") };
  },
  tasks: {
    one: ({ world, spin, rw }) =>
      kthread(
        world,
        (function* (): Steps<void> {
          yield* spinLock(spin);
          yield* spinUnlock(spin);
          yield* readLock(rw);
          yield* readUnlock(rw);
        })(),
      ),
    two: ({ world, spin, rw }) =>
      kthread(
        world,
        (function* (): Steps<void> {
          yield* spinLock(spin);
          yield* spinUnlock(spin);
          yield* writeLock(rw);
          yield* writeUnlock(rw);
        })(),
      ),
  },
});

/** What is said of the locks after each step of the schedule. */
function locksAt(schedule: string): (string | undefined)[] {
  const { observed } = replay(TWO_LOCKS, parseSchedule(schedule, 2), undefined, observe);
  return observed.map(({ Locks = {} }) => Object.values(Locks).join(" "));
}

test("who has a lock has it until the step that releases it", () => {
  expect(locksAt("sc/a2b2a2b2")).toEqual([
    "",
    "held by one; two next",
    "",
    "held by two",
    "",
    "held for read by one; two next",
    "",
    "held for write by two",
    "",
  ]);
});

test("a release that waits in a store buffer is told from holding", () => {
  const waits = locksAt("tso/a2Ab2Ba2b2B")[2];
  expect(waits).toBe("released by one, in its store buffer still; two next");
});

test("a cache is shown with its addresses, and which it has none of", async () => {
  const { replay: shown } = reproduce(await builtInStudy("gpc-refresh"), "D0h", "use:sc/a10b24a10", observe);
  const [first] = shown.observed;
  expect(first?.["gfn_to_pfn_cache"]).toMatchObject({
    "gpc->uhva": "0x10003000",
    "gpc->gpa": "none",
    "gpc->valid": "0",
  });
  expect(shown.observed.some((views) => views["gfn_to_pfn_cache"]?.["gpc->valid"] === "1")).toBe(true);
});
