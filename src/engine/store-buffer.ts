/**
 * The store buffer of one CPU under x86-TSO: first in, first out, with forwarding.
 *
 * Entries that have drained stay until the execution is undone, so that draining can be taken back.
 */
import type { AccessSize } from "./heap.ts";

export interface BufferedStore {
  readonly addr: number;
  readonly size: AccessSize;
  readonly lo: number;
  readonly hi: number;
  /** The event that issued the store. */
  readonly issued: number;
  /** Loads that took their value from here before the store drained. */
  readonly forwarded: number[];
}

export class StoreBuffer {
  private readonly entries: BufferedStore[] = [];
  private drained = 0;

  get empty(): boolean {
    return this.drained === this.entries.length;
  }

  /** The next store to drain. */
  get oldest(): BufferedStore {
    return this.entries[this.drained] as BufferedStore;
  }

  issue(entry: BufferedStore): void {
    this.entries.push(entry);
  }

  takeBackIssue(): void {
    this.entries.pop();
  }

  drain(): BufferedStore {
    return this.entries[this.drained++] as BufferedStore;
  }

  takeBackDrain(): void {
    this.drained--;
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
