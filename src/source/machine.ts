/**
 * A compiled kernel in a modelled world: its functions are steps of tasks.
 *
 *     0                      heap.bytes
 *     |--- the world's heap ---|- bits of racing places -|- stacks of the tasks -|
 *       6144: the module's variables, then what set-up and tasks allocate
 *
 * The module's linear memory begins with the world's heap, so an address in C is an address of the heap, and set-up code runs at full speed on it.
 * During exploration every access of C code to the heap calls out (runtime/access.c): plain ones are answered at once, journaled, remembered and
 * checked for races by the world; operations go to the driver. When the driver gives the turn to somebody else, the C frames are unwound into the
 * task's buffer (asyncify), and rewound when it is the task's turn again. A task that was taken back is run anew from its log, like any other.
 *
 * What the module does not define is a service (services.ts): a function here that answers at once, or steps that ask for operations and may
 * call the kernel again. So frames of C and of TypeScript alternate; each stretch of C has a frame below.
 */
import {
  type AccessSize,
  assert,
  chain,
  copyHash,
  EngineBug,
  fence,
  type Hash,
  type Operation,
  OpKind,
  type SourcePlace,
  type Steps,
  setHash,
  type Task,
  type U64,
  UsageError,
  u64,
  Violation,
  type World,
} from "../engine/index.ts";
import { fieldName, type Image, type ImportKind, placesOfSite } from "./image.ts";

/** What a service answers: a number; wider values as bigints. */
// biome-ignore lint/suspicious/noConfusingVoidType: a service without a result ends without a return
export type Answer = number | bigint | undefined | void;
/** Something the kernel calls that is not compiled: answers at once, or asks for operations. */
export type Service = (kernel: CompiledKernel, ...args: number[]) => Answer | Steps<Answer>;
export type Services = Readonly<Record<string, Service>>;

const STACK_BYTES = 0x10000;
const BUFFER_BYTES = 0x4000;
const NESTING_MAX = 4;
/** RW_PERCPU_BYTES */
const PERCPU_BYTES = 4096;
const LANE_BYTES = STACK_BYTES + NESTING_MAX * BUFFER_BYTES;
const WASM_PAGE = 0x10000;

type WasmFunction = (...args: (number | bigint)[]) => number | bigint | undefined;

/** One stretch of C frames of a task. */
interface Frame {
  /** Where it is unwound to. */
  readonly buffer: number;
  /** The stack pointer where C has called out. */
  stackPointer: number;
  /** For replays: the C functions of the stretch, innermost first. */
  places: readonly SourcePlace[];
}

/** The C side of a task; begins anew with each body of it. */
interface Thread {
  readonly task: Task;
  /** Tells one body of a task from the next. */
  readonly local: unknown;
  readonly stackTop: number;
  readonly frames: Frame[];
  depth: number;
}

/** Why C code was unwound: an operation was not answered, or (with steps) a service's was not. */
interface Pending {
  readonly steps: Steps<Answer> | null;
  /** The steps have asked for something already. */
  readonly begun: boolean;
  readonly kind: ImportKind;
}

const OPERATION: Pending = { steps: null, begun: true, kind: "i32" };

export class CompiledKernel {
  readonly world: World;
  readonly image: Image;
  /** The task_struct of a lane, and whatever else follows from it; set by the scene. */
  taskStruct: (lane: number) => number = () => 0;
  private readonly services: Services;
  private readonly exports: WebAssembly.Exports;
  private readonly memory: WebAssembly.Memory;
  private readonly words: Uint32Array;
  private readonly bytes: Uint8Array;
  private readonly stackPointer: WebAssembly.Global;
  private readonly at: Readonly<Record<string, number>>;
  private readonly threads = new Map<number, Thread>();
  private readonly stacks: number;
  private readonly racingBits: number;
  /** What lies between CPU 0's per-CPU variables and each CPU's, 8 bytes each. */
  private readonly percpuOffsets: number;
  private running: Thread | null = null;
  private pending: Pending | null = null;
  private rewinding = false;
  private answer: number | bigint | undefined = undefined;
  private hashes = false;
  private onEvent: ((name: string, structure: string, entry: number) => void) | null = null;
  /** Texts of C that do not change, by address. */
  private readonly texts = new Map<number, string>();

  /** Set-up only, before anything else is allocated. */
  constructor(world: World, image: Image, services: Services) {
    this.world = world;
    this.image = image;
    this.services = services;
    const { description } = image;
    const { dataStart, dataEnd } = description;
    const data = world.allocate(dataEnd - dataStart, "", (offset) => this.variableName(dataStart + offset), null, 2048);
    assert(data === dataStart, `the module's data lies at ${dataStart}, and was given ${data}`);
    const { heap } = world;
    this.racingBits = heap.bytes;
    this.stacks = Math.ceil((heap.bytes + heap.bytes / 64) / WASM_PAGE) * WASM_PAGE;
    const total = this.stacks + LANE_BYTES * world.tasksMax;
    this.memory = new WebAssembly.Memory({ initial: Math.ceil(total / WASM_PAGE) });
    heap.moveTo(this.memory.buffer, dataEnd);
    this.words = new Uint32Array(this.memory.buffer);
    this.bytes = new Uint8Array(this.memory.buffer);
    const instance = new WebAssembly.Instance(image.module, { env: this.environment(), racewalk: this.accesses() });
    this.exports = instance.exports;
    this.stackPointer = this.exports["__stack_pointer"] as WebAssembly.Global;
    this.at = Object.fromEntries(
      Object.entries(this.exports).flatMap(([name, value]) =>
        value instanceof WebAssembly.Global && name !== "__stack_pointer" ? [[name, Number(value.value)]] : [],
      ),
    );
    this.percpuOffsets = this.addressOf("rw_percpu_offsets");
    this.set("rw_memory_bytes", heap.bytes);
    this.set("rw_constants_from", description.constants[0]);
    this.set("rw_constants_bytes", description.constants[1]);
    world.foreignStack = () => this.places();
  }

  // --- variables and names -----------------------------------------------------------------------------------------

  /** Sets an exported variable of the run-time. */
  set(name: string, value: number): void {
    const addr = this.at[name];
    assert(addr !== undefined, `the module does not export ${name}`);
    this.words[addr >>> 2] = value;
  }

  /** From here on tracepoints are told: their name, their structure, and where it is. */
  traceEvents(onEvent: (name: string, structure: string, entry: number) => void): void {
    this.onEvent = onEvent;
    this.set("rw_tracing", 1);
  }

  /** Memory as it is, the stacks of C included: for events, and for set-up. */
  peek(addr: number, size: AccessSize): number {
    if (size === 1) return this.bytes[addr] as number;
    const word = this.words[addr >>> 2] as number;
    if (size === 2) return (word >>> (8 * (addr & 3))) & 0xffff;
    return size === 4 ? word : (this.words[(addr >>> 2) + 1] as number) * 0x1_0000_0000 + word;
  }

  /** The high half of 8 bytes. */
  peekHigh(addr: number): number {
    return this.words[(addr >>> 2) + 1] as number;
  }

  /** Writes what nobody else looks at yet. */
  poke(addr: number, size: AccessSize, value: number): void {
    if (size === 1) this.bytes[addr] = value;
    else this.words[addr >>> 2] = value >>> 0;
    if (size === 8) this.words[(addr >>> 2) + 1] = Math.floor(value / 0x1_0000_0000);
  }

  /** Address of a variable of the kernel. */
  addressOf(name: string): number {
    const found = this.image.description.variables.find(([, , variable]) => variable === name);
    assert(found !== undefined, `the kernel has no variable ${name}`);
    return found[0];
  }

  /** Offset of a field in a structure of the kernel. */
  offsetOf(structure: string, field: string): number {
    const found = this.image.description.structs[structure]?.fields.find(([, , name]) => name === field);
    assert(found !== undefined, `struct ${structure} has no field ${field}`);
    return found[0];
  }

  private variableName(addr: number): string {
    const { variables } = this.image.description;
    const copies = variables.find(([, , variable]) => variable === "rw_percpu_copies");
    if (copies !== undefined && addr >= copies[0] && addr < copies[0] + copies[1]) {
      const cpu = Math.floor((addr - copies[0]) / PERCPU_BYTES);
      return `${this.variableName(addr - this.percpuOffset(cpu))} of CPU ${cpu}`;
    }
    const found = variables.find(([at, bytes]) => addr >= at && addr < at + bytes);
    if (found === undefined) return `0x${addr.toString(16)}`;
    const [at, bytes, variable, type] = found;
    // The run-time's own structures stand for objects that are somewhere else in a real kernel.
    const isOwn = variable.startsWith("rw_");
    const name = isOwn ? variable.slice(3) : variable;
    const separator = isOwn ? "->" : ".";
    const size = this.image.description.structs[type]?.bytes ?? 0;
    const offset = addr - at;
    if (size === 0 || bytes < 2 * size)
      return withField(name, fieldName(this.image.description, type, offset), separator);
    const element = `${name}[${Math.floor(offset / size)}]`;
    return withField(element, fieldName(this.image.description, type, offset % size), ".");
  }

  private percpuOffset(cpu: number): number {
    return this.words[(this.percpuOffsets >>> 2) + 2 * cpu] as number;
  }

  /** A function that names the fields of a structure, for objects that are allocated. */
  describe(structure: string): (offset: number) => string {
    return (offset) => fieldName(this.image.description, structure, offset);
  }

  /** A text of C. */
  text(addr: number): string {
    let end = addr;
    while (this.bytes[end] !== 0 && end - addr < 256) end++;
    return new TextDecoder().decode(this.bytes.slice(addr, end));
  }

  private constantText(addr: number): string {
    const known = this.texts.get(addr);
    if (known !== undefined) return known;
    const text = this.text(addr);
    this.texts.set(addr, text);
    return text;
  }

  /** Makes plain accesses to these places operations. Set-up only. */
  treatAsMarked(addresses: Iterable<number>): void {
    for (const addr of addresses) {
      const byte = this.racingBits + (addr >>> 6);
      this.bytes[byte] = (this.bytes[byte] as number) | (1 << ((addr >>> 3) & 7));
      this.set("rw_racing", this.racingBits);
    }
  }

  /** Writes memory of the running task: its stack where it is, anything else as a plain access. */
  write(addr: number, size: AccessSize, value: number): void {
    const hi = value < 0 ? 0xffffffff : Math.floor(value / 0x1_0000_0000);
    if (addr < this.world.heap.bytes) {
      this.world.plainWrite(addr, size, value >>> 0, hi);
      return;
    }
    if (size === 1) this.bytes[addr] = value;
    else this.words[addr >>> 2] = value;
    if (size === 8) this.words[(addr >>> 2) + 1] = hi;
  }

  /** Reads memory of the running task that is no stack of C, as a plain access. */
  read(addr: number, size: AccessSize): number {
    const lo = this.world.plainRead(addr, size);
    return this.world.heap.high * 0x1_0000_0000 + (lo >>> 0);
  }

  /** All of 8 bytes. */
  readWide(addr: number): U64 {
    const lo = this.world.plainRead(addr, 8);
    return u64(this.world.heap.high, lo);
  }

  // --- calling C -----------------------------------------------------------------------------------------------------

  /** Whether the module has a function: older kernels lack some. */
  has(name: string): boolean {
    return typeof this.exports[name] === "function";
  }

  /** Calls a function of the run-time or the kernel, as steps of the running task. */
  call(name: string, ...args: readonly (number | bigint)[]): Steps<number> {
    const fn = this.exports[name];
    if (typeof fn !== "function") throw new EngineBug(`the module does not export ${name}()`);
    return this.run(fn as WasmFunction, args);
  }

  /** Calls through a function pointer. */
  callPointer(pointer: number, ...args: readonly (number | bigint)[]): Steps<number> {
    const table = this.exports["__indirect_function_table"] as WebAssembly.Table;
    return this.run(table.get(pointer) as WasmFunction, args);
  }

  private *run(fn: WasmFunction, args: readonly (number | bigint)[]): Steps<number> {
    const thread = this.thread();
    const depth = thread.depth++;
    assert(depth < NESTING_MAX, "C and TypeScript call each other too deep");
    const frame = this.frameOf(thread, depth);
    const { position } = thread.task;
    const base = position === null ? null : copyHash(position);
    const below = depth === 0 ? thread.stackTop : (thread.frames[depth - 1] as Frame).stackPointer;
    if (base !== null) this.bytes.fill(0, thread.stackTop - STACK_BYTES, below);
    this.enter(thread, below);
    let result = this.invoke(fn, args);
    while (this.pending !== null) {
      const pending = this.pending;
      this.pending = null;
      frame.stackPointer = this.stopUnwinding();
      if (base !== null && position !== null) this.hashFrame(thread, frame, below, base, position);
      const { op } = thread.task;
      if (pending.steps === null) {
        yield op;
        this.words[(this.at["rw_high"] as number) >>> 2] = op.resultHi;
        this.answer = op.resultLo;
      } else {
        this.answer = converted(yield* this.drive(pending.steps, pending.begun, op), pending.kind);
      }
      this.enter(thread, frame.stackPointer);
      (this.exports["asyncify_start_rewind"] as WasmFunction)(frame.buffer);
      this.rewinding = true;
      result = this.invoke(fn, args);
    }
    thread.depth = depth;
    const value = typeof result === "bigint" ? Number(result) : (result ?? 0);
    if (base !== null && position !== null) {
      setHash(position, base);
      chain(position, value >>> 0, depth + 1);
    }
    return value;
  }

  private *drive(steps: Steps<Answer>, begun: boolean, op: Operation<unknown>): Steps<Answer> {
    if (begun) yield op;
    return yield* steps;
  }

  private invoke(fn: WasmFunction, args: readonly (number | bigint)[]): number | bigint | undefined {
    try {
      return fn(...args.map((arg) => this.argument(arg)));
    } catch (error) {
      if (!(error instanceof WebAssembly.RuntimeError)) throw error;
      throw new Violation("oops", `${this.running?.task.name ?? "set-up"}: ${error.message}`);
    }
  }

  /** Parameters of C are 64 bits wide wherever they are addresses or longs, which is how the run-time's entry points have them. */
  private argument(arg: number | bigint): bigint | number {
    return arg;
  }

  private stopUnwinding(): number {
    (this.exports["asyncify_stop_unwind"] as WasmFunction)();
    return Number(this.stackPointer.value);
  }

  /** C code of the thread is about to run. */
  private enter(thread: Thread, stackPointer: number): void {
    this.stackPointer.value = BigInt(stackPointer);
    if (this.running === thread) return;
    this.running = thread;
    const { lane } = thread.task;
    this.set("rw_native", this.world.started ? 0 : 1);
    this.set("rw_current", this.taskStruct(lane));
    this.set("rw_cpu", lane);
    this.set("rw_percpu_offset", this.percpuOffset(lane));
    this.set("rw_stacks_from", thread.stackTop - STACK_BYTES);
    this.set("rw_stacks_bytes", STACK_BYTES);
    this.hashes = this.world.comparesStates && this.world.started;
  }

  private thread(): Thread {
    const task = this.world.current;
    assert(task !== null, "C code runs outside any task");
    const known = this.threads.get(task.lane);
    if (known !== undefined && known.task === task && known.local === task.local) return known;
    const bottom = this.stacks + LANE_BYTES * task.lane;
    const thread: Thread = { task, local: task.local, stackTop: bottom + STACK_BYTES, frames: [], depth: 0 };
    this.threads.set(task.lane, thread);
    return thread;
  }

  private frameOf(thread: Thread, depth: number): Frame {
    const known = thread.frames[depth];
    const buffer = thread.stackTop + depth * BUFFER_BYTES;
    const frame = known ?? { buffer, stackPointer: 0, places: [] };
    thread.frames[depth] = frame;
    return frame;
  }

  /** Where the task stands: what it knew when it called C, and the frames of C as they were unwound. */
  private hashFrame(thread: Thread, frame: Frame, below: number, base: Hash, position: Hash): void {
    setHash(position, base);
    const end = this.words[frame.buffer >>> 2] as number;
    for (let at = (frame.buffer + 8) >>> 2; at < end >>> 2; at++) chain(position, this.words[at] as number, 0);
    for (let at = frame.stackPointer >>> 2; at < below >>> 2; at++) chain(position, this.words[at] as number, 1);
    const { op } = thread.task;
    chain(position, op.addr, op.kind);
    chain(position, op.lo, op.hi);
  }

  private unwind(thread: Thread, pending: Pending): void {
    this.pending = pending;
    const { buffer } = thread.frames[thread.depth - 1] as Frame;
    this.words[buffer >>> 2] = buffer + 8;
    this.words[(buffer >>> 2) + 1] = buffer + BUFFER_BYTES;
    (this.exports["asyncify_start_unwind"] as WasmFunction)(buffer);
  }

  private stopRewinding(): number | bigint | undefined {
    this.rewinding = false;
    (this.exports["asyncify_stop_rewind"] as WasmFunction)();
    return this.answer;
  }

  // --- called by C ---------------------------------------------------------------------------------------------------

  private accesses(): WebAssembly.ModuleImports {
    const { world } = this;
    return {
      load: (addr: number, size: AccessSize, site: number): number => {
        if (world.onPlain !== null) this.notePlaces(site);
        const lo = world.plainRead(addr >>> 0, size);
        this.words[(this.at["rw_high"] as number) >>> 2] = world.heap.high;
        return lo;
      },
      store: (addr: number, size: AccessSize, lo: number, hi: number, site: number): void => {
        if (world.onPlain !== null) this.notePlaces(site);
        world.plainWrite(addr >>> 0, size, lo >>> 0, hi >>> 0);
      },
      fill_fresh: (addr: number, bytes: number, lo: number, hi: number): number =>
        world.fillFresh(addr >>> 0, bytes, lo >>> 0, hi >>> 0) ? 1 : 0,
      operation: (...request: number[]): number => this.operation(request),
      wild: (lo: number, hi: number, site: number): never => {
        const value = (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
        throw new Violation("wild-pointer", `access to 0x${value.toString(16)}${this.where(site)}: no memory is there`);
      },
      event: (name: number, structure: number, entry: number): void => {
        this.onEvent?.(this.constantText(name >>> 0), this.constantText(structure >>> 0), entry >>> 0);
      },
      assembly: (site: number): never => {
        throw new UsageError(
          `the kernel gets to inline assembly${this.where(site)}; give it a C replacement in the override headers`,
        );
      },
    };
  }

  private operation(request: readonly number[]): number {
    if (this.rewinding) return this.stopRewinding() as number;
    const [kind, addr, size, lo, hi, oldLo, oldHi, site] = request as [
      number,
      number,
      number,
      number,
      number,
      number,
      number,
      number,
    ];
    const thread = this.running as Thread;
    const { op } = thread.task;
    if (kind === OpKind.Fence) fence(this.world).abandon();
    else op.set(kind as OpKind, addr >>> 0, size as AccessSize, false);
    if (kind !== OpKind.Fence) {
      op.lo = lo >>> 0;
      op.hi = hi >>> 0;
      op.expectedLo = oldLo >>> 0;
      op.expectedHi = oldHi >>> 0;
    }
    if (this.world.onRequest !== null) this.notePlaces(site);
    if (thread.task.offer()) {
      this.words[(this.at["rw_high"] as number) >>> 2] = op.resultHi;
      return op.resultLo;
    }
    this.unwind(thread, OPERATION);
    return 0;
  }

  private environment(): WebAssembly.ModuleImports {
    const { imports } = this.image.description;
    const functions = Object.entries(imports).map(([name, kind]): [string, WebAssembly.ImportValue] => [
      name,
      this.serviceImport(name, kind),
    ]);
    return { memory: this.memory, ...Object.fromEntries(functions) };
  }

  private serviceImport(name: string, kind: ImportKind): (...args: (number | bigint)[]) => number | bigint | undefined {
    // Events that no file here creates.
    const service = this.services[name] ?? (name.startsWith("tracepoint_") ? (): Answer => 0 : undefined);
    return (...args) => {
      if (this.rewinding) return this.stopRewinding();
      if (service === undefined) {
        throw new UsageError(
          `the kernel calls ${name}(), for which there is no service; add one to src/source/services.ts`,
        );
      }
      if (this.world.onRequest !== null) this.notePlaces(this.words[(this.at["rw_site"] as number) >>> 2] as number);
      const result = service(this, ...args.map(Number));
      if (!isSteps(result)) return converted(result, kind);
      return this.stepOut(result, kind);
    };
  }

  /** Runs a service's steps as far as they get without giving up the turn. */
  private stepOut(steps: Steps<Answer>, kind: ImportKind): number | bigint | undefined {
    const thread = this.running as Thread;
    const frame = thread.frames[thread.depth - 1] as Frame;
    if (this.hashes) {
      // The frames of C are part of the task's position before the service learns anything.
      this.unwind(thread, { steps, begun: false, kind });
      return kind === "i64" ? 0n : 0;
    }
    frame.stackPointer = Number(this.stackPointer.value);
    const result = steps.next();
    if (result.done) {
      this.enter(thread, frame.stackPointer);
      return converted(result.value, kind);
    }
    this.unwind(thread, { steps, begun: true, kind });
    return kind === "i64" ? 0n : 0;
  }

  // --- places ----------------------------------------------------------------------------------------------------------

  private where(site: number): string {
    const place = placesOfSite(this.image.description, site)[0];
    return place === undefined ? "" : ` at ${place.file}:${place.line} (${place.function})`;
  }

  /** For replays: where in C the running thread is. Of the calls around the innermost function only the names are known. */
  private notePlaces(site: number): void {
    const thread = this.running as Thread;
    const frame = thread.frames[thread.depth - 1];
    if (frame === undefined) return;
    const inner = placesOfSite(this.image.description, site);
    const outer = wasmFunctions().slice(1);
    frame.places = [...inner, ...outer.map((name) => ({ function: name, file: "", line: 0 }))];
  }

  private places(): SourcePlace[] {
    const task = this.world.current;
    const thread = task === null ? undefined : this.threads.get(task.lane);
    if (thread === undefined || thread.task !== task || thread.local !== task?.local) return [];
    return thread.frames
      .slice(0, thread.depth)
      .reverse()
      .flatMap(({ places }) => places);
  }
}

function withField(name: string, field: string, separator: string): string {
  if (field === "" || field.startsWith("+")) return name + field;
  return `${name}${separator}${field}`;
}

function isSteps(value: Answer | Steps<Answer>): value is Steps<Answer> {
  return typeof value === "object" && value !== null;
}

function converted(value: Answer, kind: ImportKind): number | bigint | undefined {
  if (kind === "void") return undefined;
  if (kind === "i64") return typeof value === "bigint" ? value : BigInt(value ?? 0);
  return Number(value ?? 0);
}

/** Names of the C functions on the call stack, innermost first, without those of the run-time. */
function wasmFunctions(): string[] {
  const limit = Error.stackTraceLimit;
  Error.stackTraceLimit = 60;
  const stack = new Error("where").stack ?? "";
  Error.stackTraceLimit = limit;
  const names = [...stack.matchAll(/^\s+at (\S+) \(wasm:\/\//gm)].map((match) => match[1] as string);
  return names.filter((name) => !/^rw_(?:load|store|cmpxchg|rmw|mem|mb)/.test(name));
}
