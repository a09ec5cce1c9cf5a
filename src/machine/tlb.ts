/**
 * A CPU's TLB for one guest: translations that its walker found, until they are flushed.
 *
 * Only the thread that runs on the CPU fills, uses and flushes it, so it is that thread's own state, which follows from what its walks
 * returned. An entry outlives any change to the page tables: that is what flushing is for. No entry is ever evicted, the worst case for who
 * forgets to flush; capacity and associativity have no meaning for correctness.
 */
import { type Gva, type Hpa, PAGE_SIZE, pagesPerLevel } from "./address.ts";
import type { AccessKind, Translation } from "./page-walk.ts";
import type { PagingMode } from "./paging-mode.ts";

interface TlbEntry {
  readonly base: Hpa;
  readonly level: number;
  readonly writable: boolean;
  readonly executable: boolean;
  /** User mode may use it. */
  readonly user: boolean;
}

/** Of a page of the level: its number, and the level in two bits below. */
function keyOf(addr: Gva, level: number): number {
  return Math.floor(addr / (PAGE_SIZE * pagesPerLevel(level))) * LEVELS + level;
}

const LEVELS = 4;

export class Tlb {
  private readonly entries = new Map<number, TlbEntry>();
  /** A bit for each level that has had an entry since all were flushed: nearly always one. */
  private levels = 0;

  /**
   * The host-physical address for an access, or null when it is not cached with the rights needed.
   * @param user CPL 3
   * @param mode says what the supervisor may not do with pages of user mode
   */
  lookup(addr: Gva, kind: AccessKind, user: boolean, { smep, smap }: PagingMode): Hpa | null {
    for (let level = 1; level <= 3; level++) {
      if ((this.levels & (1 << level)) === 0) continue;
      const entry = this.entries.get(keyOf(addr, level));
      if (entry === undefined) continue;
      if ((kind === "write" && !entry.writable) || (kind === "exec" && !entry.executable)) continue;
      if (user ? !entry.user : entry.user && (kind === "exec" ? smep : smap)) continue;
      return (entry.base + (addr & (PAGE_SIZE * pagesPerLevel(level) - 1))) as Hpa;
    }
    return null;
  }

  /** The permission to write is cached only with the D bit set: the first write has to set it. */
  fill(addr: Gva, found: Translation): void {
    const { level, hpa, executable, user } = found;
    const size = PAGE_SIZE * pagesPerLevel(level);
    const base = (hpa - (hpa & (size - 1))) as Hpa;
    const writable = found.writable && found.dirty;
    this.levels |= 1 << level;
    this.entries.set(keyOf(addr, level), { base, level, writable, executable, user });
  }

  /** INVLPG: the translations of one page, whatever its size. */
  flushPage(addr: Gva): void {
    for (let level = 1; level <= 3; level++) {
      this.entries.delete(keyOf(addr, level));
    }
  }

  /** Everything that another has. */
  fillFrom(other: Tlb): void {
    this.levels |= other.levels;
    for (const [key, entry] of other.entries) this.entries.set(key, entry);
  }

  flushAll(): void {
    this.levels = 0;
    this.entries.clear();
  }

  /** All that is in it, as numbers: the same for the same contents, in the same order of filling. */
  contents(): number[] {
    return [...this.entries].flatMap(([key, { base, level, writable, executable, user }]) => {
      const rights = (writable ? 1 : 0) + (executable ? 2 : 0) + (user ? 4 : 0);
      return [Math.floor(key / LEVELS), level, base, rights];
    });
  }

  get size(): number {
    return this.entries.size;
  }
}
