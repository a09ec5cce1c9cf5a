/**
 * The happens-before relation of one execution, as vector clocks.
 *
 * Row i of the clock matrix belongs to event i: for each lane, how many of its events happen before event i (or are it). A "row" argument is the
 * index of a row's first word. Behind the events' rows there are a few scratch rows for computations.
 */
import { AccessHistory } from "./access-history.ts";
import { AccessClass, type EventLog, grow } from "./event-log.ts";
import type { Moment } from "./failure.ts";
import type { Operation } from "./operation.ts";

type Load = Operation<unknown>;

/** A clock row that was kept: for each lane, how many of its events. (A short list is made faster than a typed array.) */
export type ClockRow = readonly number[];

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
    if (event >= 0) this.moveRow(event * this.lanes, row);
    else this.clocks.fill(0, row, row + this.lanes);
  }

  /** A copy of the row, to keep. */
  keepRow(row: number): number[] {
    const { clocks, lanes } = this;
    const kept: number[] = [];
    for (let k = 0; k < lanes; k++) kept.push(clocks[row + k] as number);
    return kept;
  }

  /** Adds to a kept row what the one at `row` has. */
  joinKept(kept: number[], row: number): void {
    for (let k = 0; k < kept.length; k++) kept[k] = Math.max(kept[k] as number, this.clocks[row + k] as number);
  }

  /** Makes the row at `to` that at `from`. */
  moveRow(from: number, to: number): void {
    const { clocks, lanes } = this;
    for (let k = 0; k < lanes; k++) clocks[to + k] = clocks[from + k] as number;
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
   * @param load the access, when it is a load: it is not ordered after a drained store of its own task that it could find in the buffer
   */
  orderAfter(i: number, location: number, classes: Uint8Array, access: number, load: Load | null): void {
    this.joinPredecessors(i * this.lanes, location, this.listOf(location).length, classes, access, load);
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
    load: Load | null,
  ): void {
    const list = this.listOf(location);
    let k = end - 1;
    if (access !== AccessClass.Write) while (k >= 0 && classes[list[k] as number] === access) k--;
    while (k >= 0) {
      const group = classes[list[k] as number] as number;
      if (group === AccessClass.Write) {
        if (!this.isOwnDrain(list[k] as number, load)) this.join(row, list[k] as number);
        return;
      }
      for (; k >= 0 && classes[list[k] as number] === group; k--) this.join(row, list[k] as number);
      // A load that was forwarded is not ordered after its store's drain, so the write before a group of reads counts too.
      if (!this.buffered) return;
    }
  }

  /** Joins to the row a store of the load's own task that gives the load only part of what it needs: the load waits until that has drained. */
  joinPartialStore(row: number, load: Load): void {
    const { addr, size } = this.events;
    const list = this.listOf(this.history.locationOf(load.addr));
    const own = list.findLast((event) => {
      const start = addr[event] as number;
      const isOverlap = start < load.addr + load.size && load.addr < start + (size[event] as number);
      return isOverlap && this.isDrainOf(event, load.task.lane);
    });
    if (own !== undefined && !this.isOwnDrain(own, load)) this.join(row, own);
  }

  /** True when event `event` is the draining of a store that would have answered the load from its own buffer. */
  isOwnDrain(event: number, load: Load | null): boolean {
    if (load === null || !this.isDrainOf(event, load.task.lane)) return false;
    const addr = this.events.addr[event] as number;
    return addr <= load.addr && load.addr + load.size <= addr + (this.events.size[event] as number);
  }

  /** The last event that changed the life at that address; none when nothing has. */
  lastChangeOf(life: number): Moment[] {
    if (life === 0) return [];
    const { lane, nth, lifeAccess } = this.events;
    const last = this.listOf(this.history.locationOf(life)).findLast((i) => lifeAccess[i] === AccessClass.Write);
    return last === undefined ? [] : [{ lane: lane[last] as number, nth: nth[last] as number }];
  }

  /** True when event `event` is the draining of a store that the task had issued. */
  isDrainOf(event: number, task: number): boolean {
    return this.events.lane[event] === task + this.tasksMax;
  }
}
