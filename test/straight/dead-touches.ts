/** Touches objects that have died, each kind of access once, as straight lines; prints what was said of each. */
import "../../bench/speed/straight/hooks.ts";

const engine = await import("../../src/engine/index.ts");
const { Cell, Struct, u32, u53, u64 } = engine;

const world = new engine.World({ staticBytes: 2 ** 16, arenaBytes: 2 ** 16, tasksMax: 1 });
const THING = new Struct("thing", { number: u53, word: u32 });
const thing = THING.allocate(world, "thing");
const table = world.allocate(4096, "table");
const entry = new Cell<ReturnType<typeof u64>>(world, table + 8, 8, true);
/** Views have methods for their fields here (bench/speed/straight/view.ts). */
const methods = thing as unknown as Record<string, () => number>;

const TOUCHES: Readonly<Record<string, () => unknown>> = {
  load: () => engine.load(thing.number),
  store: () => engine.store(thing.number, 1),
  exchange: () => engine.exchange(entry, u64(1, 1)),
  "compare-exchange": () => engine.compareExchange(entry, u64(0, 0), u64(1, 1)),
  add: () => engine.fetchAdd(thing.word, 1),
  "plain read": () => thing.number.value,
  "plain write": () => {
    thing.word.value = 1;
  },
  "field's plain read": () => methods["number$value"]?.(),
  "field's load": () => methods["word$load"]?.(),
  "entry's load": () => engine.loadEntry(world, entry.addr),
  "entry's store": () => engine.storeEntry(world, entry.addr, u64(1, 1)),
  "entry's exchange": () => engine.exchangeEntry(world, entry.addr, u64(1, 1)),
  "entry's compare-exchange": () => engine.compareExchangeEntry(world, entry.addr, u64(0, 0), u64(1, 1)),
};

function saidOf(touch: () => unknown): string {
  try {
    touch();
    return "nothing";
  } catch (error) {
    const { property, message } = error as { property?: string; message: string };
    return `${property}: ${message}`;
  }
}

// A task is a function here, so steps need not be steps.
engine.runSequentially(world, 0, "toucher", () => {
  for (const [name, touch] of Object.entries(TOUCHES)) {
    const alive = saidOf(touch);
    for (const addr of [thing.addr, table]) engine.retire(world, addr, "freed");
    const dead = saidOf(touch);
    for (const addr of [thing.addr, table]) engine.revive(world, addr);
    process.stdout.write(`${name} | ${alive} | ${dead}\n`);
  }
  return [][Symbol.iterator]() as never;
});
