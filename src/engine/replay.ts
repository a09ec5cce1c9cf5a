/**
 * Running one schedule again, step by step, with what a reader wants to know of each step: function, source line, value.
 */

import { findSourceMap } from "node:module";
import { isAbsolute } from "node:path";
import { fileURLToPath } from "node:url";
import { UsageError } from "./assert.ts";
import { Execution, type Failure } from "./execution.ts";
import { Follower } from "./follow.ts";
import type { AccessSize } from "./heap.ts";
import { OpKind, shownText } from "./operation.ts";
import { makeWorld, type Program } from "./program.ts";
import type { Schedule } from "./schedule.ts";
import { type StackOf, sideText } from "./sides.ts";
import type { Task } from "./task.ts";
import { hexU64, TWO32, u64 } from "./u64.ts";
import { conclude } from "./verify.ts";
import type { World } from "./world.ts";

/** A place in the modelled source. */
export interface SourcePlace {
  /** The function, as the kernel spells it: `tdp_mmu_set_spte_atomic`. */
  readonly function: string;
  readonly file: string;
  readonly line: number;
}

/** As the text of an operation: bookkeeping that a diagram leaves out (reference counts, say). */
export const QUIET = "-";

/** One step of a replayed execution. */
export interface ReplayStep {
  readonly index: number;
  readonly task: string;
  /** Index of the task in the program. */
  readonly cpu: number;
  /** True for a store that leaves the task's store buffer. */
  readonly drain: boolean;
  /** A store that other CPUs act before they can see it; for its drain, the same. */
  readonly late: boolean;
  /** The operation's kind: "Load", "Store", "Acquire" ...; "Plain" for a plain access, which is no step of the schedule. */
  readonly operation: string;
  /** The place accessed, by name; empty when the operation accesses none. */
  readonly name: string;
  /** The value read, or the value written by a store. */
  readonly value: string;
  /** What memory holds at the place after the step; null when it accesses none. */
  readonly memory: string | null;
  /** One line for a diagram. */
  readonly text: string;
  /** Where it was asked for, innermost first; empty for drains. */
  readonly stack: readonly SourcePlace[];
  /** The step touches something that another task touches too in this execution, and is not marked {@link QUIET}. */
  readonly shared: boolean;
}

/** Looks at the state that a program shares, between steps of its replay. */
export type Observer<T> = (state: unknown) => (execution: Execution) => T;

export interface Replay<T = null> {
  readonly steps: readonly ReplayStep[];
  /** What the tasks that wait at the end are waiting for: one line of a diagram each. */
  readonly waiting: readonly ReplayStep[];
  /** With what each task did and where, when it takes several to fail. */
  readonly failures: readonly Failure[];
  readonly stackAt: StackOf;
  readonly execution: Execution;
  /** What was seen before the first step, and after each step of the schedule. */
  readonly observed: readonly T[];
}

/**
 * Runs `schedule` on a fresh world of `program`.
 * @param watched a place whose plain accesses are wanted among the steps (that of a data race)
 * @param observer looks at the state before the first step and after each
 * @throws UsageError when the schedule does not fit the program
 */
export function replay<S, T = null>(
  program: Program<S>,
  schedule: Schedule,
  watched?: number,
  observer: Observer<T> | null = null,
): Replay<T> {
  const { world, state } = makeWorld(program);
  const follower = new Follower(schedule.steps);
  const execution = new Execution(world, schedule.model, follower);
  // The schedule ends: a loop that a search of states has found may be longer than executions that are explored one by one.
  execution.stepsMax = Number.POSITIVE_INFINITY;
  follower.execution = execution;
  const requested = new Map<number, SourcePlace[]>();
  const taken: Taken[] = [];
  const plain: PlainStep[] = [];
  world.onRequest = (task) => requested.set(task.lane, stackOf(world));
  world.onPlain = (task, addr, isWrite, lo, hi) => {
    // That of a race with the end of an object's life is the object's life.
    if (watched === undefined || (addr >>> 2 !== watched >>> 2 && world.lifeOf(addr) !== watched)) return;
    plain.push({ after: execution.events.length, task, addr, isWrite, lo, hi, stack: stackOf(world) });
  };
  const memory: string[] = [];
  const observe = observer?.(state) ?? null;
  const observed: T[] = [];
  const noteMemory = (): void => {
    const last = execution.events.length - 1;
    if (last >= 0) memory[last] = memoryAfter(execution, last);
    if (observe !== null) observed[last + 1] = observe(execution);
  };
  follower.onPick = (lane) => {
    noteMemory();
    const task = world.tasks[lane];
    taken.push({ stack: requested.get(lane) ?? [], text: task === undefined ? "" : shownText(task.op) });
  };
  execution.start();
  execution.run();
  if (follower.refused > 0) {
    const what = `schedule: step ${follower.refused} cannot be taken there`;
    throw new UsageError(`${what}: it was recorded with another program or version`);
  }
  noteMemory();
  const isOver = conclude(program, state, execution);
  const steps = describe(execution, taken, plain, memory);
  const waiting = isOver ? describeWaiting(execution, requested) : [];
  const stackAt = (lane: number, nth: number): readonly SourcePlace[] => {
    const { events } = execution;
    for (let i = 0; i < events.length; i++) {
      if (events.lane[i] === lane && events.nth[i] === nth) return taken[i]?.stack ?? [];
    }
    return requested.get(lane) ?? [];
  };
  const failures = execution.failures.map(({ message, ...failure }) => {
    const sides = (failure.sides ?? []).map((side) => sideText(execution, side, stackAt));
    return { ...failure, message: [message, ...sides].join("; ") };
  });
  return { steps, waiting, failures, stackAt, execution, observed };
}

/** What was noted when a step was taken. */
interface Taken {
  readonly stack: readonly SourcePlace[];
  readonly text: string;
}

interface PlainStep {
  /** The number of events before the access. */
  readonly after: number;
  readonly task: Task;
  readonly addr: number;
  readonly isWrite: boolean;
  readonly lo: number;
  readonly hi: number;
  readonly stack: readonly SourcePlace[];
}

/** What memory holds now at the place that event `i`, the last one, has accessed. */
function memoryAfter(execution: Execution, i: number): string {
  const { events, heap } = execution;
  if ((events.kind[i] as OpKind) > OpKind.ReleaseShared) return "";
  const lo = heap.read(events.addr[i] as number, events.size[i] as AccessSize);
  return show(lo, heap.high, events.wide[i] === 1 || isAddress(execution, lo, heap.high));
}

function describe(
  execution: Execution,
  taken: readonly Taken[],
  plain: readonly PlainStep[],
  memory: readonly string[],
): ReplayStep[] {
  const { events, world } = execution;
  const shared = sharedPlaces(execution);
  const late = lateStores(execution);
  const steps: ReplayStep[] = [];
  for (let i = 0; i <= events.length; i++) {
    for (const access of plain) if (access.after === i) steps.push(plainStep(execution, access));
    if (i === events.length) break;
    const lane = events.lane[i] as number;
    const task = world.tasks[lane % world.tasksMax] as Task;
    const kind = events.kind[i] as OpKind;
    const drain = lane >= world.tasksMax;
    const name = accesses(kind) ? world.nameOf(events.addr[i] as number) : "";
    steps.push({
      index: i,
      task: task.name,
      cpu: task.lane,
      drain,
      late: late.has(i),
      operation: operationName(kind),
      name,
      value: shownValue(execution, i, kind),
      memory: name === "" || kind === OpKind.Lifetime ? null : (memory[i] ?? null),
      text: stepText(execution, i, drain, name, taken[i]?.text ?? "") + (late.has(i) && !drain ? "  (buffered)" : ""),
      stack: taken[i]?.stack ?? [],
      shared:
        accesses(kind) &&
        taken[i]?.text !== QUIET &&
        placesOf(execution, events.addr[i] as number).some((place) => shared.has(place)),
    });
  }
  return steps;
}

function accesses(kind: OpKind): boolean {
  return kind <= OpKind.ReleaseShared || kind === OpKind.Lifetime;
}

/** The stores, and their drains, between which another CPU takes a step. */
function lateStores(execution: Execution): Set<number> {
  const { events, world } = execution;
  const late = new Set<number>();
  const issued = new Map<number, number[]>();
  for (let i = 0; i < events.length; i++) {
    const lane = events.lane[i] as number;
    const task = lane % world.tasksMax;
    const waiting = issued.get(task) ?? [];
    issued.set(task, waiting);
    if (execution.model === "sc" || events.kind[i] !== OpKind.Store) continue;
    if (lane < world.tasksMax) {
      waiting.push(i);
      continue;
    }
    const store = waiting.shift() as number;
    for (let k = store + 1; k < i; k++) {
      if ((events.lane[k] as number) % world.tasksMax === task) continue;
      late.add(store).add(i);
      break;
    }
  }
  for (const waiting of issued.values()) for (const store of waiting) late.add(store);
  return late;
}

/** The granules that an access touches: its own, and that of the life of a mortal object. */
function placesOf(execution: Execution, addr: number): number[] {
  const life = execution.world.lifeOf(addr);
  return execution.world.isMortal(life) ? [addr >>> 3, life >>> 3] : [addr >>> 3];
}

/** The granules that more than one task touches, or waits to touch, and at least one changes. */
function sharedPlaces(execution: Execution): Set<number> {
  const { events, world } = execution;
  const touchedBy = new Map<number, Set<number>>();
  const changed = new Set<number>();
  const touch = (place: number, task: number, isChange: boolean): void => {
    const set = touchedBy.get(place) ?? new Set();
    set.add(task);
    touchedBy.set(place, set);
    if (isChange) changed.add(place);
  };
  for (let i = 0; i < events.length; i++) {
    const kind = events.kind[i] as OpKind;
    if (!accesses(kind)) continue;
    const [own, life] = placesOf(execution, events.addr[i] as number) as [number, number | undefined];
    const task = (events.lane[i] as number) % world.tasksMax;
    const isRead = kind === OpKind.Load || kind === OpKind.Await;
    if (kind !== OpKind.Lifetime) touch(own, task, !isRead);
    if (life !== undefined) touch(life, task, kind === OpKind.Lifetime);
  }
  for (const task of world.tasks) {
    if (task.started && !task.finished && accesses(task.op.kind)) touch(task.op.addr >>> 3, task.lane, true);
  }
  return new Set(
    [...touchedBy].filter(([place, tasks]) => tasks.size > 1 && changed.has(place)).map(([place]) => place),
  );
}

function plainStep(execution: Execution, access: PlainStep): ReplayStep {
  const { task, addr, isWrite, lo, hi } = access;
  const name = execution.world.nameOf(addr);
  const value = show(lo, hi, false);
  return {
    index: access.after,
    task: task.name,
    cpu: task.lane,
    drain: false,
    late: false,
    operation: "Plain",
    name,
    value,
    memory: value,
    text: isWrite ? `${name} = ${value}  (plain)` : `${name} is ${value}  (plain)`,
    stack: access.stack,
    shared: true,
  };
}

function describeWaiting(execution: Execution, requested: ReadonlyMap<number, SourcePlace[]>): ReplayStep[] {
  const waiting = execution.world.tasks.filter((task) => task.started && !task.finished && !task.daemon);
  return waiting.map((task) => {
    const { op } = task;
    const name = execution.world.nameOf(op.addr);
    const bare = op.kind === OpKind.Join ? "join" : `wait for ${name}`;
    return {
      index: execution.events.length,
      task: task.name,
      cpu: task.lane,
      drain: false,
      late: false,
      operation: operationName(op.kind),
      name,
      value: "",
      memory: null,
      text: `${op.text === "" ? bare : shownText(op)}  ...for ever`,
      stack: requested.get(task.lane) ?? [],
      shared: true,
    };
  });
}

function operationName(kind: OpKind): string {
  return Object.entries(OpKind).find(([, value]) => value === kind)?.[0] ?? "?";
}

function shownValue(execution: Execution, i: number, kind: OpKind): string {
  const { events } = execution;
  const isStore = kind === OpKind.Store || kind === OpKind.StoreNow;
  const lo = (isStore ? events.lo[i] : events.resultLo[i]) as number;
  const hi = (isStore ? events.hi[i] : events.resultHi[i]) as number;
  return show(lo, hi, events.wide[i] === 1 || isAddress(execution, lo, hi));
}

function isAddress(execution: Execution, lo: number, hi: number): boolean {
  return hi === 0 && lo >= 4096 && execution.world.lifeOf(Math.min(lo, execution.heap.bytes - 8)) !== 0;
}

/** What is this large is an address, an entry or a mask, and no count. */
const HEX_FROM = 4096;

function show(lo: number, hi: number, hex: boolean): string {
  if (hex) return `0x${hexU64(u64(hi, lo))}`;
  // A small negative number of a 64-bit field.
  if (hi === 0xffffffff) return String(lo - TWO32);
  const value = hi * TWO32 + lo;
  return value < HEX_FROM ? String(value) : `0x${value.toString(16)}`;
}

/** What a diagram says of a step. Reads are written as comparisons, writes as assignments. */
function stepText(execution: Execution, i: number, drain: boolean, name: string, text: string): string {
  const { events } = execution;
  const kind = events.kind[i] as OpKind;
  const hex = events.wide[i] === 1;
  const result = show(events.resultLo[i] as number, events.resultHi[i] as number, hex);
  const operand = show(events.lo[i] as number, events.hi[i] as number, hex);
  if (drain) return `${name} = ${operand} is visible`;
  if (kind === OpKind.Lifetime) return text === "" ? `${name} is in use again` : `${name}: ${text}`;
  if (text !== "" && text !== QUIET) return text;
  switch (kind) {
    case OpKind.Load:
      return `${name} == ${result}`;
    case OpKind.Await:
      return `wait: ${name} == ${result}`;
    case OpKind.Store:
    case OpKind.StoreNow:
      return `${name} = ${operand}`;
    case OpKind.CompareExchange: {
      const expected = show(events.expectedLo[i] as number, events.expectedHi[i] as number, hex);
      const failed = result === expected ? "" : ` fails: ${result}`;
      return `cmpxchg(${name}, ${expected}, ${operand})${failed}`;
    }
    case OpKind.Exchange:
      return `xchg(${name}, ${operand}) == ${result}`;
    case OpKind.Add:
      return `xadd(${name}, ${operand}) == ${result}`;
    case OpKind.And:
      return `and(${name}, ${operand}), was ${result}`;
    case OpKind.Or:
      return `or(${name}, ${operand}), was ${result}`;
    case OpKind.Acquire:
    case OpKind.AcquireShared:
      return `acquire(${name})`;
    case OpKind.ReleaseShared:
      return `release(${name})`;
    case OpKind.Fence:
      return "smp_mb()";
    case OpKind.Choose:
      return `choose ${result}`;
    default:
      return operationName(kind).toLowerCase();
  }
}

// --- source places -------------------------------------------------------------------------------------------------

const ENGINE_FOLDER = fileURLToPath(new URL(".", import.meta.url));
const TASK_FILES = /[\\/]task\.[jt]s$/;

function stackOf(world: World): SourcePlace[] {
  return [...(world.foreignStack?.() ?? []), ...captureStack()];
}

/** The call stack of the running task, without the engine's own frames, innermost first. */
function captureStack(): SourcePlace[] {
  // oxlint-disable-next-line typescript/unbound-method -- put back as it was
  const prepare = Error.prepareStackTrace;
  const limit = Error.stackTraceLimit;
  Error.stackTraceLimit = 60;
  let sites: NodeJS.CallSite[] = [];
  Error.prepareStackTrace = (_error, callSites) => {
    sites = callSites;
    return "";
  };
  const holder: { stack?: string } = {};
  Error.captureStackTrace(holder, captureStack);
  void holder.stack;
  Error.prepareStackTrace = prepare;
  Error.stackTraceLimit = limit;
  const places: SourcePlace[] = [];
  for (const site of sites) {
    if (isBelowTask(site)) break;
    const place = placeOf(site);
    if (place !== null) places.push(place);
  }
  return places;
}

/** Who runs the task, and whoever called that. */
function isBelowTask(site: NodeJS.CallSite): boolean {
  const file = site.getFileName() ?? "";
  return TASK_FILES.test(file) && pathOf(file).startsWith(ENGINE_FOLDER) && !site.getFunctionName()?.endsWith("offer");
}

function placeOf(site: NodeJS.CallSite): SourcePlace | null {
  const url = site.getFileName();
  const name = site.getFunctionName();
  if (!url || name === null || name === "next") return null;
  if (!url.startsWith("file:") && !isAbsolute(url)) return null;
  const path = pathOf(url);
  if (path.startsWith(ENGINE_FOLDER)) return null;
  const mapped = originalPlace(url, path, site.getLineNumber() ?? 0, site.getColumnNumber() ?? 0);
  return { function: kernelName(name), file: mapped.file, line: mapped.line };
}

/** A test runner's own loader gives paths, Node gives URLs. */
function pathOf(file: string): string {
  return file.startsWith("file:") ? fileURLToPath(file) : file;
}

function originalPlace(url: string, path: string, line: number, column: number): { file: string; line: number } {
  const entry = findSourceMap(url)?.findEntry(line - 1, column - 1);
  if (entry !== undefined && "originalSource" in entry) {
    const file = entry.originalSource.startsWith("file:") ? fileURLToPath(entry.originalSource) : entry.originalSource;
    return { file, line: entry.originalLine + 1 };
  }
  return { file: path, line };
}

/** `tdpMmuSetSpteAtomic` is `tdp_mmu_set_spte_atomic`. */
export function kernelName(name: string): string {
  const bare = name.split(".").at(-1) as string;
  return bare.replace(/([a-z0-9])([A-Z])/g, "$1_$2").toLowerCase();
}
