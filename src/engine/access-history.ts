/**
 * Who touched what, in this execution: for each location, the events that accessed it, oldest first.
 *
 * A location is an aligned 8-byte granule; accesses to different parts of one granule are taken to conflict, which is
 * safe and rarely matters because fields that different CPUs use seldom share one.
 */
import { grow } from "./event-log.ts";

export class AccessHistory {
  /** Event lists by location id; index 0 is unused. */
  readonly lists: number[][] = [[]];
  private readonly ids: Int32Array;
  /** Location ids in the order in which events were appended, so that appending can be undone. */
  private appended = new Int32Array(256);
  private appendedLength = 0;
  /** By location id: how often objects' lives have begun or ended there; and where among the appended ones that was. */
  private readonly turns: number[] = [0];
  private readonly turnsAt: number[] = [];

  constructor(heapBytes: number) {
    this.ids = new Int32Array(heapBytes / 8);
  }

  /** The location id of the granule that holds `addr`; ids stay the same from one execution to the next. */
  locationOf(addr: number): number {
    const granule = addr >>> 3;
    const id = this.ids[granule] as number;
    if (id !== 0) return id;
    const fresh = this.lists.length;
    this.ids[granule] = fresh;
    this.lists.push([]);
    this.turns.push(0);
    return fresh;
  }

  get mark(): number {
    return this.appendedLength;
  }

  append(location: number, event: number): void {
    if (this.appendedLength === this.appended.length) this.appended = grow(this.appended, this.appendedLength * 2);
    this.appended[this.appendedLength++] = location;
    (this.lists[location] as number[]).push(event);
  }

  /** Appends an event that begins or ends the life of the object whose life word the location is. */
  appendTurn(location: number, event: number): void {
    this.turnsAt.push(this.appendedLength);
    this.turns[location] = this.turnsOf(location) + 1;
    this.append(location, event);
  }

  /** How many such events there are: without one, all that has touched the object has found it alive, in any order. */
  turnsOf(location: number): number {
    return this.turns[location] as number;
  }

  undoTo(mark: number): void {
    for (let at = this.turnsAt.at(-1); at !== undefined && at >= mark; at = this.turnsAt.at(-1)) {
      const location = this.appended[at] as number;
      this.turns[location] = this.turnsOf(location) - 1;
      this.turnsAt.pop();
    }
    for (let i = this.appendedLength - 1; i >= mark; i--) {
      (this.lists[this.appended[i] as number] as number[]).pop();
    }
    this.appendedLength = mark;
  }
}
