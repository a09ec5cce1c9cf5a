/**
 * Plain (unmarked) accesses, for data races.
 *
 * A plain access is no scheduling point: its order is that of the operations around it. Two accesses to one word, at least
 * one of them plain and at least one a write, race when neither happens before the other. That is KCSAN's rule, and because
 * every order of the marked operations is explored, it finds each race that the program has.
 *
 * Happens-before here is that of the execution graph (program order, reads-from, coherence, from-reads), so a report is
 * exact: there is an interleaving in which the two accesses are adjacent.
 */
import { grow } from "./event-log.ts";

export class PlainHistory {
  length = 0;
  private readonly heads: Int32Array;
  private word = new Int32Array(256);
  private lane = new Int32Array(256);
  /** Operations that the lane had completed when it made the access. */
  private time = new Int32Array(256);
  private isWrite = new Uint8Array(256);
  /** The access to the same word before it, and the last write among those; + 1, 0 for none. */
  private before = new Int32Array(256);
  private writeBefore = new Int32Array(256);

  constructor(heapBytes: number) {
    this.heads = new Int32Array(heapBytes / 4);
  }

  append(word: number, lane: number, time: number, isWrite: boolean): void {
    const head = this.heads[word] as number;
    if (head !== 0) {
      // A repeated access tells nothing new.
      const last = head - 1;
      if (this.lane[last] === lane && this.time[last] === time && (this.isWrite[last] === 1) === isWrite) return;
    }
    if (this.length === this.word.length) this.reserve();
    const i = this.length++;
    this.word[i] = word;
    this.lane[i] = lane;
    this.time[i] = time;
    this.isWrite[i] = isWrite ? 1 : 0;
    this.before[i] = head;
    this.writeBefore[i] = this.lastWrite(head);
    this.heads[word] = i + 1;
  }

  undoTo(mark: number): void {
    for (let i = this.length - 1; i >= mark; i--) this.heads[this.word[i] as number] = this.before[i] as number;
    this.length = mark;
  }

  /** The lane of access `i`, and how many operations the lane had completed when it made it. */
  accessOf(i: number): { lane: number; nth: number } {
    return { lane: this.lane[i] as number, nth: this.time[i] as number };
  }

  /**
   * An earlier plain access to `word` (its index, for {@link accessOf}) that does not happen before an access with the given
   * clock; -1 when all do.
   * @param onlyWrites look for writes only (the new access is a read)
   */
  racing(word: number, lane: number, clocks: Int32Array, row: number, onlyWrites: boolean): number {
    // A word that is read again and again has a long list, in which a read looks for writes only.
    const next = onlyWrites ? this.writeBefore : this.before;
    let head = this.heads[word] as number;
    if (onlyWrites) head = this.lastWrite(head);
    for (; head !== 0; head = next[head - 1] as number) {
      const i = head - 1;
      const other = this.lane[i] as number;
      const isWrite = this.isWrite[i] === 1;
      const ordered = other === lane || (clocks[row + other] as number) > (this.time[i] as number);
      if (!ordered) return i;
      // What came before an ordered write was compared with that write.
      if (ordered && isWrite) return -1;
    }
    return -1;
  }

  /** The last write of a list, itself included; + 1, 0 for none. */
  private lastWrite(head: number): number {
    if (head === 0 || this.isWrite[head - 1] === 1) return head;
    return this.writeBefore[head - 1] as number;
  }

  private reserve(): void {
    const capacity = this.word.length * 2;
    this.word = grow(this.word, capacity);
    this.lane = grow(this.lane, capacity);
    this.time = grow(this.time, capacity);
    this.isWrite = grow(this.isWrite, capacity);
    this.before = grow(this.before, capacity);
    this.writeBefore = grow(this.writeBefore, capacity);
  }
}
