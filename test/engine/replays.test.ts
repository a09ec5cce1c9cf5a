/** Whatever an explorer finds is shown again by the schedule that it gives, in a world that has seen nothing else. */
import { describe, expect, test } from "vitest";
import {
  assertThat,
  type Cell,
  cell,
  join,
  load,
  type Program,
  program,
  ptr,
  retire,
  type Steps,
  Struct,
  spawn,
  store,
  type World,
} from "../../src/engine/index.ts";
import { expectFound, MODELS } from "./planted/planted.ts";

interface State {
  readonly world: World;
  readonly x: Cell;
  readonly y: Cell;
}

const setup = (world: World): State => ({ world, x: cell(world, "x"), y: cell(world, "y") });

/** The second parent spawns first where it fails, while the explorer has seen the first do so before. */
const spawning = program<State>({
  name: "spawning",
  spawns: 2,
  setup,
  tasks: {
    *one({ world, x, y }) {
      if ((yield* load(y)) === 0) return;
      const child = yield* spawn(world, "c1", function* (): Steps<void> {
        yield* store(x, 1);
      });
      yield* join(world, child);
      assertThat((yield* load(y)) !== 8, "eight");
    },
    *two({ world, x, y }) {
      yield* store(y, 7);
      yield* load(x);
      const child = yield* spawn(world, "c2", function* (): Steps<void> {
        if ((yield* load(x)) === 0) yield* store(y, 8);
      });
      yield* join(world, child);
    },
  },
});

const NODE = new Struct("node", { value: ptr });

interface Shared extends State {
  readonly node: ReturnType<typeof NODE.at>;
}

/** The object is freed, and its value changed, while it is read plainly, several times, between steps that nothing orders with that. */
function racing(reads: number, ownerFirst: boolean): Program<Shared> {
  function* owner({ world, node, x, y }: Shared): Steps<void> {
    yield* store(y, 1);
    yield* store(node.value, 1);
    yield* retire(world, node.addr, "freed");
    yield* load(x);
  }
  function* user({ node, x, y }: Shared): Steps<void> {
    let sum = 0;
    for (let i = 0; i < reads; i++) {
      sum += (yield* load(y)) + node.value.value;
      if (sum > 1) yield* store(x, sum);
    }
    assertThat(sum < 2 * reads, "all were new");
  }
  return program<Shared>({
    name: "racing",
    setup: (world) => {
      const node = NODE.allocate(world, "node");
      world.makeMortal(node.addr);
      return { ...setup(world), node };
    },
    tasks: ownerFirst ? { owner, user } : { user, owner },
  });
}

describe.each(MODELS)("under %s", (model) => {
  test("where tasks are spawned in another order than the explorer first saw", async () => {
    const { failures } = await expectFound(spawning, "assertion", { model });
    expect(failures[0]?.message).toBe("eight");
    await expectFound(spawning, "assertion", { model, strategy: "graph" });
  });

  test.each([
    [1, true],
    [2, true],
    [3, true],
    [1, false],
    [2, false],
    [3, false],
  ])("where plain accesses race with what is freed: %i reads, owner first %s", async (reads, ownerFirst) => {
    const { failures } = await expectFound(racing(reads, ownerFirst), ownerFirst ? "use-after-free" : "data-race", {
      model,
    });
    expect(failures.length).toBeGreaterThan(0);
  });
});
