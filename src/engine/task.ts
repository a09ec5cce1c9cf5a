/**
 * A task: anything that can be resumed with the result of its last operation.
 *
 * A task's course depends only on the results that it got, so it is remembered as the log of those results. A driver
 * that takes back some of a task's operations drops its body, and rebuilds it when it is needed again by feeding a fresh
 * one the log ("ghost" mode: plain reads come from the log too, and nothing is written). Whatever a task shares must
 * therefore live in the heap; whatever lives in its closures or in {@link Task.local} must follow from its results.
 */
import { assert } from "./assert.ts";
import { chain, copyHash, type Hash, newHash, setHash } from "./hash.ts";
import { Operation, type Steps } from "./operation.ts";
import type { World } from "./world.ts";

/** The running half of a task. */
export interface TaskBody {
  /** Runs to the next request (made in the task's {@link Operation}) or to the end; true at the end. */
  resume(): boolean;
  /** What the task returned; meaningful once {@link resume} has returned true. */
  readonly value: unknown;
}

const CALLED: IteratorYieldResult<Operation<unknown>> = {
  done: false,
  value: undefined as unknown as Operation<unknown>,
};

/** Generators of each function are a class of their own, so looking the method up would be slow here, where all tasks go through. */
const NEXT: () => IteratorResult<Operation<unknown>, unknown> = Object.getPrototypeOf(
  Object.getPrototypeOf((function* () {})()),
).next;

function raise(error: unknown): never {
  throw error;
}

/** A task written as a TypeScript generator. */
export class GeneratorBody implements TaskBody {
  value: unknown = undefined;
  /** What the callee of the last deep call returned (deep-call.ts). */
  returned: unknown = undefined;
  /** What runs: the task's own steps, or the callee of a deep call. */
  private steps: Steps<unknown>;
  /** Those that wait for it to end, the outermost first. */
  private readonly callers: Steps<unknown>[] = [];
  private callee: Steps<unknown> | null = null;

  constructor(steps: Steps<unknown>) {
    this.steps = steps;
  }

  resume(): boolean {
    let thrown: { readonly error: unknown } | null = null;
    for (;;) {
      let result: IteratorResult<Operation<unknown>, unknown>;
      try {
        result = thrown === null ? NEXT.call(this.steps) : this.steps.throw(thrown.error);
      } catch (error) {
        this.steps = this.callers.pop() ?? raise(error);
        thrown = { error };
        continue;
      }
      thrown = null;
      if (result.done === true) {
        const caller = this.callers.pop();
        if (caller === undefined) {
          this.value = result.value;
          return true;
        }
        this.returned = result.value;
        this.steps = caller;
      } else {
        const { callee } = this;
        if (callee === null) return false;
        this.callee = null;
        this.callers.push(this.steps);
        this.steps = callee;
      }
    }
  }

  /** A deep call: the steps that run give up control, and those of the callee run until they have ended. */
  enter(callee: Steps<unknown>): IteratorYieldResult<Operation<unknown>> {
    this.callee = callee;
    return CALLED;
  }
}

/** Makes a task's body, from the beginning. */
export type BodyFactory = (task: Task) => TaskBody;

/** Many a task of a sequential run never remembers anything. */
const NO_LOG = new Uint32Array(0);
const FIRST_LOG = 64;

export class Task {
  readonly world: World;
  /** Index of the task, and of its row in clocks and schedules. */
  readonly lane: number;
  readonly name: string;
  readonly op: Operation<unknown>;
  /** A daemon serves others and need not end. */
  readonly daemon: boolean;
  /** False for a task that is never taken back, and so need not remember what it learns. */
  remembers = true;
  /** Nobody watches its plain accesses: no races are looked for, nothing is taken back, no store waits in a buffer. */
  unwatched = false;
  /** Nobody runs beside it, either. */
  alone = false;
  /** State that follows from the task's own results; the kernel floor keeps `current` here. */
  local: unknown = undefined;
  /** Null when operations of this task were taken back since the body last ran. */
  body: TaskBody | null = null;
  /** The task has asked for its first operation, or ended without one. */
  started = false;
  finished = false;
  /** It violated a property and went no further; whoever waits for it waits in vain, which is no finding. */
  halted = false;
  value: unknown = undefined;
  /** Operations completed. */
  completed = 0;
  /** Next free byte of the task's arena. */
  arenaNext = 0;
  /** End of the arena's free part: pages come from there. */
  arenaTop = 0;
  /** Tasks that it has spawned. */
  spawned = 0;

  /**
   * Where the task stands: a hash of all that it has learned since it began, or since the last head of a loop that it declared.
   * Null unless states are compared.
   */
  position: Hash | null = null;

  private readonly factory: BodyFactory;
  private log: Uint32Array = NO_LOG;
  private logLength = 0;
  private logRead = 0;
  /** Operations still to be answered from the log while the body is rebuilt; -1 when it runs for real. */
  private ghostLeft = -1;

  constructor(world: World, lane: number, name: string, factory: BodyFactory, daemon: boolean) {
    this.world = world;
    this.lane = lane;
    this.name = name;
    this.factory = factory;
    this.daemon = daemon;
    this.op = new Operation(this);
  }

  get ghost(): boolean {
    return this.ghostLeft >= 0;
  }

  /** Operations that lie behind the code that is running: all that are completed, or fewer while the body is rebuilt. */
  get made(): number {
    return this.ghostLeft < 0 ? this.completed : this.completed - this.ghostLeft;
  }

  /** Length of the log: what {@link takeBack} returns to. */
  get logMark(): number {
    return this.logLength;
  }

  /** Called by the task's operation: true when it has been answered without giving up control. */
  offer(): boolean {
    if (this.ghostLeft < 0) {
      this.world.onRequest?.(this);
      return this.world.driver.offer(this);
    }
    if (this.ghostLeft === 0) return false;
    this.ghostLeft--;
    this.replay();
    this.op.resultLo = this.log[this.logRead - 2] as number;
    this.op.resultHi = this.log[this.logRead - 1] as number;
    return true;
  }

  /** Remembers a value that the task learns: the result of an operation or of a plain read. */
  record(lo: number, hi: number): void {
    if (!this.remembers) return;
    const length = this.logLength;
    if (length + 2 > this.log.length) {
      const log = new Uint32Array(Math.max(FIRST_LOG, this.log.length * 2));
      log.set(this.log);
      this.log = log;
    }
    this.log[length] = lo;
    this.log[length + 1] = hi;
    this.logLength = length + 2;
    if (this.position !== null) chain(this.position, lo, hi);
  }

  /** In ghost mode: the low half of the next remembered value; the high half goes to the heap's register. */
  replay(): number {
    const at = this.logRead;
    assert(at < this.logLength, `task ${this.name} asks for more than it was told: it depends on something unrecorded`);
    this.logRead = at + 2;
    const lo = this.log[at] as number;
    const hi = this.log[at + 1] as number;
    if (this.position !== null) chain(this.position, lo, hi);
    this.world.heap.high = hi;
    return lo;
  }

  /** Runs up to the next request for real; true at the end. The driver has put the result into {@link op}. */
  resume(): boolean {
    if (this.body === null) this.rebuild();
    return this.run();
  }

  /**
   * Declares a loop, for state-graph search. At its head the caller names everything on which the rest of the loop depends; what the
   * task learned inside the loop before that is forgotten, so that going round can lead back to a known state.
   */
  startLoop(): (...values: readonly number[]) => void {
    if (this.position === null) return () => undefined;
    const mark = copyHash(this.position);
    return (...values) => {
      const { position } = this;
      assert(position !== null, "a loop outlived its search");
      setHash(position, mark);
      for (const value of values) chain(position, value >>> 0, Math.floor(value / 0x1_0000_0000) >>> 0);
    };
  }

  /** Runs from the beginning to the first request. */
  start(): void {
    this.started = true;
    this.body = this.create();
    this.run();
  }

  /** Takes back all but the first operations; the driver restores {@link op} to the next one's request, and {@link position}. */
  takeBack(completed: number, logMark: number): void {
    this.completed = completed;
    this.logLength = logMark;
    this.dropBody();
  }

  /** Back to before the task began. */
  reset(): void {
    this.started = false;
    this.completed = 0;
    this.logLength = 0;
    this.dropBody();
  }

  /** Makes the body stand at the pending request again, if it does not. */
  rebuild(): void {
    if (this.body !== null) return;
    const previous = this.world.current;
    this.world.current = this;
    const { resultLo, resultHi } = this.op;
    this.logRead = 0;
    this.ghostLeft = this.completed;
    this.body = this.create();
    const ended = this.body.resume();
    this.ghostLeft = -1;
    assert(!ended, `task ${this.name} ended while it was rebuilt: it depends on something unrecorded`);
    assert(this.logRead === this.logLength, `task ${this.name} took another course when it was rebuilt`);
    this.op.resultLo = resultLo;
    this.op.resultHi = resultHi;
    this.world.current = previous;
  }

  private run(): boolean {
    const previous = this.world.current;
    this.world.current = this;
    try {
      const body = this.body as TaskBody;
      const ended = body.resume();
      this.op.checkClaimed();
      if (ended) {
        this.finished = true;
        this.value = body.value;
      }
    } finally {
      this.world.current = previous;
    }
    return this.finished;
  }

  private create(): TaskBody {
    this.arenaNext = this.world.arenaStart(this.lane);
    this.arenaTop = this.arenaNext + this.world.arenaBytes;
    this.spawned = 0;
    if (this.position !== null) this.position.fill(0);
    else if (this.world.comparesStates) this.position = newHash();
    this.local = this.world.makeLocal(this);
    this.op.abandon();
    return this.factory(this);
  }

  private dropBody(): void {
    this.body = null;
    this.finished = false;
    this.halted = false;
    this.value = undefined;
    this.op.abandon();
  }
}
