/** Runs litmus tests on the engine and compares with what is known of them. */
import {
  type Cell,
  cell,
  check,
  compareExchange,
  exchange,
  fence,
  fetchAdd,
  fetchAnd,
  fetchOr,
  load,
  type MemoryModel,
  type Program,
  type Steps,
  store,
  type World,
} from "../engine/index.ts";
import {
  type FinalState,
  type Instruction,
  type LitmusTest,
  locationsOf,
  type Operand,
  registersOf,
} from "./litmus-test.ts";

/** What came of a test under one model. */
export interface LitmusResult {
  readonly name: string;
  readonly model: MemoryModel;
  /** The condition holds in some execution. */
  readonly observable: boolean;
  /** Whether it should; null where nobody has said. */
  readonly expected: boolean | null;
  /** Verdict, number of executions and final states are those expected, as far as anything is. */
  readonly ok: boolean;
  readonly executions: number;
  readonly expectedExecutions: number | null;
  /** File and place of the test. */
  readonly source: string;
  /** What differs, a line each. */
  readonly differences: readonly string[];
}

type Registers = Record<string, number>;

interface State {
  readonly world: World;
  readonly cells: ReadonlyMap<string, Cell>;
}

const PAGE = 4096;

export async function runLitmusTest(test: LitmusTest, model: MemoryModel): Promise<LitmusResult> {
  const finals = new Map<string, FinalState>();
  const { executions, complete, blocked } = await check(litmusProgram(test, finals), { model });
  const expected = test.expected[model];
  const states = [...finals.values()];
  const observable = states.some((state) => test.exists.some((alternative) => satisfies(state, alternative)));
  const differences: string[] = [];
  const say = (observed: boolean): string => (observed ? "allowed" : "forbidden");
  if (expected.observable !== null && expected.observable !== observable) {
    differences.push(`the condition is ${say(observable)}; expected: ${say(expected.observable)}`);
  }
  if (expected.executions !== null && expected.executions !== executions) {
    differences.push(`${executions} executions; expected: ${expected.executions}`);
  }
  if (!complete || blocked > 0) differences.push(`not explored as it should be: ${blocked} executions given up`);
  if (expected.finalStates !== null) differences.push(...differencesOf(states, expected.finalStates));
  return {
    name: test.name,
    model,
    observable,
    expected: expected.observable,
    ok: differences.length === 0,
    executions,
    expectedExecutions: expected.executions,
    source: test.source,
    differences,
  };
}

function litmusProgram(test: LitmusTest, finals: Map<string, FinalState>): Program<State> {
  const locations = locationsOf(test);
  const names = new Set(test.threads.flatMap((thread, t) => registersOf(thread, t)));
  return {
    name: test.name,
    memory: { staticBytes: PAGE * (1 + Math.ceil((locations.length * 24) / PAGE)), arenaBytes: PAGE },
    setup: (world) => ({
      world,
      cells: new Map(locations.map((name) => [name, cell(world, name, test.init[name] ?? 0)])),
    }),
    tasks: Object.fromEntries(
      test.threads.map((thread, t) => [`P${t}`, (state: State) => runThread(state, thread)] as const),
    ),
    final: ({ cells }, results) => {
      const state: Record<string, number> = {};
      for (const name of names) {
        const [thread, register = ""] = name.split(":");
        state[name] = (results[`P${thread}`] as Registers)[register] ?? 0;
      }
      for (const [name, location] of cells) state[name] = location.peek();
      finals.set(JSON.stringify(state), state);
      return undefined;
    },
  };
}

function* runThread(state: State, thread: readonly Instruction[]): Steps<Registers> {
  const registers: Registers = {};
  for (const instruction of thread) yield* execute(state, registers, instruction);
  return registers;
}

function* execute({ world, cells }: State, registers: Registers, instruction: Instruction): Steps<void> {
  if (instruction.kind === "fence") {
    yield* fence(world);
    return;
  }
  const at = cells.get(instruction.location) as Cell;
  const value = (operand: Operand): number => (typeof operand === "number" ? operand : (registers[operand] ?? 0));
  switch (instruction.kind) {
    case "store":
      yield* store(at, value(instruction.value));
      return;
    case "load":
      registers[instruction.register] = yield* load(at);
      return;
    case "xchg":
      registers[instruction.register] = yield* exchange(at, value(instruction.value));
      return;
    case "xadd":
      registers[instruction.register] = yield* fetchAdd(at, value(instruction.value));
      return;
    case "cas": {
      const { register, expected } = instruction;
      registers[register] = yield* compareExchange(at, value(expected), value(instruction.value));
      return;
    }
    case "or":
      yield* fetchOr(at, value(instruction.value));
      return;
    case "and":
      yield* fetchAnd(at, value(instruction.value));
      return;
    default:
      yield* fetchAdd(at, 0);
  }
}

/** True when every value that the condition names is so; a register that nothing writes is 0. */
function satisfies(state: FinalState, condition: FinalState): boolean {
  return Object.entries(condition).every(([name, value]) => (state[name] ?? 0) === value);
}

function differencesOf(found: readonly FinalState[], expected: readonly FinalState[]): string[] {
  const mine = new Set(found.map(canonical));
  const theirs = new Set(expected.map(canonical));
  const lines: string[] = [];
  for (const state of theirs) if (!mine.has(state)) lines.push(`final state not found: ${state}`);
  for (const state of mine) if (!theirs.has(state)) lines.push(`final state not expected: ${state}`);
  return lines;
}

function canonical(state: FinalState): string {
  const names = Object.keys(state).sort();
  return names.map((name) => `${name}=${state[name]}`).join(" ");
}
