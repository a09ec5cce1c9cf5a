/**
 * The events of one execution, as columns.
 *
 * An event is one completed operation, or one store that left a store buffer. Columns of numbers keep an exploration of
 * millions of executions free of garbage. Everything needed to take an event back is here: the request as it was made,
 * and how long each journal was before.
 */
import type { Operation, Ready, Update } from "./operation.ts";

/** How an event touches its location; equal classes other than Write commute. */
export const AccessClass = { None: 0, Read: 1, Write: 2, Shared: 3 } as const;
export type AccessClass = (typeof AccessClass)[keyof typeof AccessClass];

/** True when the order of two accesses to one location can matter. */
export function conflicts(a: number, b: number): boolean {
  return a !== b || a === AccessClass.Write;
}

export class EventLog {
  length = 0;
  /** Who: a task's lane, or that of a store buffer. */
  lane = new Int32Array(0);
  /** The event is the lane's n-th, from 1. */
  nth = new Int32Array(0);
  /** Location of the access (an id of the access history), 0 for none. */
  location = new Int32Array(0);
  access = new Uint8Array(0);
  /** Location of the life of the object accessed, 0 for none. */
  life = new Int32Array(0);
  lifeAccess = new Uint8Array(0);
  /** Value of the location before the event. */
  oldLo = new Uint32Array(0);
  oldHi = new Uint32Array(0);
  resultLo = new Uint32Array(0);
  resultHi = new Uint32Array(0);

  kind = new Uint8Array(0);
  addr = new Float64Array(0);
  size = new Uint8Array(0);
  wide = new Uint8Array(0);
  lo = new Uint32Array(0);
  hi = new Uint32Array(0);
  expectedLo = new Uint32Array(0);
  expectedHi = new Uint32Array(0);
  readonly ready: (Ready | null)[] = [];
  readonly update: (Update | null)[] = [];
  readonly text: string[] = [];

  /** Lengths before the event, to return to. */
  heapMark = new Int32Array(0);
  historyMark = new Int32Array(0);
  plainMark = new Int32Array(0);
  traceMark = new Int32Array(0);
  logMark = new Int32Array(0);
  failureMark = new Int32Array(0);
  /** When states are compared, the hashes of memory and of the task's position before the event: eight words an event. */
  hashes = new Int32Array(0);
  /** Last event of the same lane before this one, -1 for none. */
  previous = new Int32Array(0);

  private capacity = 0;

  constructor() {
    this.reserve(256);
  }

  /** Makes room for one more event and returns its index; {@link length} is raised by the caller when it is complete. */
  next(): number {
    if (this.length === this.capacity) this.reserve(this.capacity * 2);
    return this.length;
  }

  saveRequest(i: number, op: Operation<unknown>): void {
    this.kind[i] = op.kind;
    this.addr[i] = op.addr;
    this.size[i] = op.size;
    this.wide[i] = op.wide ? 1 : 0;
    this.lo[i] = op.lo;
    this.hi[i] = op.hi;
    this.expectedLo[i] = op.expectedLo;
    this.expectedHi[i] = op.expectedHi;
    this.ready[i] = op.ready;
    this.update[i] = op.update;
    this.text[i] = op.text;
  }

  restoreRequest(i: number, op: Operation<unknown>): void {
    op.kind = this.kind[i] as Operation<unknown>["kind"];
    op.addr = this.addr[i] as number;
    op.size = this.size[i] as Operation<unknown>["size"];
    op.wide = this.wide[i] === 1;
    op.lo = this.lo[i] as number;
    op.hi = this.hi[i] as number;
    op.expectedLo = this.expectedLo[i] as number;
    op.expectedHi = this.expectedHi[i] as number;
    op.ready = this.ready[i] as Ready | null;
    op.update = this.update[i] as Update | null;
    op.text = this.text[i] as string;
  }

  private reserve(capacity: number): void {
    this.capacity = capacity;
    this.lane = grow(this.lane, capacity);
    this.nth = grow(this.nth, capacity);
    this.location = grow(this.location, capacity);
    this.access = grow(this.access, capacity);
    this.life = grow(this.life, capacity);
    this.lifeAccess = grow(this.lifeAccess, capacity);
    this.oldLo = grow(this.oldLo, capacity);
    this.oldHi = grow(this.oldHi, capacity);
    this.resultLo = grow(this.resultLo, capacity);
    this.resultHi = grow(this.resultHi, capacity);
    this.kind = grow(this.kind, capacity);
    this.addr = grow(this.addr, capacity);
    this.size = grow(this.size, capacity);
    this.wide = grow(this.wide, capacity);
    this.lo = grow(this.lo, capacity);
    this.hi = grow(this.hi, capacity);
    this.expectedLo = grow(this.expectedLo, capacity);
    this.expectedHi = grow(this.expectedHi, capacity);
    this.heapMark = grow(this.heapMark, capacity);
    this.historyMark = grow(this.historyMark, capacity);
    this.plainMark = grow(this.plainMark, capacity);
    this.traceMark = grow(this.traceMark, capacity);
    this.logMark = grow(this.logMark, capacity);
    this.failureMark = grow(this.failureMark, capacity);
    this.previous = grow(this.previous, capacity);
  }
}

type Column = Int32Array | Uint32Array | Uint8Array | Float64Array;

/** A copy of a column with room for `capacity` events. */
export function grow<A extends Column>(column: A, capacity: number): A {
  const Constructor = column.constructor as new (length: number) => A;
  const bigger = new Constructor(capacity);
  bigger.set(column as never);
  return bigger;
}
