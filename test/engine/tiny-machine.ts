/**
 * A second opinion on tiny programs: SC and x86-TSO as abstract machines, written without any of the engine.
 *
 * The engine's explorers all stand on its Execution; an error there would be the same in all of them. Here the machine has its own memory
 * (an array of locations), its own store buffers (lists) and its own notion of an execution graph: for each read the write that
 * it read from, for each location the order of its writes. States that agree in all of that are visited once, so larger programs
 * than brute force can manage are still counted.
 *
 * Covers loads, stores, locked instructions, fences (of the own buffer or another's), waiting loads, choices, locks and branches; not spawned
 * tasks, ends of life, plain accesses, or two locations in one granule.
 */
import { type Operand, passes, type Statement, statementsOf, type Tiny } from "./tiny.ts";

export interface Counted {
  /** Execution graphs. */
  readonly graphs: number;
  /** Locations and registers at the end, as "x=1 y=0 | T0:0,1 T1:waits". */
  readonly finals: ReadonlySet<string>;
  readonly states: number;
}

/** What the machine does not know. */
type Unknown = Extract<
  Statement,
  { kind: "spawn" | "join" } | { kind: "retire" | "revive" } | { kind: "peek" } | { kind: "poke" }
>;
type Known = Exclude<Statement, Unknown | { kind: "if" }>;

/** An instruction; a branch goes on at `otherwise` when the register has another value. */
type Code =
  | Known
  | { readonly kind: "branch"; readonly reg: string; readonly value: number; readonly otherwise: number }
  | { readonly kind: "jump"; readonly to: number };

interface Buffered {
  readonly cell: string;
  readonly value: number;
  readonly id: string;
}

interface Thread {
  readonly at: number;
  readonly registers: Readonly<Record<string, number>>;
  readonly buffer: readonly Buffered[];
  /** Instructions done so far: names its next event. */
  readonly events: number;
  /** Stores that entered the buffer so far. */
  readonly issued: number;
}

interface State {
  readonly threads: readonly Thread[];
  readonly memory: Readonly<Record<string, number>>;
  /** By location: its writes in order; those that commute stand together, sorted, as one. */
  readonly order: Readonly<Record<string, readonly string[]>>;
  /** "T0.3<-T1.2": that read reads from that write, or "=2" for the outcome of a choice. */
  readonly readsFrom: readonly string[];
}

const WRITER = 1 << 20;
const SHARED = "~";

/** Counts the execution graphs of `tiny`. @throws when it uses what the machine does not know */
export function countGraphs(tiny: Tiny, model: "sc" | "tso"): Counted {
  const codes = tiny.tasks.map(compile);
  const graphs = new Set<string>();
  const finals = new Set<string>();
  const seen = new Set<string>();
  const threads = codes.map((): Thread => ({ at: 0, registers: {}, buffer: [], events: 0, issued: 0 }));
  const stack = [settled({ threads, memory: {}, order: {}, readsFrom: [] }, codes)];
  for (let state = stack.pop(); state !== undefined; state = stack.pop()) {
    const next = successors(state, codes, model);
    if (next.length === 0) {
      graphs.add(graphText(state));
      finals.add(finalText(state, codes));
    }
    for (const successor of next) {
      const key = JSON.stringify(successor);
      if (seen.has(key)) continue;
      seen.add(key);
      stack.push(successor);
    }
  }
  return { graphs: graphs.size, finals, states: seen.size };
}

function compile(body: readonly Statement[]): Code[] {
  const code: Code[] = [];
  const emit = (statements: readonly Statement[]): void => {
    for (const s of statements) {
      if (isUnknown(s)) throw new Error(`the tiny machine does not know ${s.kind}`);
      if (s.kind !== "if") {
        code.push(s);
        continue;
      }
      const branch = code.push({ kind: "jump", to: 0 }) - 1;
      emit(s.yes);
      const jump = code.push({ kind: "jump", to: 0 }) - 1;
      code[branch] = { kind: "branch", reg: s.reg, value: s.value, otherwise: code.length };
      emit(s.no);
      code[jump] = { kind: "jump", to: code.length };
    }
  };
  emit(body);
  return code;
}

function isUnknown(s: Statement): s is Unknown {
  return ["spawn", "join", "retire", "revive", "peek", "poke"].includes(s.kind);
}

/** True when {@link countGraphs} can judge the program: no spawned tasks, ends of life, plain accesses, or halves of a granule. */
export function isKnownToMachine(tiny: Tiny): boolean {
  return [...statementsOf(tiny)].every((s) => !isUnknown(s) && !("cell" in s && ["u", "v", "h"].includes(s.cell)));
}

function graphText(state: State): string {
  const orders = Object.entries(state.order).map(([cell, writes]) => `${cell}:${writes.join(" ")}`);
  return [...orders.sort(), ...[...state.readsFrom].sort()].join("\n");
}

function finalText(state: State, codes: readonly Code[][]): string {
  const memory = ["w", "x", "y", "z", "k", "l", "m", "o", "p"].map((cell) => `${cell}=${state.memory[cell] ?? 0}`);
  const threads = state.threads.map((thread, t) => {
    const registers = ["r0", "r1", "r2", "r3"].map((reg) => thread.registers[reg] ?? 0).join(",");
    return `T${t}:${thread.at === (codes[t] as Code[]).length ? registers : "waits"}`;
  });
  return `${memory.join(" ")} | ${threads.join(" ")}`;
}

// --- steps ---------------------------------------------------------------------------------------------------------

function successors(state: State, codes: readonly Code[][], model: "sc" | "tso"): State[] {
  const next: State[] = [];
  state.threads.forEach((thread, t) => {
    const [oldest, ...rest] = thread.buffer;
    if (oldest !== undefined) {
      next.push(written(withThread(state, t, { ...thread, buffer: rest }), oldest.cell, oldest.value, oldest.id));
    }
    const code = (codes[t] as Code[])[thread.at];
    if (code !== undefined) next.push(...execute(state, t, code, model));
  });
  return next.map((successor) => settled(successor, codes));
}

/** Branches are no steps: each thread goes on to its next instruction. */
function settled(state: State, codes: readonly Code[][]): State {
  let result = state;
  for (let t = 0; t < codes.length; t++) {
    for (;;) {
      const thread = result.threads[t] as Thread;
      const code = (codes[t] as Code[])[thread.at];
      if (code?.kind === "jump") result = withThread(result, t, { ...thread, at: code.to });
      else if (code?.kind === "branch") {
        const taken = (thread.registers[code.reg] ?? 0) === code.value;
        result = withThread(result, t, { ...thread, at: taken ? thread.at + 1 : code.otherwise });
      } else break;
    }
  }
  return result;
}

function withThread(state: State, t: number, thread: Thread): State {
  return { ...state, threads: state.threads.map((old, i) => (i === t ? thread : old)) };
}

function written(state: State, cell: string, value: number, id: string): State {
  const order = { ...state.order, [cell]: [...(state.order[cell] ?? []), id] };
  return { ...state, order, memory: { ...state.memory, [cell]: value } };
}

/** A write that commutes with others of its kind: they are one entry of the order. */
function writtenShared(state: State, cell: string, value: number, id: string): State {
  const order = [...(state.order[cell] ?? [])];
  const last = order.at(-1);
  if (last?.startsWith(SHARED)) order[order.length - 1] = SHARED + [...last.slice(1).split(" "), id].sort().join(" ");
  else order.push(SHARED + id);
  return { ...state, order: { ...state.order, [cell]: order }, memory: { ...state.memory, [cell]: value } };
}

function execute(state: State, t: number, code: Code, model: "sc" | "tso"): State[] {
  const thread = state.threads[t] as Thread;
  const id = `T${t}.${thread.events}`;
  const went: Thread = { ...thread, at: thread.at + 1, events: thread.events + 1 };
  const value = (operand: Operand): number =>
    typeof operand === "number" ? operand : (thread.registers[operand] ?? 0);
  switch (code.kind) {
    case "branch":
    case "jump":
      throw new Error("a branch was not settled");
    case "fence":
      return fenced(state, t, code.of ?? t, id, went, model);
    case "choose":
      return Array.from({ length: code.n }, (_, n) => {
        const chosen = withThread(state, t, { ...went, registers: { ...thread.registers, [code.reg]: n } });
        return { ...chosen, readsFrom: [...chosen.readsFrom, `${id}=${n}`] };
      });
    case "load":
    case "await":
      return read(state, t, code, id, went);
    case "store":
      return stored(state, t, { cell: code.cell, value: value(code.value), id }, went, model);
    case "storeNow":
      return [written(withThread(state, t, went), code.cell, value(code.value), id)];
    case "unlock":
    case "wrunlock":
      return stored(state, t, { cell: code.cell, value: 0, id }, went, model);
    default:
      return thread.buffer.length > 0 ? [] : locked(state, t, code, id, went, value);
  }
}

function stored(state: State, t: number, entry: Buffered, went: Thread, model: "sc" | "tso"): State[] {
  if (model === "sc") return [written(withThread(state, t, went), entry.cell, entry.value, entry.id)];
  return [withThread(state, t, { ...went, buffer: [...went.buffer, entry], issued: went.issued + 1 })];
}

/** Waits until the buffer of thread `of` is empty. When that is another's, which of its stores came before is part of the graph. */
function fenced(state: State, t: number, of: number, id: string, went: Thread, model: "sc" | "tso"): State[] {
  const watched = state.threads[of] as Thread;
  if (watched.buffer.length > 0) return [];
  const after = withThread(state, t, went);
  if (of === t || model === "sc") return [after];
  return [{ ...after, readsFrom: sorted([...after.readsFrom, `${id}<-buffer ${of} after ${watched.issued}`]) }];
}

function read(
  state: State,
  t: number,
  code: Extract<Code, { kind: "load" | "await" }>,
  id: string,
  went: Thread,
): State[] {
  const thread = state.threads[t] as Thread;
  const own = thread.buffer.findLast((entry) => entry.cell === code.cell);
  const found = own === undefined ? (state.memory[code.cell] ?? 0) : own.value;
  const source = own === undefined ? lastWrite(state, code.cell) : own.id;
  if (code.kind === "await" && !passes(code.test, found, code.value)) return [];
  const after = withThread(state, t, { ...went, registers: { ...thread.registers, [code.reg]: found } });
  return [{ ...after, readsFrom: sorted([...after.readsFrom, `${id}<-${source}`]) }];
}

function lastWrite(state: State, cell: string): string {
  return state.order[cell]?.at(-1) ?? "init";
}

function sorted(texts: string[]): string[] {
  return texts.sort();
}

function locked(
  state: State,
  t: number,
  code: Exclude<Code, { kind: "branch" | "jump" | "load" | "await" | "store" | "storeNow" | "fence" | "choose" }>,
  id: string,
  went: Thread,
  value: (operand: Operand) => number,
): State[] {
  const old = state.memory[code.cell] ?? 0;
  const moved = withThread(state, t, went);
  switch (code.kind) {
    case "lock":
    case "wrlock":
      return old === 0 ? [written(moved, code.cell, code.kind === "lock" ? 1 : WRITER, id)] : [];
    case "rdlock":
      return old < WRITER ? [writtenShared(moved, code.cell, old + 1, id)] : [];
    case "rdunlock":
      return [writtenShared(moved, code.cell, old - 1, id)];
    case "unlock":
    case "wrunlock":
      throw new Error("unlocking is a store");
    default: {
      const thread: Thread = { ...went, registers: { ...went.registers, [code.reg]: old } };
      const learned = withThread(moved, t, thread);
      const traced = { ...learned, readsFrom: sorted([...learned.readsFrom, `${id}<-${lastWrite(state, code.cell)}`]) };
      if (code.kind === "cas") {
        if (old !== value(code.expected)) return [traced];
        return [written(traced, code.cell, value(code.value), id)];
      }
      const operand = value(code.value);
      const result =
        code.kind === "xadd"
          ? old + operand
          : code.kind === "xchg"
            ? operand
            : code.kind === "or"
              ? old | operand
              : old & operand;
      return [written(traced, code.cell, result, id)];
    }
  }
}
