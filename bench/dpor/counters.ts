/**
 * Benchmarks of loads, stores and locked instructions without waiting.
 *
 * Every access is a plain x86 access (a marked load or store) unless it is a locked instruction or a fence. The definitions are those of the
 * literature (the suites of GenMC, Nidhugg and RCMC), with the numbers that those tools and brute force agree on.
 */
import {
  type Cell,
  cell,
  cells,
  compareExchange,
  fence,
  fetchAdd,
  load,
  program,
  type Steps,
  store,
  type World,
} from "../../src/engine/index.ts";
import { at, type Benchmark, both, centralTrinomial, factorial, repeat, SMALL, same } from "./benchmark.ts";

/** One writer of x, N readers of it. */
const readers: Benchmark = {
  name: "readers",
  make: (n = 2) =>
    program({
      name: "readers",
      memory: SMALL,
      setup: (world) => cell(world, "x"),
      tasks: {
        *writer(x) {
          yield* store(x, 1);
        },
        ...repeat("reader", n, function* (x: Cell) {
          return yield* load(x);
        }),
      },
    }),
  rows: same([2, 4], [8, 256], [13, 8192]),
  count: (_, n = 0) => 2 ** n,
};

/** Writers i = 1..N: a[i] = a[i-1] + 1. A reader looks for the last zero from the end. */
const lastzero: Benchmark = {
  name: "lastzero",
  make: (n = 5) =>
    program({
      name: "lastzero",
      memory: SMALL,
      setup: (world) => cells(world, "a", n + 1),
      tasks: {
        *reader(a) {
          let i = n;
          while ((yield* load(at(a, i))) !== 0) i--;
          return i;
        },
        ...repeat("writer", n, function* (a: readonly Cell[], i) {
          yield* store(at(a, i + 1), (yield* load(at(a, i))) + 1);
        }),
      },
    }),
  rows: same([5, 64], [10, 3328], [15, 147_456]),
  count: (_, n = 0) => (n + 3) * 2 ** (n - 2),
};

/** N blind writers of x. */
const nwriters: Benchmark = {
  name: "nwriters",
  make: (n = 4) =>
    program({
      name: "nwriters",
      memory: SMALL,
      setup: (world) => cell(world, "x"),
      tasks: repeat("writer", n, function* (x: Cell, i) {
        yield* store(x, i + 1);
      }),
    }),
  rows: same([4, 24], [6, 720], [7, 5040]),
  count: (_, n = 0) => factorial(n),
};

/** N atomic increments of x. */
const ainc: Benchmark = {
  name: "ainc",
  make: (n = 3) =>
    program({
      name: "ainc",
      memory: SMALL,
      setup: (world) => cell(world, "x"),
      tasks: repeat("inc", n, function* (x: Cell) {
        yield* fetchAdd(x, 1);
      }),
    }),
  rows: same([3, 6], [5, 120], [7, 5040], [9, 362_880]),
  count: (_, n = 0) => factorial(n),
};

/** N atomic increments of x, each then of y. */
const binc: Benchmark = {
  name: "binc",
  make: (n = 2) =>
    program({
      name: "binc",
      memory: SMALL,
      setup: (world) => ({ x: cell(world, "x"), y: cell(world, "y") }),
      tasks: repeat("inc", n, function* ({ x, y }: { x: Cell; y: Cell }) {
        yield* fetchAdd(x, 1);
        yield* fetchAdd(y, 1);
      }),
    }),
  rows: same([2, 4], [3, 36], [4, 576]),
  count: (_, n = 0) => factorial(n) ** 2,
};

function* increment(x: Cell): Steps<void> {
  const r = yield* load(x);
  yield* store(x, r + 1);
}

/** N increments of x that are not atomic. */
const pinc: Benchmark = {
  name: "pinc",
  make: (n = 2) =>
    program({
      name: "pinc",
      memory: SMALL,
      setup: (world) => cell(world, "x"),
      tasks: repeat("inc", n, (x: Cell) => increment(x)),
    }),
  rows: same([2, 4], [3, 36], [4, 576]),
  count: (_, n = 0) => factorial(n) ** 2,
};

/** Tasks i = 1..N: one compare-exchange of x from i-1 to i. A failed one is a read. */
const casrot: Benchmark = {
  name: "casrot",
  make: (n = 4) =>
    program({
      name: "casrot",
      memory: SMALL,
      setup: (world) => cell(world, "x"),
      tasks: repeat("cas", n, function* (x: Cell, i) {
        yield* compareExchange(x, i, i + 1);
      }),
    }),
  rows: same([2, 2], [3, 5], [4, 14], [5, 43], [6, 144], [7, 523], [8, 2048], [9, 8597]),
};

/** One task stores 2 to x, N try to exchange a 2 for a 3. */
const wcas: Benchmark = {
  name: "wcas",
  make: (n = 2) =>
    program({
      name: "wcas",
      memory: SMALL,
      setup: (world) => cell(world, "x"),
      tasks: {
        *writer(x) {
          yield* store(x, 2);
        },
        ...repeat("cas", n, function* (x: Cell) {
          yield* compareExchange(x, 2, 3);
        }),
      },
    }),
  rows: same([2, 5], [3, 13], [4, 33], [5, 81], [6, 193], [7, 449], [8, 1025], [9, 2305]),
  count: (_, n = 0) => n * 2 ** (n - 1) + 1,
};

/** x = x + y against y = y + x, K times each, from 1 and 1. */
const fib: Benchmark = {
  name: "fib",
  make: (k = 2) => {
    function* add(mine: Cell, theirs: Cell): Steps<void> {
      for (let i = 0; i < k; i++) {
        const a = yield* load(mine);
        const b = yield* load(theirs);
        yield* store(mine, a + b);
      }
    }
    return program({
      name: "fib",
      memory: SMALL,
      setup: (world) => ({ x: cell(world, "x", 1), y: cell(world, "y", 1) }),
      tasks: { a: ({ x, y }) => add(x, y), b: ({ x, y }) => add(y, x) },
    });
  },
  // Sequences of drains are more than graphs under TSO: 288, 6089, 155856 for 3, 4, 5.
  rows: both([1, 3, 3], [2, 19, 20], [3, 141, 175], [4, 1107, 1764], [5, 8953, 19_404], [6, 73_789, 226_512]),
};

const SLOTS = 128;

/** N tasks put four values each into a hash table by compare-exchange; they only meet where slots collide. */
const indexer: Benchmark = {
  name: "indexer",
  make: (n = 11) =>
    program({
      name: "indexer",
      memory: SMALL,
      setup: (world) => cells(world, "t", SLOTS),
      tasks: repeat("put", n, function* (t: readonly Cell[], id) {
        for (let m = 0; m < 4; m++) {
          const w = m * 11 + id;
          let h = (w * 7) % SLOTS;
          while ((yield* compareExchange(at(t, h), 0, w)) !== 0) h = (h + 1) % SLOTS;
        }
      }),
    }),
  rows: same([11, 1], [12, 8], [13, 64], [14, 512], [15, 4096]),
  count: (_, n = 0) => 8 ** (n - 11),
};

/** A ring of N tasks: store to the own location, load the next one. */
function storeBuffering(name: string, fenced: boolean): Benchmark["make"] {
  return (n = 2) =>
    program({
      name,
      memory: SMALL,
      setup: (world) => ({ world, x: cells(world, "x", n) }),
      tasks: repeat("t", n, function* ({ world, x }: { world: World; x: readonly Cell[] }, i) {
        yield* store(at(x, i), 1);
        if (fenced) yield* fence(world);
        return yield* load(at(x, (i + 1) % n));
      }),
    });
}

const sb: Benchmark = {
  name: "sb",
  make: storeBuffering("sb", false),
  rows: both([2, 3, 4], [3, 7, 8], [4, 15, 16], [6, 63, 64], [8, 255, 256]),
  count: (model, n = 0) => (model === "sc" ? 2 ** n - 1 : 2 ** n),
};

const sbFenced: Benchmark = {
  name: "sb+mf",
  make: storeBuffering("sb+mf", true),
  rows: same([3, 7], [4, 15], [6, 63]),
  count: (_, n = 0) => 2 ** n - 1,
};

/** A ring of N tasks: load the own location, store to the next one. */
const lb: Benchmark = {
  name: "lb",
  make: (n = 2) =>
    program({
      name: "lb",
      memory: SMALL,
      setup: (world) => cells(world, "x", n),
      tasks: repeat("t", n, function* (x: readonly Cell[], i) {
        const r = yield* load(at(x, i));
        yield* store(at(x, (i + 1) % n), 1);
        return r;
      }),
    }),
  rows: same([3, 7], [4, 15], [6, 63], [8, 255]),
  count: (_, n = 0) => 2 ** n - 1,
};

/** A writer of data and flag, K times; a reader of flag and data, K times. */
const mp: Benchmark = {
  name: "mp",
  make: (k = 1) =>
    program({
      name: "mp",
      memory: SMALL,
      setup: (world) => ({ data: cell(world, "d"), flag: cell(world, "f") }),
      tasks: {
        *writer({ data, flag }) {
          for (let i = 1; i <= k; i++) {
            yield* store(data, i);
            yield* store(flag, i);
          }
        },
        *reader({ data, flag }) {
          for (let i = 1; i <= k; i++) {
            yield* load(flag);
            yield* load(data);
          }
        },
      },
    }),
  rows: same([1, 3], [2, 19], [3, 141], [4, 1107], [5, 8953], [6, 73_789], [7, 616_227]),
  count: (_, k = 0) => centralTrinomial(2 * k),
};

/** Store buffering, K times. */
const sbk: Benchmark = {
  name: "sbk",
  make: (k = 1) => {
    function* side(mine: Cell, theirs: Cell): Steps<void> {
      for (let i = 1; i <= k; i++) {
        yield* store(mine, i);
        yield* load(theirs);
      }
    }
    return program({
      name: "sbk",
      memory: SMALL,
      setup: (world) => ({ x: cell(world, "x"), y: cell(world, "y") }),
      tasks: { a: ({ x, y }) => side(x, y), b: ({ x, y }) => side(y, x) },
    });
  },
  rows: both([1, 3, 4], [2, 19, 35], [3, 141, 364], [4, 1107, 4116], [5, 8953, 49_104], [6, 73_789, 608_751]),
};

/** N tasks: a compare-exchange of x from 0, then a store of a value that no other task writes. */
const casw: Benchmark = {
  name: "casw",
  make: (n = 2) =>
    program({
      name: "casw",
      memory: SMALL,
      setup: (world) => cell(world, "x"),
      tasks: repeat("t", n, function* (x: Cell, i) {
        yield* compareExchange(x, 0, 1);
        yield* store(x, i + 2);
      }),
    }),
  // The suite of GenMC lists 6, 66, 1200, 32880 for N = 2..5.
  rows: same([2, 6], [3, 66], [4, 1200], [5, 32_880]),
};

export const COUNTERS: readonly Benchmark[] = [
  readers,
  lastzero,
  nwriters,
  ainc,
  binc,
  pinc,
  casrot,
  wcas,
  casw,
  fib,
  indexer,
  sb,
  sbFenced,
  lb,
  mp,
  sbk,
];
