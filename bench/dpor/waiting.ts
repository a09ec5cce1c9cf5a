/**
 * Benchmarks of locks and other things that wait.
 *
 * A wait for a location is an operation that is disabled until it can succeed, so it costs no execution (`blocked` is 0 where other tools
 * explore failing tries). A condition on what was loaded before, as in Peterson's lock ("go on if r==0 or s==i"), is no wait for a
 * location: the execution in which it is false ends there, with the task waiting for ever. So does a reader of a seqlock whose sequence has
 * moved on. Those executions are complete graphs of their own; they are allowed (`mayBlock`) and counted apart, as `waiting`.
 */
import {
  acquire,
  awaitUntil,
  type Cell,
  cell,
  cells,
  compareExchange,
  exchange,
  fence,
  fetchAdd,
  load,
  type Operation,
  program,
  type Steps,
  store,
  type World,
} from "../../src/engine/index.ts";
import { at, type Benchmark, factorial, repeat, SMALL, same } from "./benchmark.ts";

/** Goes no further: the execution does not count. */
function giveUp(nothing: Cell): Operation<number> {
  return awaitUntil(nothing, () => false, "the condition is false");
}

function* increment(x: Cell): Steps<void> {
  const r = yield* load(x);
  yield* store(x, r + 1);
}

const isFree = (value: number): boolean => value === 0;

/** A ticket lock, taken once by each of N tasks. */
const ticket: Benchmark = {
  name: "ticket",
  make: (n = 2) =>
    program({
      name: "ticket",
      memory: SMALL,
      setup: (world) => ({ next: cell(world, "next"), owner: cell(world, "owner"), d: cell(world, "d") }),
      tasks: repeat("t", n, function* ({ next, owner, d }: { next: Cell; owner: Cell; d: Cell }) {
        const mine = yield* fetchAdd(next, 1);
        yield* awaitUntil(owner, (serving) => serving === mine);
        yield* increment(d);
        yield* store(owner, mine + 1);
      }),
      final: ({ d }) => d.peek() === n,
    }),
  rows: same([2, 2], [3, 6], [4, 24], [5, 120]),
  count: (_, n = 0) => factorial(n),
};

/** A lock whose taking is one step: an exchange that found it free, or an acquiring operation. */
function simpleLock(name: string): Benchmark["make"] {
  return (n = 2) =>
    program({
      name,
      memory: SMALL,
      setup: (world) => ({ l: cell(world, "l"), d: cell(world, "d") }),
      tasks: repeat("t", n, function* ({ l, d }: { l: Cell; d: Cell }, i) {
        yield* acquire(l, isFree, () => (name === "tas" ? 1 : i + 1));
        yield* increment(d);
        yield* store(l, 0);
      }),
      final: ({ d }) => d.peek() === n,
    });
}

/** A test-and-set lock. */
const tas: Benchmark = {
  name: "tas",
  make: simpleLock("tas"),
  rows: same([2, 2], [3, 6], [4, 24], [5, 120]),
  count: (_, n = 0) => factorial(n),
};

const mutex: Benchmark = {
  name: "mutex",
  make: simpleLock("mutex"),
  rows: same([2, 2], [3, 6], [4, 24], [5, 120], [6, 720]),
  count: (_, n = 0) => factorial(n),
};

interface McsState {
  readonly tail: Cell;
  readonly next: readonly Cell[];
  readonly go: readonly Cell[];
  readonly d: Cell;
}

/** The queue lock of Mellor-Crummey and Scott, taken once by each of N tasks; nodes are 1..N. */
const mcs: Benchmark = {
  name: "mcs",
  make: (n = 2) =>
    program({
      name: "mcs",
      memory: SMALL,
      setup: (world): McsState => ({
        tail: cell(world, "tail"),
        next: cells(world, "next", n + 1),
        go: cells(world, "go", n + 1),
        d: cell(world, "d"),
      }),
      tasks: repeat("t", n, function* (state: McsState, i) {
        const { tail, next, go, d } = state;
        const me = i + 1;
        yield* store(at(next, me), 0);
        yield* store(at(go, me), 0);
        const before = yield* exchange(tail, me);
        if (before !== 0) {
          yield* store(at(next, before), me);
          yield* awaitUntil(at(go, me), (value) => value === 1);
        }
        yield* increment(d);
        let after = yield* load(at(next, me));
        if (after === 0) {
          if ((yield* compareExchange(tail, me, 0)) === me) return;
          after = yield* awaitUntil(at(next, me), (value) => value !== 0);
        }
        yield* store(at(go, after), 1);
      }),
      final: ({ d }) => d.peek() === n,
    }),
  rows: same([2, 6], [3, 66]),
};

interface PetersonState {
  readonly world: World;
  /** A location that nobody writes. */
  readonly nothing: Cell;
  readonly flag: readonly Cell[];
  readonly turn: Cell;
  readonly d: Cell;
}

/** Peterson's lock with its fence, one pass; a task that may not enter at once gives up. */
const peterson: Benchmark = {
  name: "peterson",
  make: () =>
    program({
      name: "peterson",
      memory: SMALL,
      mayBlock: true,
      setup: (world): PetersonState => ({
        world,
        nothing: cell(world, "nothing"),
        flag: cells(world, "fl", 2),
        turn: cell(world, "turn"),
        d: cell(world, "d"),
      }),
      tasks: repeat("t", 2, function* ({ world, nothing, flag, turn, d }: PetersonState, i) {
        yield* store(at(flag, i), 1);
        yield* store(turn, 1 - i);
        yield* fence(world);
        const other = yield* load(at(flag, 1 - i));
        const favoured = yield* load(turn);
        if (other !== 0 && favoured !== i) yield* giveUp(nothing);
        yield* increment(d);
        yield* store(at(flag, i), 0);
      }),
      final: ({ d }) => d.peek() === 2,
    }),
  rows: same([[], 6]),
  count: () => 6,
};

interface Treiber {
  readonly top: Cell;
  readonly next: readonly Cell[];
}

/** N pushers and M poppers of a lock-free stack; a failed compare-exchange is tried again. */
const treiber: Benchmark = {
  name: "treiber",
  make: (n = 1, m = 1) =>
    program({
      name: "treiber",
      memory: SMALL,
      setup: (world): Treiber => ({ top: cell(world, "top"), next: cells(world, "next", n + 1) }),
      tasks: {
        ...repeat("push", n, function* ({ top, next }: Treiber, i) {
          const node = i + 1;
          let first: number;
          do {
            first = yield* load(top);
            yield* store(at(next, node), first);
          } while ((yield* compareExchange(top, first, node)) !== first);
        }),
        ...repeat("pop", m, function* ({ top, next }: Treiber) {
          for (;;) {
            const first = yield* load(top);
            if (first === 0) return 0;
            const second = yield* load(at(next, first));
            if ((yield* compareExchange(top, first, second)) === first) return first;
          }
        }),
      },
    }),
  rows: same([[1, 1], 2], [[2, 1], 22], [[3, 1], 1002], [[4, 1], 160_200], [[1, 2], 7], [[2, 2], 220]),
};

interface SeqlockState {
  readonly s: Cell;
  readonly a: Cell;
  readonly b: Cell;
}

/** A seqlock with W writes and N readers that read once: one that finds the sequence changed waits for ever for it to change back. */
const seqlock: Benchmark = {
  name: "seqlock",
  make: (n = 1, w = 1) =>
    program({
      name: "seqlock",
      memory: SMALL,
      mayBlock: true,
      setup: (world): SeqlockState => ({
        s: cell(world, "s"),
        a: cell(world, "a"),
        b: cell(world, "b"),
      }),
      tasks: {
        *writer({ s, a, b }) {
          for (let i = 1; i <= w; i++) {
            yield* store(s, 2 * i - 1);
            yield* store(a, i);
            yield* store(b, i);
            yield* store(s, 2 * i);
          }
        },
        ...repeat("reader", n, function* ({ s, a, b }: SeqlockState) {
          const before = yield* awaitUntil(s, (value) => value % 2 === 0);
          const first = yield* load(a);
          const second = yield* load(b);
          yield* awaitUntil(s, (value) => value === before);
          return first === second;
        }),
      },
      final: (_, results) => Object.entries(results).every(([name, value]) => name === "writer" || value === true),
    }),
  rows: same([[1, 1], 2], [[2, 1], 4], [[3, 1], 8], [[1, 2], 3], [[2, 2], 9]),
  count: (_, n = 0, w = 0) => (w + 1) ** n,
};

interface RcuState {
  readonly world: World;
  readonly rd: readonly Cell[];
  readonly obj: readonly Cell[];
  readonly cur: Cell;
}

/** Userspace RCU with the grace period written out: an object is replaced, its readers are waited for, and it is spoiled. */
const rcu: Benchmark = {
  name: "rcu",
  make: (n = 1) =>
    program({
      name: "rcu",
      memory: SMALL,
      setup: (world): RcuState => ({
        world,
        rd: cells(world, "rd", n),
        obj: cells(world, "obj", 3),
        cur: cell(world, "cur", 1),
      }),
      tasks: {
        ...repeat("reader", n, function* ({ world, rd, obj, cur }: RcuState, i) {
          yield* store(at(rd, i), 1);
          yield* fence(world);
          const p = yield* load(cur);
          const value = yield* load(at(obj, p));
          yield* store(at(rd, i), 0);
          return value !== 99;
        }),
        *updater({ world, rd, obj, cur }) {
          yield* store(at(obj, 2), 5);
          yield* store(cur, 2);
          yield* fence(world);
          for (const reading of rd) yield* awaitUntil(reading, isFree);
          yield* store(at(obj, 1), 99);
          return true;
        },
      },
      final: (_, results) => Object.values(results).every((value) => value === true),
    }),
  rows: same([1, 3], [2, 9], [3, 27], [4, 81], [5, 243]),
  count: (_, n = 0) => 3 ** n,
};

export const WAITING: readonly Benchmark[] = [ticket, tas, mutex, mcs, peterson, treiber, seqlock, rcu];
