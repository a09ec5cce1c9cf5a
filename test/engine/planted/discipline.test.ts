/** The use of locks and of RCU. */
import { describe, expect, test } from "vitest";
import {
  type Cell,
  cell,
  check,
  choose,
  exchange,
  load,
  type Program,
  program,
  ptr,
  type Steps,
  Struct,
  store,
  type World,
} from "../../../src/engine/index.ts";
import {
  assertHeld,
  hardirq,
  Kernel,
  KmemCache,
  kmemCacheAlloc,
  kmemCacheFree,
  Mutex,
  mutexLock,
  mutexUnlock,
  rcuDereference,
  rcuReadLock,
  rcuReadUnlock,
  SpinLock,
  spinLock,
  spinLockIrq,
  spinUnlock,
  spinUnlockIrq,
  synchronizeRcu,
} from "../../../src/kernel/index.ts";
import { expectClean, expectFound, MODELS } from "./planted.ts";

const ITEM = new Struct("item", { value: ptr });
type Item = ReturnType<typeof ITEM.at>;

interface State {
  readonly world: World;
  readonly kernel: Kernel;
  readonly a: SpinLock;
  readonly b: SpinLock;
  readonly c: SpinLock;
  readonly mutex: Mutex;
  readonly x: Cell;
  readonly head: Cell;
  readonly cache: KmemCache<Item>;
}

type Tasks = Readonly<Record<string, (state: State) => Steps<unknown>>>;

function kernelProgram(name: string, tasks: Tasks): Program<State> {
  return program<State>({
    name,
    setup: (world) => ({
      world,
      kernel: new Kernel(world),
      a: new SpinLock(world, "a"),
      b: new SpinLock(world, "b"),
      c: new SpinLock(world, "c"),
      mutex: new Mutex(world, "mutex"),
      x: cell(world, "x"),
      head: cell(world, "head"),
      cache: new KmemCache(world, ITEM, { objects: 1 }),
    }),
    tasks,
  });
}

function* nested(outer: SpinLock, inner: SpinLock): Steps<void> {
  yield* spinLock(outer);
  yield* spinLock(inner);
  yield* spinUnlock(inner);
  yield* spinUnlock(outer);
}

const inversion = (ordered: boolean): Program<State> =>
  kernelProgram("inversion", {
    one: ({ a, b }) => nested(a, b),
    two: ({ a, b }) => (ordered ? nested(a, b) : nested(b, a)),
  });

/** One task that takes the locks in either order, but never in both in one execution. */
const inversionByChoice = (ordered: boolean): Program<State> =>
  kernelProgram("inversion by choice", {
    *one({ world, a, b }) {
      if ((yield* choose(world, 2)) === 0 || ordered) yield* nested(a, b);
      else yield* nested(b, a);
    },
    *other({ b }) {
      yield* spinLock(b);
      yield* spinUnlock(b);
    },
  });

/** Three locks, each of which is taken inside another: a, b; b, c; c, a. */
const circle = (closed: boolean): Program<State> =>
  kernelProgram("circle", {
    one: ({ a, b }) => nested(a, b),
    two: ({ b, c }) => nested(b, c),
    three: ({ a, c }) => (closed ? nested(c, a) : nested(a, c)),
  });

const sleeping = (mutexFirst: boolean): Program<State> =>
  kernelProgram("sleeping", {
    *sleeper({ a, mutex }) {
      if (mutexFirst) yield* mutexLock(mutex);
      yield* spinLock(a);
      if (!mutexFirst) yield* mutexLock(mutex);
      if (!mutexFirst) yield* mutexUnlock(mutex);
      yield* spinUnlock(a);
      if (mutexFirst) yield* mutexUnlock(mutex);
    },
  });

function* changeX({ a, x }: State): Steps<void> {
  assertHeld(a);
  yield* store(x, 1);
}

const notHeld = (locked: boolean): Program<State> =>
  kernelProgram("not held", {
    *writer(state) {
      if (locked) yield* spinLock(state.a);
      yield* changeX(state);
      if (locked) yield* spinUnlock(state.a);
    },
  });

const heldAtExit = (tidy: boolean): Program<State> =>
  kernelProgram("held at exit", {
    *hasty({ a, x }) {
      yield* spinLock(a);
      if (!tidy && (yield* load(x)) === 1) return;
      yield* spinUnlock(a);
    },
    *setter({ x }) {
      yield* store(x, 1);
    },
  });

const interrupted = (safe: boolean): Program<State> =>
  kernelProgram("interrupted", {
    *thread({ a }) {
      yield* safe ? spinLockIrq(a) : spinLock(a);
      if (safe) yield* spinUnlockIrq(a);
      else yield* spinUnlock(a);
    },
    handler: ({ world, a }) =>
      hardirq(
        world,
        (function* handler(): Steps<void> {
          yield* spinLock(a);
          yield* spinUnlock(a);
        })(),
      ),
  });

/** A list of one item, read under RCU; the updater takes it off and frees it. */
function list({ section = true, blocks = false, gracePeriod = true }): Program<State> {
  return kernelProgram("list", {
    *reader({ world, kernel, mutex, head }) {
      if (section) yield* rcuReadLock(kernel.rcu);
      const addr = yield* rcuDereference(kernel.rcu, head);
      if (blocks) {
        yield* mutexLock(mutex);
        yield* mutexUnlock(mutex);
      }
      if (addr !== 0) yield* load(ITEM.at(world, addr).value);
      if (section) yield* rcuReadUnlock(kernel.rcu);
    },
    *updater({ kernel, cache, head }) {
      const item = yield* kmemCacheAlloc(cache);
      yield* store(item.value, 1);
      yield* store(head, item.addr);
      yield* exchange(head, 0);
      if (gracePeriod) yield* synchronizeRcu(kernel.rcu);
      yield* kmemCacheFree(cache, item);
    },
  });
}

const BUGS: readonly (readonly [string, string, RegExp, Program<State>, Program<State>])[] = [
  ["a lock order inversion", "lock-order", /^a and b are taken in both orders/, inversion(false), inversion(true)],
  ["sleeping in atomic context", "sleeping-in-atomic", /holds a/, sleeping(false), sleeping(true)],
  ["a lock not held where it is asserted", "lock-not-held", /without holding a/, notHeld(false), notHeld(true)],
  ["a lock held at exit", "lock-held-at-exit", /still holds a/, heldAtExit(false), heldAtExit(true)],
  ["a lock that interrupts make unsafe", "irq-unsafe-lock", /interrupt context/, interrupted(false), interrupted(true)],
  ["a dereference outside an RCU section", "rcu-dereference", /outside/, list({ section: false }), list({})],
  ["blocking inside an RCU section", "sleeping-in-atomic", /RCU read-side/, list({ blocks: true }), list({})],
  ["a missed grace period", "use-after-free", /freed/, list({ gracePeriod: false }), list({})],
];

describe.each(MODELS)("under %s", (model) => {
  test.each(BUGS)("%s is found, and not where there is none", async (_name, property, message, bug, fixed) => {
    const { failures } = await expectFound(bug, property, { model });
    expect(failures.find((failure) => failure.property === property)?.message).toMatch(message);
    await expectClean(fixed, { model });
  });

  test("a lock order inversion is reported with both sides: who takes what, in which function and line, and in the diagram", async () => {
    const { failures } = await expectFound(inversion(false), "lock-order", { model });
    const { message = "", diagram = "" } = failures.find(({ property }) => property === "lock-order") ?? {};
    const side = (task: string, locks: string): RegExp =>
      new RegExp(
        `; ${task} takes ${locks} \\(nested\\(\\) in discipline\\.test\\.ts:\\d+, nested\\(\\) in discipline\\.test\\.ts:\\d+\\)`,
      );
    expect(message).toMatch(side("one", "a, then b"));
    expect(message).toMatch(side("two", "b, then a"));
    expect(diagram.match(/spin_lock\(&a\)/g)).toHaveLength(2);
    expect(diagram.match(/spin_lock\(&b\)/g)).toHaveLength(2);
    // Without being asked, the deadlock that comes of it is found too.
    expect(failures.map(({ property }) => property)).toEqual(["deadlock", "lock-order"]);
  });

  test("locks taken in a circle are reported with all sides", async () => {
    const { failures } = await expectFound(circle(true), "lock-order", { model });
    const { message = "", diagram = "" } = failures.find(({ property }) => property === "lock-order") ?? {};
    expect(message).toMatch(/^a, b, c are taken in orders that go round in a circle; one .*; two .*; three /);
    expect(diagram.match(/spin_lock\(&c\)/g)).toHaveLength(2);
    await expectClean(circle(false), { model });
  });

  test("orders that are never in one execution are compared too, each side with a diagram of its own", async () => {
    const { failures } = await check(inversionByChoice(false), { model });
    expect(failures.map(({ property }) => property)).toEqual(["lock-order"]);
    const { message = "", diagram = "" } = failures[0] ?? {};
    expect(message).toMatch(/^a and b are taken in both orders; one takes a, then b .*; one takes b, then a /);
    expect(message).toMatch(/each in an execution of its own$/);
    expect(diagram.match(/CPU 0 \(one\)/g)).toHaveLength(2);
    for (const line of diagram.split("\n")) expect(line.length).toBeLessThanOrEqual(72);
    await expectClean(inversionByChoice(true), { model });
  });

  test("a lock used in interrupts is reported with both uses", async () => {
    const { failures } = await expectFound(interrupted(false), "irq-unsafe-lock", { model });
    expect(failures[0]?.message).toMatch(/; thread takes a with interrupts enabled \(thread\(\) in \S+:\d+\)/);
    expect(failures[0]?.message).toMatch(/; handler takes a in interrupt context \(handler\(\) in \S+:\d+\)/);
    expect(failures[0]?.diagram.match(/spin_lock\(&a\)/g)).toHaveLength(2);
  });
});
