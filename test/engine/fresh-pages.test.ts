/** A page that only its allocator knows is filled at once, and nobody can tell it from a page filled word by word. */
import { expect, test } from "vitest";
import {
  assertThat,
  type Cell,
  cell,
  check,
  entryCell,
  load,
  PAGE_SIZE,
  type Program,
  program,
  store,
  type World,
} from "../../src/engine/index.ts";
import { MODELS } from "./planted/planted.ts";

interface State {
  readonly world: World;
  readonly published: Cell;
  readonly x: Cell;
}

const VALUE = 0x4000_0000;

/** Two tasks publish a page each, and look at what the other's holds. */
function publishing(fill: (state: State, page: number) => void): Program<State> {
  const side = function* (state: State) {
    const { world, published, x } = state;
    yield* store(x, 1);
    const page = world.allocate(PAGE_SIZE, "page");
    fill(state, page);
    yield* store(published, page);
    const other = yield* load(published);
    yield* load(x);
    const { hi, lo } = yield* load(entryCell(world, other, 511));
    assertThat(hi === VALUE && lo === 7, `0x${hi.toString(16)} and ${lo} are in the page`);
  };
  return program<State>({
    name: "publishing",
    setup: (world) => ({ world, published: cell(world, "published"), x: cell(world, "x") }),
    tasks: { one: side, two: side },
  });
}

const wordByWord = publishing(({ world }, page) => {
  for (let i = 0; i < 512; i++) world.plainWrite(page + 8 * i, 8, 7, VALUE);
});
const atOnce = publishing(({ world }, page) => {
  assertThat(world.fillFresh(page, PAGE_SIZE, 7, VALUE), "the page is new");
});

test.each(MODELS)("under %s both are the same to all explorers", async (model) => {
  for (const strategy of ["dpor", "graph"] as const) {
    const [slow, fast] = [await check(wordByWord, { model, strategy }), await check(atOnce, { model, strategy })];
    expect(fast.failures).toEqual([]);
    expect([fast.executions, fast.states]).toEqual([slow.executions, slow.states]);
  }
});

test("a page that was filled in a way that is wrong is seen", async () => {
  const wrong = publishing(({ world }, page) => void world.fillFresh(page, PAGE_SIZE, 6, VALUE));
  expect((await check(wrong, {})).failures.map(({ message }) => message)).toContain("0x40000000 and 6 are in the page");
});

test("others' memory, and memory that others may know by now, is not filled", async () => {
  const answers: boolean[] = [];
  const careful = program<State>({
    name: "careful",
    setup: (world) => ({ world, published: cell(world, "published"), x: cell(world, "x") }),
    tasks: {
      *one({ world, x }) {
        const page = world.allocate(PAGE_SIZE, "page");
        answers.push(world.fillFresh(page, PAGE_SIZE, 0, 0));
        answers.push(world.fillFresh(page, 2 * PAGE_SIZE, 0, 0));
        answers.push(world.fillFresh(x.addr, 8, 0, 0));
        yield* store(x, 1);
        answers.push(world.fillFresh(page, PAGE_SIZE, 0, 0));
      },
    },
  });
  await check(careful, {});
  expect(answers).toEqual([true, false, false, false]);
});
