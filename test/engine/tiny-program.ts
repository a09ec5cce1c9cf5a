/** A tiny program (tiny.ts) as a program for the engine. */
import {
  acquire,
  acquireShared,
  awaitUntil,
  Cell,
  cell,
  choose,
  compareExchange,
  exchange,
  fence,
  fetchAdd,
  fetchAnd,
  fetchOr,
  join,
  load,
  type Program,
  releaseShared,
  retire,
  revive,
  type Steps,
  Struct,
  spawn,
  store,
  storeNow,
  type Task,
  u32,
  type World,
} from "../../src/engine/index.ts";
import { type LockVerb, type Operand, passes, REGISTERS, type Statement, statementsOf, type Tiny } from "./tiny.ts";

export interface TinyState {
  readonly world: World;
  readonly cells: Readonly<Record<string, Cell>>;
}

const HALVES = new Struct("halves", { u: u32, v: u32 });
const MORTAL = ["o", "p"];
const WRITER = 1 << 20;
const isFree = (value: number): boolean => value === 0;
const hasNoWriter = (value: number): boolean => value < WRITER;

/** Tasks of the program are T0, T1 ...; those that T0 spawns are T0.c0, T0.c0+1 ... */
export function tinyProgram(tiny: Tiny): Program<TinyState> {
  const statements = [...statementsOf(tiny)];
  return {
    name: "tiny",
    memory: { staticBytes: 4096 * 2, arenaBytes: 4096 },
    spawns: spawnsOf(tiny),
    mayBlock: true,
    setup: (world) => {
      const halves = HALVES.allocate(world, "halves");
      const cells: Record<string, Cell> = {
        u: halves.u,
        v: halves.v,
        h: new Cell<number>(world, halves.addr, 8, false),
      };
      for (const name of ["w", "x", "y", "z", "k", "l", "m", "o", "p"]) cells[name] = cell(world, name);
      // Ends of life are only looked at where the program has any.
      if (statements.some((s) => s.kind === "retire" || s.kind === "revive")) {
        for (const name of MORTAL) world.makeMortal((cells[name] as Cell).addr);
      }
      world.watchesBuffers = statements.some((s) => s.kind === "fence" && s.of !== null);
      return { world, cells };
    },
    tasks: Object.fromEntries(
      tiny.tasks.map((body, i) => [`T${i}`, (state: TinyState) => runTask(state, tiny, body, `T${i}`)]),
    ),
  };
}

/** How many tasks may be spawned: children do not spawn, so there is one for each spawn in the text. */
function spawnsOf(tiny: Tiny): number {
  return [...statementsOf(tiny)].filter((s) => s.kind === "spawn").length;
}

interface Frame {
  readonly state: TinyState;
  readonly tiny: Tiny;
  readonly name: string;
  readonly registers: Record<string, number>;
  /** The last task spawned from each body. */
  readonly spawned: Map<string, Task>;
  children: number;
}

function* runTask(state: TinyState, tiny: Tiny, body: readonly Statement[], name: string): Steps<string> {
  const registers: Record<string, number> = {};
  for (const register of REGISTERS) registers[register] = 0;
  yield* run({ state, tiny, name, registers, spawned: new Map(), children: 0 }, body);
  return REGISTERS.map((register) => registers[register]).join(",");
}

function* run(frame: Frame, body: readonly Statement[]): Steps<void> {
  for (const statement of body) {
    if (statement.kind === "if") {
      const taken = frame.registers[statement.reg] === statement.value ? statement.yes : statement.no;
      yield* run(frame, taken);
    } else {
      yield* step(frame, statement);
    }
  }
}

function* step(frame: Frame, s: Exclude<Statement, { kind: "if" }>): Steps<void> {
  const { registers, state } = frame;
  const at = (name: string): Cell => state.cells[name] as Cell;
  const value = (operand: Operand): number => (typeof operand === "number" ? operand : (registers[operand] as number));
  switch (s.kind) {
    case "load":
      registers[s.reg] = yield* load(at(s.cell));
      return;
    case "store":
      yield* store(at(s.cell), value(s.value));
      return;
    case "peek":
      registers[s.reg] = at(s.cell).value;
      return;
    case "poke":
      at(s.cell).value = value(s.value);
      return;
    case "storeNow":
      yield* storeNow(at(s.cell), value(s.value));
      return;
    case "xadd":
      registers[s.reg] = yield* fetchAdd(at(s.cell), value(s.value));
      return;
    case "xchg":
      registers[s.reg] = yield* exchange(at(s.cell), value(s.value));
      return;
    case "or":
      registers[s.reg] = yield* fetchOr(at(s.cell), value(s.value));
      return;
    case "and":
      registers[s.reg] = yield* fetchAnd(at(s.cell), value(s.value));
      return;
    case "cas":
      registers[s.reg] = yield* compareExchange(at(s.cell), value(s.expected), value(s.value));
      return;
    case "await":
      registers[s.reg] = yield* awaitUntil(at(s.cell), (found) => passes(s.test, found, s.value));
      return;
    case "choose":
      registers[s.reg] = yield* choose(state.world, s.n);
      return;
    default:
      yield* otherStep(frame, s);
  }
}

function* otherStep(
  frame: Frame,
  s: Extract<Statement, { kind: "fence" | LockVerb | "spawn" | "join" | "retire" | "revive" }>,
): Steps<void> {
  const { world, cells } = frame.state;
  const at = (name: string): Cell => cells[name] as Cell;
  switch (s.kind) {
    case "fence":
      yield* fence(world, s.of === null ? null : (world.tasks[s.of] as Task));
      return;
    case "lock":
      yield* acquire(at(s.cell), isFree, () => 1);
      return;
    case "wrlock":
      yield* acquire(at(s.cell), isFree, () => WRITER);
      return;
    case "unlock":
    case "wrunlock":
      yield* store(at(s.cell), 0);
      return;
    case "rdlock":
      yield* acquireShared(at(s.cell), hasNoWriter, (value) => value + 1);
      return;
    case "rdunlock":
      yield* releaseShared(at(s.cell), (value) => value - 1);
      return;
    case "retire":
      yield* retire(world, at(s.cell).addr, "freed");
      return;
    case "revive":
      yield* revive(world, at(s.cell).addr);
      return;
    case "spawn":
      yield* spawnChild(frame, s.child);
      return;
    default: {
      const child = frame.spawned.get(s.child);
      if (child !== undefined) yield* join(world, child);
    }
  }
}

function* spawnChild(frame: Frame, child: string): Steps<void> {
  const { state, tiny, spawned, name } = frame;
  const childName = `${name}.${child}${frame.children === 0 ? "" : `+${frame.children}`}`;
  frame.children++;
  const body = tiny.children[child] ?? [];
  spawned.set(child, yield* spawn(state.world, childName, () => runTask(state, tiny, body, childName)));
}
