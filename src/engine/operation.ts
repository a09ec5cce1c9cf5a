/**
 * What a task may ask for.
 *
 * A task asks for one operation at a time and is resumed with its result. In TypeScript it does so by `yield*`:
 *
 *     const seq = yield* load(kvm.mmuInvalidateSeq);
 *
 * Every `yield*` of an operation is a place where another CPU may run, and nothing else is. An operation is plain
 * data (a kind, an address, a size, operands), so that a task of another kind, such as a kernel function compiled from C
 * and suspended at a marked access, can fill in the same record.
 *
 * When the driver knows that the same task goes on, the operation completes where it stands and the generators above it
 * are not unwound: that is what keeps deep call chains cheap (docs/decisions/0001-tasks.md).
 */
import { UsageError } from "./assert.ts";
import type { AccessSize } from "./heap.ts";
import type { Task } from "./task.ts";
import { numberOfHalves, TWO32, type U64, u64 } from "./u64.ts";

/** Kinds of operation; docs/engine.md gives the semantics and the dependency relation of each. */
export const OpKind = {
  /** Marked load (READ_ONCE). Under TSO takes the newest own buffered store, else memory. */
  Load: 0,
  /** Marked store (WRITE_ONCE, smp_store_release). Under TSO enters the store buffer. */
  Store: 1,
  /** A store that memory sees at once and that orders nothing else: bookkeeping of the machine, not of a program. */
  StoreNow: 2,
  /** Locked read-modify-writes; under TSO they wait for the own store buffer to drain. */
  Exchange: 3,
  Add: 4,
  And: 5,
  Or: 6,
  /** Locked compare-exchange; a failed one is a read (and still a full barrier). */
  CompareExchange: 7,
  /** A load that waits until its predicate holds; the task is disabled until then. */
  Await: 8,
  /** A read-modify-write that waits until its predicate holds: exclusive locks, mutexes, wait queues. */
  Acquire: 9,
  /** As Acquire, but commutes with AcquireShared and ReleaseShared: the reader side of a rwlock. */
  AcquireShared: 10,
  ReleaseShared: 11,
  /** Full barrier: waits until the own store buffer is empty. */
  Fence: 12,
  /** Nondeterminism: any number from 0 to n-1. */
  Choose: 13,
  /** Starts another task. */
  Spawn: 14,
  /** Waits until a task has ended. */
  Join: 15,
  /** Ends (or begins anew) the life of an object: accesses to it that come later are failures. */
  Lifetime: 16,
  /** No effect on memory; a step that a reader of the diagram should see. */
  Note: 17,
} as const;
export type OpKind = (typeof OpKind)[keyof typeof OpKind];

/** True for operations that wait for the own store buffer to be empty. */
export function isDraining(kind: OpKind): boolean {
  return kind >= OpKind.Exchange && kind !== OpKind.Await && kind <= OpKind.Fence;
}

/** The predicate of an awaiting operation, on the current value of its location. */
export type Ready = (value: number) => boolean;
/** The new value that an acquiring operation stores, from the current one. */
export type Update = (value: number) => number;

/** The steps of a task, or of a function of it: a generator that asks for operations and returns a `T`. */
export type Steps<T> = Generator<Operation<unknown>, T, void>;

/** In an operation's text: here goes the name of the place. A name is made when somebody reads it, and not at every access. */
export const PLACE = "\u0001";

/** An operation's text as people read it. */
export function shownText({ text, addr, task }: Operation<unknown>): string {
  return text.includes(PLACE) ? text.replace(PLACE, task.world.nameOf(addr)) : text;
}

/** Each task has one operation record, filled in anew for each request. */
export class Operation<T> implements Iterator<Operation<unknown>, T, void> {
  readonly task: Task;
  kind: OpKind = OpKind.Note;
  addr = 0;
  size: AccessSize = 8;
  /** True when the result is a {@link U64}, not a number. */
  wide = false;
  /** Operand: the value to store, add, exchange; n of Choose; the task of Join. */
  lo = 0;
  hi = 0;
  /** Expected value of CompareExchange. */
  expectedLo = 0;
  expectedHi = 0;
  ready: Ready | null = null;
  update: Update | null = null;
  /** What the diagram says instead of the bare access ("read_lock(&gpc->lock)"), and why an object's life ends; see {@link shownText}. */
  text = "";
  /** Result, filled in by the driver. */
  resultLo = 0;
  resultHi = 0;

  private suspended = false;
  /** Asked for, and not yet handed to a `yield*`. */
  private unclaimed = false;
  private readonly asked: IteratorYieldResult<Operation<unknown>>;
  private readonly answered: { done: true; value: T };

  constructor(task: Task) {
    this.task = task;
    this.asked = { done: false, value: this as Operation<unknown> };
    this.answered = { done: true, value: undefined as T };
  }

  [Symbol.iterator](): this {
    return this;
  }

  /**
   * A new request begins.
   * @throws UsageError when the one before was never handed to a `yield*`: it would have been lost without a word
   */
  begin(): void {
    if (this.unclaimed) throw this.lost();
    this.unclaimed = true;
  }

  /** The task has ended, or has given up control. @throws UsageError when it did so without a `yield*` of its request */
  checkClaimed(): void {
    if (this.unclaimed) throw this.lost();
  }

  private lost(): UsageError {
    this.unclaimed = false;
    const what = Object.entries(OpKind).find(([, kind]) => kind === this.kind)?.[0] ?? "operation";
    const place = this.addr === 0 ? "" : ` of ${this.task.world.nameOf(this.addr)}`;
    return new UsageError(`task ${this.task.name} asks for a ${what}${place} without yield*; write yield* before it`);
  }

  next(): IteratorResult<Operation<unknown>, T> {
    this.unclaimed = false;
    if (!this.suspended && !this.task.offer()) {
      this.suspended = true;
      return this.asked;
    }
    this.suspended = false;
    this.answered.value = (
      this.wide ? u64(this.resultHi, this.resultLo) : numberOfHalves(this.resultHi, this.resultLo)
    ) as T;
    return this.answered;
  }

  /** Forgets an unanswered request: the generator that made it is gone. */
  abandon(): void {
    this.suspended = false;
    this.unclaimed = false;
  }

  set(kind: OpKind, addr: number, size: AccessSize, wide: boolean): void {
    this.kind = kind;
    this.addr = addr;
    this.size = size;
    this.wide = wide;
    this.lo = 0;
    this.hi = 0;
    this.ready = null;
    this.update = null;
    this.text = "";
  }

  setOperand(value: number | U64): void {
    if (typeof value === "number") {
      this.lo = value >>> 0;
      this.hi = value < TWO32 && value >= 0 ? 0 : Math.floor(value / TWO32) >>> 0;
    } else {
      this.lo = value.lo >>> 0;
      this.hi = value.hi >>> 0;
    }
  }

  setExpected(value: number | U64): void {
    if (typeof value === "number") {
      this.expectedLo = value >>> 0;
      this.expectedHi = value < TWO32 && value >= 0 ? 0 : Math.floor(value / TWO32) >>> 0;
    } else {
      this.expectedLo = value.lo >>> 0;
      this.expectedHi = value.hi >>> 0;
    }
  }
}
