/**
 * The store buffer of one CPU under x86-TSO: first in, first out, with forwarding.
 *
 * Entries that have drained stay until the execution is undone, so that draining can be taken back.
 */
import type { EventLog } from "./event-log.ts";
import type { AccessSize, Heap } from "./heap.ts";
import { OpKind } from "./operation.ts";

export interface BufferedStore {
  readonly addr: number;
  readonly size: AccessSize;
  lo: number;
  hi: number;
  /** The event that issued the store. */
  readonly issued: number;
  /** Loads that took their value from here before the store drained. */
  readonly forwarded: number[];
}

interface Change {
  readonly entry: BufferedStore;
  readonly lo: number;
  readonly hi: number;
  readonly event: number;
}

/** Up to 8 bytes somewhere in memory, over which others can be put. */
class Bytes {
  private readonly addr: number;
  private readonly size: AccessSize;
  private readonly view = new DataView(new ArrayBuffer(8));

  constructor(addr: number, size: AccessSize, lo: number, hi: number) {
    this.addr = addr;
    this.size = size;
    this.view.setUint32(0, lo, true);
    this.view.setUint32(4, hi, true);
  }

  put({ addr, size, lo, hi }: Pick<BufferedStore, "addr" | "size" | "lo" | "hi">): void {
    const from = new Bytes(addr, size, lo, hi);
    for (let at = Math.max(addr, this.addr); at < Math.min(addr + size, this.addr + this.size); at++) {
      this.view.setUint8(at - this.addr, from.view.getUint8(at - addr));
    }
  }

  get low(): number {
    return this.view.getUint32(0, true);
  }

  get high(): number {
    return this.view.getUint32(4, true);
  }
}

export class StoreBuffer {
  private readonly entries: BufferedStore[] = [];
  private drained = 0;
  /** What plain stores of the task made of waiting entries, oldest first, to be taken back. */
  private readonly changes: Change[] = [];
  /** The last event of the execution. */
  now = -1;

  get empty(): boolean {
    return this.drained === this.entries.length;
  }

  /** The next store to drain. */
  get oldest(): BufferedStore {
    return this.entries[this.drained] as BufferedStore;
  }

  issue(entry: BufferedStore): void {
    // As in memory, a store keeps what fits into it.
    if (entry.size < 8) entry.hi = 0;
    if (entry.size < 4) entry.lo &= entry.size === 1 ? 0xff : 0xffff;
    this.entries.push(entry);
  }

  drain(): BufferedStore {
    return this.entries[this.drained++] as BufferedStore;
  }

  takeBackDrain(): void {
    this.drained--;
  }

  // Plain accesses of the task itself. They reach memory at once, which nobody can tell who does not race with them, except the task: it sees its
  // own stores in order.

  /** What the task sees at `addr` where memory holds the given value; leaves the high half in `heap.high`. */
  overlay(heap: Heap, addr: number, size: AccessSize): number {
    const lo = heap.read(addr, size);
    const bytes = new Bytes(addr, size, lo, heap.high);
    for (let i = this.drained; i < this.entries.length; i++) bytes.put(this.entries[i] as BufferedStore);
    heap.high = bytes.high;
    return bytes.low;
  }

  /** The task stores plainly to what older stores have yet to reach: they must not undo it. */
  amend(store: Pick<BufferedStore, "addr" | "size" | "lo" | "hi">): void {
    for (let i = this.drained; i < this.entries.length; i++) {
      const entry = this.entries[i] as BufferedStore;
      if (entry.addr >= store.addr + store.size || store.addr >= entry.addr + entry.size) continue;
      this.changes.push({ entry, lo: entry.lo, hi: entry.hi, event: this.now });
      const bytes = new Bytes(entry.addr, entry.size, entry.lo, entry.hi);
      bytes.put(store);
      entry.lo = bytes.low;
      entry.hi = bytes.high;
    }
  }

  /** Takes back what the task's event `i` and its plain stores after that did here. */
  takeBack(i: number, { kind, addr, size }: EventLog): void {
    this.takeBackAmends(i);
    if (kind[i] === OpKind.Store) {
      if (this.entries.at(-1)?.issued === i) this.entries.pop();
    } else if (kind[i] === OpKind.Load || kind[i] === OpKind.Await) {
      const entry = this.newestOverlap(addr[i] as number, size[i] as AccessSize);
      if (entry?.forwarded.at(-1) === i) entry.forwarded.pop();
    }
  }

  private takeBackAmends(event: number): void {
    for (let last = this.changes.at(-1); last !== undefined && last.event >= event; last = this.changes.at(-1)) {
      last.entry.lo = last.lo;
      last.entry.hi = last.hi;
      this.changes.pop();
    }
  }

  /** The newest waiting store that overlaps the access; null when there is none. */
  newestOverlap(addr: number, size: AccessSize): BufferedStore | null {
    for (let i = this.entries.length - 1; i >= this.drained; i--) {
      const entry = this.entries[i] as BufferedStore;
      if (entry.addr < addr + size && addr < entry.addr + entry.size) return entry;
    }
    return null;
  }

  /** The waiting stores, oldest first. */
  get waiting(): readonly BufferedStore[] {
    return this.entries.slice(this.drained);
  }
}

/** True when a load can be answered from the store: all its bytes are there. */
export function contains(entry: BufferedStore, addr: number, size: AccessSize): boolean {
  return entry.addr <= addr && addr + size <= entry.addr + entry.size;
}

/** The forwarded value's halves: what the load would read if memory held the store. */
export function forward(entry: BufferedStore, addr: number, size: AccessSize): { lo: number; hi: number } {
  if (entry.addr === addr && entry.size === size) return { lo: entry.lo, hi: entry.hi };
  const offset = addr - entry.addr;
  const half = offset < 4 ? entry.lo : entry.hi;
  const shifted = half >>> ((offset & 3) * 8);
  if (size === 4) return { lo: shifted >>> 0, hi: 0 };
  return { lo: shifted & (size === 1 ? 0xff : 0xffff), hi: 0 };
}
