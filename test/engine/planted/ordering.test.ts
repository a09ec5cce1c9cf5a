/** Mutual exclusion by loads and stores alone: right under SC, and on x86 only with a barrier between the store and the load. */
import { describe, expect, test } from "vitest";
import {
  assertThat,
  type Cell,
  cell,
  cells,
  fence,
  load,
  type Program,
  program,
  type Steps,
  store,
  storeNow,
  type World,
} from "../../../src/engine/index.ts";
import { expectClean, expectFound, MODELS } from "./planted.ts";

interface State {
  readonly world: World;
  readonly flag: readonly Cell[];
  readonly turn: Cell;
  /** Bookkeeping of the test: who is inside. Orders nothing. */
  readonly inside: readonly Cell[];
}

type Entry = (state: State, me: number, fenced: boolean) => Steps<boolean>;

/** Two tasks that enter if they may at once. */
function exclusion(name: string, mayEnter: Entry, fenced: boolean): Program<State> {
  function* enter(state: State, me: number): Steps<void> {
    const [mine, other] = me === 0 ? [0, 1] : [1, 0];
    if (!(yield* mayEnter(state, me, fenced))) return;
    yield* storeNow(state.inside[mine] as Cell, 1);
    const both = (yield* load(state.inside[other] as Cell)) === 1;
    assertThat(!both, "both tasks are inside", "mutual-exclusion");
    yield* storeNow(state.inside[mine] as Cell, 0);
    yield* store(state.flag[mine] as Cell, 0);
  }
  return program({
    name,
    setup: (world): State => ({
      world,
      flag: cells(world, "flag", 2),
      turn: cell(world, "turn"),
      inside: cells(world, "inside", 2),
    }),
    tasks: { zero: (state) => enter(state, 0), one: (state) => enter(state, 1) },
  });
}

function* dekker({ world, flag }: State, me: number, fenced: boolean): Steps<boolean> {
  yield* store(flag[me] as Cell, 1);
  if (fenced) yield* fence(world);
  return (yield* load(flag[1 - me] as Cell)) === 0;
}

function* peterson({ world, flag, turn }: State, me: number, fenced: boolean): Steps<boolean> {
  yield* store(flag[me] as Cell, 1);
  yield* store(turn, 1 - me);
  if (fenced) yield* fence(world);
  return (yield* load(flag[1 - me] as Cell)) === 0 || (yield* load(turn)) === me;
}

describe.each([
  ["Dekker", dekker],
  ["Peterson", peterson],
] as const)("%s's lock", (name, entry) => {
  test("without a barrier fails under TSO, with the late store in the diagram", async () => {
    const { failures } = await expectFound(exclusion(name, entry, false), "mutual-exclusion", { model: "tso" });
    expect(failures[0]?.diagram).toContain("(buffered)");
  });

  test("without a barrier holds under SC", async () => {
    await expectClean(exclusion(name, entry, false), { model: "sc" });
  });

  test.each(MODELS)("with a barrier holds under %s", async (model) => {
    await expectClean(exclusion(name, entry, true), { model });
  });
});
