/**
 * Spike: how a task is expressed, and what one operation costs in each form.
 *
 * Every form runs the same loop: a load, a compare-exchange and a store on shared words, in a function
 * nested DEPTH calls deep, driven by a scheduler that executes one operation at a time. "suspend" gives control
 * back to the scheduler for each operation (exploring); "inline" lets the operation complete where it stands
 * because the driver knows that this task goes on (conforming, simulating one CPU, replaying a prefix).
 * The decision taken from it is docs/decisions/0001-tasks.md. Run: npm run bench:spikes
 */
const words = new Float64Array(64);
const ROUNDS = 300_000;
const DEPTH = 4;

type Op = { kind: number; addr: number; a: number; b: number };
const op: Op = { kind: 0, addr: 0, a: 0, b: 0 };

function execute(): number {
  switch (op.kind) {
    case 0:
      return words[op.addr]!;
    case 1: {
      const old = words[op.addr]!;
      if (old === op.a) words[op.addr] = op.b;
      return old;
    }
    default:
      words[op.addr] = op.a;
      return 0;
  }
}
function set(kind: number, addr: number, a: number, b: number): Op {
  op.kind = kind;
  op.addr = addr;
  op.a = a;
  op.b = b;
  return op;
}

// 1. plain yield of a shared operation record
function* plainLeaf(): Generator<Op, number, number> {
  const v = yield set(0, 1, 0, 0);
  yield set(1, 1, v, v + 1);
  yield set(2, 2, v, 0);
  return v;
}
function* plainNest(depth: number): Generator<Op, number, number> {
  return depth === 0 ? yield* plainLeaf() : yield* plainNest(depth - 1);
}

// 2. yield* of a reusable typed operation, which may complete inline
let inline = false;
const done: { done: boolean; value: unknown } = { done: true, value: 0 };
const pending: { done: boolean; value: unknown } = { done: false, value: op };
class Request<T> implements Iterator<Op, T, number> {
  started = false;
  [Symbol.iterator](): this {
    return this;
  }
  next(v: number): IteratorResult<Op, T> {
    if (!this.started) {
      if (inline) {
        done.value = execute();
        return done as IteratorResult<Op, T>;
      }
      this.started = true;
      return pending as IteratorResult<Op, T>;
    }
    this.started = false;
    done.value = v;
    return done as IteratorResult<Op, T>;
  }
}
const request = new Request<number>();
function ask(kind: number, addr: number, a: number, b: number): Request<number> {
  set(kind, addr, a, b);
  return request;
}
function* typedLeaf(): Generator<Op, number, number> {
  const v = yield* ask(0, 1, 0, 0);
  yield* ask(1, 1, v, v + 1);
  yield* ask(2, 2, v, 0);
  return v;
}
function* typedNest(depth: number): Generator<Op, number, number> {
  return depth === 0 ? yield* typedLeaf() : yield* typedNest(depth - 1);
}

// 3. an operation as a generator function of its own
function* opGen(kind: number, addr: number, a: number, b: number): Generator<Op, number, number> {
  return yield set(kind, addr, a, b);
}
function* opGenLeaf(): Generator<Op, number, number> {
  const v = yield* opGen(0, 1, 0, 0);
  yield* opGen(1, 1, v, v + 1);
  yield* opGen(2, 2, v, 0);
  return v;
}
function* opGenNest(depth: number): Generator<Op, number, number> {
  return depth === 0 ? yield* opGenLeaf() : yield* opGenNest(depth - 1);
}

// 4. a hand-written state machine
class Machine {
  state = 0;
  v = 0;
  step(result: number): Op | null {
    switch (this.state++) {
      case 0:
        return set(0, 1, 0, 0);
      case 1:
        this.v = result;
        return set(1, 1, this.v, this.v + 1);
      case 2:
        return set(2, 2, this.v, 0);
      default:
        return null;
    }
  }
}

// 5. async functions, each operation a promise
async function asyncLeaf(): Promise<number> {
  const v = await execOne(0, 1, 0, 0);
  await execOne(1, 1, v, v + 1);
  await execOne(2, 2, v, 0);
  return v;
}
async function execOne(kind: number, addr: number, a: number, b: number): Promise<number> {
  set(kind, addr, a, b);
  return execute();
}
async function asyncNest(depth: number): Promise<number> {
  return depth === 0 ? asyncLeaf() : asyncNest(depth - 1);
}

function drive(make: () => Generator<Op, number, number>): void {
  const g = make();
  let r = g.next(0);
  while (!r.done) r = g.next(execute());
}
function time(name: string, body: () => void, ops: number): void {
  body();
  const samples: number[] = [];
  for (let i = 0; i < 5; i++) {
    words.fill(0);
    const t0 = process.hrtime.bigint();
    body();
    samples.push(Number(process.hrtime.bigint() - t0) / ops);
  }
  samples.sort((x, y) => x - y);
  console.log(`${name.padEnd(58)} ${samples[2]!.toFixed(1).padStart(7)} ns/op`);
}

const OPS = ROUNDS * 3;
for (const depth of [0, DEPTH]) {
  const at = `depth ${depth}`;
  time(
    `yield op, suspend, ${at}`,
    () => {
      for (let i = 0; i < ROUNDS; i++) drive(() => plainNest(depth));
    },
    OPS,
  );
  inline = false;
  time(
    `yield* request, suspend, ${at}`,
    () => {
      for (let i = 0; i < ROUNDS; i++) drive(() => typedNest(depth));
    },
    OPS,
  );
  inline = true;
  time(
    `yield* request, inline, ${at}`,
    () => {
      for (let i = 0; i < ROUNDS; i++) drive(() => typedNest(depth));
    },
    OPS,
  );
  time(
    `yield* generator per operation, suspend, ${at}`,
    () => {
      for (let i = 0; i < ROUNDS; i++) drive(() => opGenNest(depth));
    },
    OPS,
  );
}
time(
  "state machine by hand, suspend",
  () => {
    for (let i = 0; i < ROUNDS; i++) {
      const m = new Machine();
      let r = 0;
      while (m.step(r) !== null) r = execute();
    }
  },
  OPS,
);
{
  const t0 = process.hrtime.bigint();
  for (let i = 0; i < ROUNDS / 3; i++) await asyncNest(DEPTH);
  console.log(
    `${`async/await, depth ${DEPTH}`.padEnd(58)} ${(Number(process.hrtime.bigint() - t0) / (OPS / 3)).toFixed(1).padStart(7)} ns/op`,
  );
}
