/**
 * Peterson's lock for two tasks, with and without the barrier that x86 needs.
 *
 * Run it in a clone: npx node examples/peterson.ts
 */
import {
  cell,
  check,
  fence,
  load,
  type Program,
  program,
  type Steps,
  startLoop,
  store,
  type World,
} from "racewalk/engine";

const makeCells = (world: World) => ({
  world,
  flag: [cell(world, "flag[0]"), cell(world, "flag[1]")] as const,
  turn: cell(world, "turn"),
  counter: cell(world, "counter"),
});

type Cells = ReturnType<typeof makeCells>;

/** @param triesMax how often a task looks before it gives up; Infinity spins */
function peterson(barrier: boolean, triesMax: number): Program {
  return program<Cells>({
    name: "peterson",
    setup: makeCells,
    tasks: {
      first: (cells) => enter(cells, 0, barrier, triesMax),
      second: (cells) => enter(cells, 1, barrier, triesMax),
    },
    final: ({ counter }, got) => counter.peek() === Number(got["first"]) + Number(got["second"]),
  });
}

/** Returns how often the task was in the critical section: 0 or 1. */
function* enter({ world, flag, turn, counter }: Cells, me: 0 | 1, barrier: boolean, triesMax: number): Steps<number> {
  const other = me === 0 ? 1 : 0;
  yield* store(flag[me], 1);
  yield* store(turn, other);
  if (barrier) yield* fence(world);
  const got = yield* spin(world, triesMax, function* () {
    return (yield* load(flag[other])) === 0 || (yield* load(turn)) === me;
  });
  if (got) counter.value++; // a plain access: a data race unless the lock excludes
  yield* store(flag[me], 0);
  return got ? 1 : 0;
}

function* spin(world: World, triesMax: number, isFree: () => Steps<boolean>): Steps<boolean> {
  const again = startLoop(world);
  for (let tries = 0; tries < triesMax; tries++) {
    again(Number.isFinite(triesMax) ? tries : 0);
    if (yield* isFree()) return true;
  }
  return false;
}

const sc = await check(peterson(false, 2));
console.log(`SC: ${sc.verdict}, ${sc.executions} executions`);

const tso = await check(peterson(false, 2), { model: "tso" });
console.log(`TSO: ${tso.verdict}, ${tso.failures[0]?.message}`);
console.log(tso.failures[0]?.diagram);

const fenced = await check(peterson(true, 2), { model: "tso" });
console.log(`TSO with smp_mb(): ${fenced.verdict}, ${fenced.executions} executions`);

// Spinning for ever: the graph of states is finite, and shows that nobody starves.
const forever = await check(peterson(true, Number.POSITIVE_INFINITY), { model: "tso", strategy: "graph" });
console.log(`progress: ${forever.verdict}, ${forever.states} states`);
