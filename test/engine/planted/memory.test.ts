/** Data races and the life of objects. */
import { describe, expect, test } from "vitest";
import {
  awaitUntil,
  type Cell,
  cell,
  compareExchange,
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
  Kernel,
  KmemCache,
  kmemCacheAlloc,
  kmemCacheFree,
  rcuReadLock,
  rcuReadUnlock,
  SpinLock,
  spinLock,
  spinUnlock,
  synchronizeRcu,
} from "../../../src/kernel/index.ts";
import { expectClean, expectFound, MODELS } from "./planted.ts";

const NODE = new Struct("node", { next: ptr, value: ptr });
type Node = ReturnType<typeof NODE.at>;

interface State {
  readonly world: World;
  readonly kernel: Kernel;
  readonly cache: KmemCache<Node>;
  readonly lock: SpinLock;
  readonly head: Cell;
  readonly counter: Cell;
}

function setup(objects: number, options: { readonly reuse?: boolean; readonly mayLeak?: boolean } = {}) {
  return (world: World): State => ({
    world,
    kernel: new Kernel(world),
    cache: new KmemCache(world, NODE, { objects, ...options }),
    lock: new SpinLock(world, "lock"),
    head: cell(world, "head"),
    counter: cell(world, "counter"),
  });
}

/** Two increments of a plain counter. */
function counting(locked: boolean): Program<State> {
  function* increment({ lock, counter }: State): Steps<void> {
    if (locked) yield* spinLock(lock);
    counter.value++;
    if (locked) yield* spinUnlock(lock);
  }
  return program({ name: "counting", setup: setup(1), tasks: { a: increment, b: increment } });
}

/** An object is published, looked at, and freed. */
function published(locked: boolean): Program<State> {
  return program<State>({
    name: "published",
    setup: setup(1),
    tasks: {
      *owner({ cache, lock, head }) {
        const node = yield* kmemCacheAlloc(cache);
        yield* store(head, node.addr);
        if (locked) yield* spinLock(lock);
        yield* store(head, 0);
        if (locked) yield* spinUnlock(lock);
        yield* kmemCacheFree(cache, node);
      },
      *user({ world, lock, head }) {
        if (locked) yield* spinLock(lock);
        const addr = yield* load(head);
        if (addr !== 0) yield* load(NODE.at(world, addr).value);
        if (locked) yield* spinUnlock(lock);
      },
    },
  });
}

/**
 * An object is read plainly in the middle of a step, after others of the task's steps that nothing orders with its end. With `again` the same is read
 * before that, which is no mistake as long as the object lives: a shortened schedule must not have it die earlier.
 */
function readInside({ locked = false, again = false, ownerFirst = true }): Program<State> {
  function* owner({ cache, lock, head, counter }: State): Steps<void> {
    const node = yield* kmemCacheAlloc(cache);
    yield* store(head, node.addr);
    if (locked) yield* spinLock(lock);
    yield* exchange(head, 0);
    if (locked) yield* spinUnlock(lock);
    yield* kmemCacheFree(cache, node);
    yield* store(counter, 1);
  }
  function* user({ world, lock, head, counter }: State): Steps<void> {
    if (locked) yield* spinLock(lock);
    const addr = yield* load(head);
    if (addr !== 0) {
      const node = NODE.at(world, addr);
      if (again) void node.value.value;
      const freed = yield* load(counter);
      void node.value.value;
      if (freed === 1) yield* load(head);
    }
    if (locked) yield* spinUnlock(lock);
  }
  const tasks = ownerFirst ? { owner, user } : { user, owner };
  return program<State>({ name: "read inside", setup: setup(1), tasks });
}

/** Two tasks take what is there and free it. */
function freeing(atomic: boolean): Program<State> {
  function* takeAndFree({ world, cache, head }: State): Steps<void> {
    let addr: number;
    if (atomic) addr = yield* exchange(head, 0);
    else {
      addr = yield* load(head);
      yield* store(head, 0);
    }
    if (addr !== 0) yield* kmemCacheFree(cache, NODE.at(world, addr));
  }
  return program<State>({
    name: "freeing",
    setup: setup(1),
    tasks: {
      *owner(state) {
        const node = yield* kmemCacheAlloc(state.cache);
        yield* exchange(state.head, node.addr);
        yield* takeAndFree(state);
      },
      other: takeAndFree,
    },
  });
}

/** Whoever is second to install an object has to free its own. */
function installing(tidy: boolean): Program<State> {
  function* install({ cache, head }: State): Steps<void> {
    const node = yield* kmemCacheAlloc(cache);
    if ((yield* compareExchange(head, 0, node.addr)) !== 0) {
      if (tidy) yield* kmemCacheFree(cache, node);
      return;
    }
    yield* kmemCacheFree(cache, node);
  }
  return program({ name: "installing", setup: setup(2), tasks: { a: install, b: install } });
}

/**
 * A lock-free stack of nodes that are freed and handed out again. A task that has read the first node and its successor can find the same node first
 * again when it compares and exchanges, although both were taken off in between: the successor is then a freed one.
 */
function stack(gracePeriod: boolean): Program<State> {
  function* push({ head }: State, node: Node): Steps<void> {
    for (;;) {
      const first = yield* load(head);
      yield* store(node.next, first);
      if ((yield* compareExchange(head, first, node.addr)) === first) return;
    }
  }
  function* pop({ world, kernel, head }: State): Steps<Node | null> {
    if (gracePeriod) yield* rcuReadLock(kernel.rcu);
    let taken: Node | null = null;
    for (;;) {
      const first = yield* load(head);
      if (first === 0) break;
      const second = yield* load(NODE.at(world, first).next);
      if ((yield* compareExchange(head, first, second)) !== first) continue;
      taken = NODE.at(world, first);
      break;
    }
    if (gracePeriod) yield* rcuReadUnlock(kernel.rcu);
    return taken;
  }
  function* popAndFree(state: State): Steps<void> {
    const node = yield* pop(state);
    if (node === null) return;
    if (gracePeriod) yield* synchronizeRcu(state.kernel.rcu);
    yield* kmemCacheFree(state.cache, node);
  }
  return program<State>({
    name: "stack",
    setup: setup(2, { reuse: true, mayLeak: true }),
    tasks: {
      *popper(state) {
        yield* awaitUntil(state.counter, (ready) => ready === 1);
        yield* pop(state);
      },
      *recycler(state) {
        const first = yield* kmemCacheAlloc(state.cache);
        const second = yield* kmemCacheAlloc(state.cache);
        yield* push(state, second);
        yield* push(state, first);
        yield* store(state.counter, 1);
        yield* popAndFree(state);
        yield* popAndFree(state);
        const recycled = yield* kmemCacheAlloc(state.cache);
        yield* push(state, recycled);
      },
    },
    final: ({ world, head }) => {
      for (let addr = head.peek(); addr !== 0; addr = NODE.at(world, addr).next.peek()) {
        if (world.deathOf(addr) !== null) return `the stack holds ${world.nameOf(addr)}, which is freed`;
      }
      return undefined;
    },
  });
}

describe.each(MODELS)("under %s", (model) => {
  test("a data race is found, with both accesses", async () => {
    const { failures } = await expectFound(counting(false), "data-race", { model });
    expect(failures[0]?.message).toMatch(/data race on counter: plain \w+ by \w, plain access by \w/);
    await expectClean(counting(true), { model });
  });

  test("a use after free is found", async () => {
    const { failures } = await expectFound(published(false), "use-after-free", { model });
    expect(failures[0]?.diagram).toContain("freed");
    await expectClean(published(true), { model });
  });

  test.each([true, false])(
    "a use after free by a plain read in the middle of a step is found (owner first: %s)",
    async (ownerFirst) => {
      for (const again of [false, true]) {
        const { failures } = await expectFound(readInside({ again, ownerFirst }), "use-after-free", { model });
        const failure = failures.find(({ property }) => property === "use-after-free");
        expect(failure?.message).toMatch(/^plain read of node#0->value: /);
        expect(failure?.diagram).toContain("freed");
      }
      await expectClean(readInside({ locked: true, ownerFirst }), { model });
      await expectClean(readInside({ locked: true, again: true, ownerFirst }), { model });
    },
  );

  test("a double free is found", async () => {
    await expectFound(freeing(false), "double-free", { model });
    await expectClean(freeing(true), { model });
  });

  test("a leak is found", async () => {
    const { failures } = await expectFound(installing(false), "leak", { model });
    expect(failures[0]?.message).toMatch(/node#\d is never freed/);
    await expectClean(installing(true), { model });
  });

  test("an ABA on a stack whose nodes are reused is found", async () => {
    const { failures } = await expectFound(stack(false), "final", { model });
    const aba = failures.find((failure) => failure.property === "final");
    expect(aba?.message).toMatch(/the stack holds node#\d.*, which is freed/);
    await expectClean(stack(true), { model });
  });
});
