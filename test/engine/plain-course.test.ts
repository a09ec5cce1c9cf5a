/**
 * Data races that decide what a task does next. Plain accesses are no events, so an explorer that has reversed two events may find a task doing something
 * else than in the execution that it branched off from: a store that it wants to see drain was never made. That is the program's fault, and is said.
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  type Cell,
  type CheckResult,
  cell,
  check,
  load,
  type MemoryModel,
  type Program,
  parseSchedule,
  program,
  replay,
  type Steps,
  store,
} from "../../src/engine/index.ts";

const MODELS: readonly MemoryModel[] = ["sc", "tso"];
/** Of a world by default. */
const TASKS_MAX = 16;

interface Places {
  readonly flag: Cell;
  readonly x: Cell;
  readonly y: Cell;
  readonly z: Cell;
}

const places = (world: Parameters<typeof cell>[0]): Places => ({
  flag: cell(world, "flag"),
  x: cell(world, "x"),
  y: cell(world, "y"),
  z: cell(world, "z"),
});

/** `a` sets the flag between two loads; what `b` does depends on it. */
function racing(b: (places: Places) => Steps<void>): Program<Places> {
  return program<Places>({
    name: "a race decides",
    setup: places,
    tasks: {
      *a({ flag, x, y }) {
        yield* load(y);
        flag.value = 1;
        yield* load(x);
      },
      b,
    },
  });
}

const messages = ({ failures }: CheckResult): string[] =>
  failures.filter(({ property }) => property === "data-race").map(({ message }) => message);

describe.each(MODELS)("under %s", (model) => {
  test.each([
    {
      what: "whether it stores",
      *b({ flag, x, y }: Places): Steps<void> {
        yield* load(x);
        if (flag.value === 1) yield* store(y, 1);
      },
    },
    {
      what: "where it stores",
      *b({ flag, x, y, z }: Places): Steps<void> {
        yield* load(x);
        yield* store(flag.value === 1 ? y : z, 1);
      },
    },
    {
      what: "whether it stores or loads",
      *b({ flag, x, y, z }: Places): Steps<void> {
        yield* load(x);
        if (flag.value === 1) yield* store(y, 1);
        else yield* load(z);
      },
    },
    {
      what: "by a marked load of what is stored plainly, whether it stores",
      *b({ flag, x, y }: Places): Steps<void> {
        yield* load(x);
        if ((yield* load(flag)) === 1) yield* store(y, 1);
      },
    },
  ])("a race that decides of a task $what is named, and not all is explored", async (task) => {
    const checked = racing((scene) => task.b(scene));
    const result = await check(checked, { model });
    expect(result.verdict).toBe("fails");
    expect(result.complete).toBe(false);
    expect(result.diverged).toBeGreaterThan(0);
    const decides = result.failures.find(({ message }) => message.includes("it decides what b does next"));
    expect(decides?.message).toMatch(/^data race on flag: .* by a.*; it decides what b does next, so mark these/);
    const again = replay(checked, parseSchedule(decides?.replay ?? "", TASKS_MAX));
    expect(again.failures.map(({ property }) => property)).toContain("data-race");
  });

  test("a race that decides only what is stored is explored", async () => {
    const result = await check(
      racing(function* ({ flag, x, y }) {
        yield* load(x);
        yield* store(y, flag.value);
      }),
      { model },
    );
    expect(result.complete).toBe(true);
    expect(result.diverged).toBe(0);
    expect(messages(result)).not.toEqual([]);
  });

  test("the same with marked accesses is explored, and holds", async () => {
    const marked = program<Places>({
      name: "marked",
      setup: places,
      tasks: {
        *a({ flag, x, y }) {
          yield* load(y);
          yield* store(flag, 1);
          yield* load(x);
        },
        *b({ flag, x, y }) {
          yield* load(x);
          if ((yield* load(flag)) === 1) yield* store(y, 1);
        },
      },
    });
    const result = await check(marked, { model });
    expect(result).toMatchObject({ verdict: "holds", complete: true, diverged: 0 });
  });
});

// --- random programs -------------------------------------------------------------------------------------------------

/** An access; one that is conditional is made when the task's last read found something. */
interface Access {
  readonly place: 0 | 1 | 2;
  readonly kind: "plain read" | "plain write" | "load" | "store";
  readonly ifFound: boolean;
}

const access: fc.Arbitrary<Access> = fc.record({
  place: fc.constantFrom(0, 1, 2),
  kind: fc.constantFrom("plain read", "plain write", "load", "store"),
  ifFound: fc.boolean(),
});

function* run(accesses: readonly Access[], cells: readonly Cell[], value: number): Steps<void> {
  let found = 1;
  for (const { place, kind, ifFound } of accesses) {
    const at = cells[place] as Cell;
    if (ifFound && found === 0) continue;
    if (kind === "plain read") found = at.value;
    else if (kind === "plain write") at.value = value;
    else if (kind === "load") found = yield* load(at);
    else yield* store(at, value);
  }
}

function randomProgram(tasks: readonly (readonly Access[])[]): Program<readonly Cell[]> {
  return program<readonly Cell[]>({
    name: "random",
    setup: (world) => ["x", "y", "z"].map((name) => cell(world, name)),
    tasks: Object.fromEntries(tasks.map((accesses, i) => [`t${i}`, (cells) => run(accesses, cells, i + 1)])),
  });
}

test.each(MODELS)("any program with plain accesses is explored or named as racy: %s", async (model) => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.array(access, { maxLength: 5 }), { minLength: 2, maxLength: 3 }), async (tasks) => {
      const checked = randomProgram(tasks);
      const result = await check(checked, { model });
      const isRacy = messages(result).length > 0;
      if (result.diverged > 0) expect(isRacy).toBe(true);
      else expect(result.complete).toBe(true);
      const sample = await check(checked, { model, strategy: "random", runs: 30, seed: 7 });
      if (messages(sample).length > 0) expect(isRacy).toBe(true);
    }),
    { numRuns: 60, seed: 11 },
  );
});
