/**
 * The happens-before relation of one execution, as vector clocks.
 *
 * Row i of the clock matrix belongs to event i: for each lane, how many of its events happen before event i (or are it). A "row" argument is the
 * index of a row's first word. Behind the events' rows there are a few scratch rows for computations.
 */
import { AccessHistory } from "./access-history.ts";
import { AccessClass, type EventLog, grow } from "./event-log.ts";

/** Rows of the clock matrix beyond those of the events. */
const SCRATCH_ROWS = 4;

export class HappensBefore {
  readonly events: EventLog;
  readonly history: AccessHistory;
  readonly lanes: number;
  /** Tasks; the lane of a task's store buffer is the task's plus this. */
  readonly tasksMax: number;
  clocks: Int32Array;
  private readonly buffered: boolean;

  /** @param buffered under TSO: every task has a store buffer with a lane of its own */
  constructor(events: EventLog, heapBytes: number, tasksMax: number, buffered: boolean) {
    this.events = events;
    this.history = new AccessHistory(heapBytes);
    this.tasksMax = tasksMax;
    this.buffered = buffered;
    this.lanes = buffered ? tasksMax * 2 : tasksMax;
    this.clocks = new Int32Array(256 * this.lanes);
  }

  /** True when event `a` happens before, or is, what the clock row describes. */
  inRow(a: number, row: number): boolean {
    const lane = this.events.lane[a] as number;
    return (this.clocks[row + lane] as number) >= (this.events.nth[a] as number);
  }

  /** Adds what happens before event `event`, and the event, to the row. */
  join(row: number, event: number): void {
    const { clocks, lanes } = this;
    const from = event * lanes;
    for (let k = 0; k < lanes; k++) {
      const other = clocks[from + k] as number;
      if (other > (clocks[row + k] as number)) clocks[row + k] = other;
    }
  }

  /** Makes the row that of event `event`; an empty one for -1. */
  copyRow(event: number, row: number): void {
    const { clocks, lanes } = this;
    if (event >= 0) clocks.copyWithin(row, event * lanes, (event + 1) * lanes);
    else clocks.fill(0, row, row + lanes);
  }

  /** A row for a computation, away from those of the events. */
  scratchRow(n: number): number {
    this.reserve(this.events.length + 1);
    return (this.events.length + 1 + n) * this.lanes;
  }

  /** Makes room for the rows of `events` events. */
  reserve(events: number): void {
    const needed = (events + SCRATCH_ROWS) * this.lanes;
    if (needed > this.clocks.length) this.clocks = grow(this.clocks, this.clocks.length * 2);
  }

  /** The accesses to a location, oldest first. */
  listOf(location: number): readonly number[] {
    return this.history.lists[location] as number[];
  }

  /**
   * Orders event `i` after the accesses that it conflicts with directly.
   * @param loader the lane of a loading task, whose own drained stores do not order its loads; -1 otherwise
   */
  orderAfter(i: number, location: number, classes: Uint8Array, access: number, loader: number): void {
    this.joinPredecessors(i * this.lanes, location, this.listOf(location).length, classes, access, loader);
  }

  /**
   * Joins to the row the accesses among the first `end` of the location's list that an access of class `access` must come
   * after directly: the last group of another class, or the last write.
   */
  joinPredecessors(
    row: number,
    location: number,
    end: number,
    classes: Uint8Array,
    access: number,
    loader: number,
  ): void {
    const list = this.listOf(location);
    let k = end - 1;
    if (access !== AccessClass.Write) while (k >= 0 && classes[list[k] as number] === access) k--;
    while (k >= 0) {
      const group = classes[list[k] as number] as number;
      if (group === AccessClass.Write) {
        if (!this.isOwnDrain(list[k] as number, loader)) this.join(row, list[k] as number);
        return;
      }
      for (; k >= 0 && classes[list[k] as number] === group; k--) this.join(row, list[k] as number);
      // A load that was forwarded is not ordered after its store's drain, so the write before a group of reads counts too.
      if (!this.buffered) return;
    }
  }

  /** True when event `event` is the draining of a store that task `loader` had issued. */
  isOwnDrain(event: number, loader: number): boolean {
    return loader >= 0 && this.events.lane[event] === loader + this.tasksMax;
  }
}
