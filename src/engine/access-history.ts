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

  undoTo(mark: number): void {
    for (let i = this.appendedLength - 1; i >= mark; i--) {
      (this.lists[this.appended[i] as number] as number[]).pop();
    }
    this.appendedLength = mark;
  }
}
