/**
 * The guest's page tables and control registers before the first run, from the workload alone.
 *
 * What the VMM of the recordings does, so that the model needs no `<case>.initial.json` and gets the same bytes at the same places. Table pages
 * are handed out one after the other from `pt_base`:
 *
 *     1. a root for each address space
 *     2. for each address space: its maps, in order, each with the tables above it as they turn out missing; then the four control pages
 *     3. tables for the entries that a `set_pte` will store to, where maps made none
 *     4. the window: every table page so far, at its own address (or where `pt_window` says), supervisor only
 *
 * In 32-bit paging an entry has 4 bytes and a table 1024 of them; otherwise 8 and 512. The four entries of a PAE root have only P set.
 */
import { addU64, bitU64, numberToU64, orU64, type U64, U64_ZERO, UsageError } from "../engine/index.ts";
import { PAGE_SIZE } from "../machine/index.ts";
import type { InitialState } from "./initial-state.ts";
import { type GuestOperation, membersOf } from "./operation.ts";
import type { ResolvedMember } from "./recording.ts";
import { CONTROL_SLOT, type GuestMap, type Workload } from "./workload.ts";

/** Offset of the page tables in the control slot, unless `pt_base` puts them elsewhere. */
const TABLES_OFFSET = 0x1_0000;
/** Code, IDT, GDT and stack: the first pages of the control slot, mapped at their own address in every address space. */
const CONTROL_PAGES_COUNT = 4;
export const CONTROL_PAGES: readonly number[] = Array.from(
  { length: CONTROL_PAGES_COUNT },
  (_, i) => CONTROL_SLOT.gpa + i * PAGE_SIZE,
);

const FLAG_BITS: Readonly<Record<string, number>> = { p: 0, w: 1, u: 2, t: 3, c: 4, a: 5, d: 6, s: 7, g: 8, x: 63 };
const LEAF_FLAGS = "pwuad";
const TABLE_FLAGS = "pwua";
const WINDOW_FLAGS = "pwad";

const PAGE_LEVELS: Readonly<Record<GuestMap["page"], number>> = { "4k": 1, "2m": 2, "4m": 2, "1g": 3 };

interface Geometry {
  /** Level of the root. */
  readonly levels: number;
  readonly entrySize: 4 | 8;
  readonly indexBits: number;
}

const GEOMETRIES: Readonly<Record<Exclude<Workload["guestPaging"]["mode"], "none">, Geometry>> = {
  "32bit": { levels: 2, entrySize: 4, indexBits: 10 },
  pae: { levels: 3, entrySize: 8, indexBits: 9 },
  "4level": { levels: 4, entrySize: 8, indexBits: 9 },
  "5level": { levels: 5, entrySize: 8, indexBits: 9 },
};

/** An entry's value. */
function guestEntry(pa: number, flags: string): U64 {
  let value = numberToU64(pa);
  for (const letter of flags) value = orU64(value, bitU64(FLAG_BITS[letter] as number));
  return value;
}

interface Slot {
  readonly table: number;
  readonly index: number;
}

export class GuestTables {
  /** CR3 of each address space by name. */
  readonly roots: ReadonlyMap<string, number>;
  readonly initial: InitialState;
  private readonly workload: Workload;
  private readonly geometry: Geometry | null;
  private readonly base: number;
  private next: number;
  /** Values by table page, then by index. */
  private readonly tables = new Map<number, Map<number, U64>>();
  /** The table page under an entry that was made for one, whatever the guest stores there later. */
  private readonly children = new Map<number, number>();

  constructor(workload: Workload) {
    const { mode, ptBase } = workload.guestPaging;
    this.workload = workload;
    this.geometry = mode === "none" ? null : GEOMETRIES[mode];
    this.base = ptBase ?? CONTROL_SLOT.gpa + TABLES_OFFSET;
    this.next = this.base;
    this.roots = this.geometry === null ? new Map() : this.build();
    this.initial = this.initialState();
  }

  // --- building ----------------------------------------------------------------------------------------------------

  private build(): Map<string, number> {
    const { guestPaging } = this.workload;
    const roots = new Map(guestPaging.roots.map(({ name }) => [name, this.newTable()]));
    for (const { name, maps } of guestPaging.roots) {
      const root = roots.get(name) as number;
      for (const map of maps.length > 0 ? maps : this.identityMaps()) this.addMap(root, map);
      for (const pa of CONTROL_PAGES) this.setLeaf(root, pa, 1, guestEntry(pa, LEAF_FLAGS));
    }
    this.addTablesForStores(roots);
    if (guestPaging.ptWindow !== false) for (const root of roots.values()) this.addWindow(root);
    return roots;
  }

  private newTable(): number {
    const table = this.next;
    this.next += PAGE_SIZE;
    if (this.workload.guestPaging.ptBase === null && this.next > CONTROL_SLOT.gpa + CONTROL_SLOT.size) {
      throw this.unusable("guest_paging: its tables do not fit in the control slot; use larger pages, or give pt_base");
    }
    this.tables.set(table, new Map());
    return table;
  }

  /** As far as the memory reaches, unless the size is given. */
  private identityMaps(): readonly GuestMap[] {
    const { identity } = this.workload.guestPaging;
    if (identity === null) return [];
    const end = Math.max(0, ...this.workload.memory.map(({ gpa, size }) => gpa + size));
    return [{ va: 0, pa: 0, len: identity.size ?? end, page: identity.page, flags: null }];
  }

  private addMap(root: number, { va, pa, len, page, flags }: GuestMap): void {
    const level = PAGE_LEVELS[page];
    const { levels } = this.geometry as Geometry;
    if (level > levels || (page === "1g" && levels < 4)) {
      throw this.unusable(
        `a page of ${page} does not exist in ${this.workload.guestPaging.mode} paging; use smaller ones`,
      );
    }
    const bytes = this.span(level);
    const letters = (flags ?? LEAF_FLAGS) + (level > 1 ? "s" : "");
    for (let at = 0; at < len; at += bytes) this.setLeaf(root, va + at, level, guestEntry(pa + at, letters));
  }

  private addTablesForStores(roots: ReadonlyMap<string, number>): void {
    for (const operation of this.workload.ops.flatMap(membersOf)) {
      if (operation.kind !== "guest" || operation.guest !== "set_pte" || operation.no_table) continue;
      const root = roots.get(operation.root ?? this.workload.guestPaging.root) as number;
      if (operation.level <= (this.geometry as Geometry).levels) this.walk(root, operation.va, operation.level, true);
    }
  }

  /** Maps every table page; the mapping itself may need another, which is then mapped too. */
  private addWindow(root: number): void {
    for (let table = this.base; table < this.next; table += PAGE_SIZE) {
      this.setLeaf(root, this.windowAddress(table), 1, guestEntry(table, WINDOW_FLAGS));
    }
  }

  /** Where the guest finds a byte of its tables. */
  private windowAddress(pa: number): number {
    const { ptWindow } = this.workload.guestPaging;
    return typeof ptWindow === "number" ? ptWindow + pa - this.base : pa;
  }

  private setLeaf(root: number, va: number, level: number, value: U64): void {
    const slot = this.walk(root, va, level, true);
    // What is under a large page already stays under it.
    if (slot !== null) this.tables.get(slot.table)?.set(slot.index, value);
  }

  // --- walking -----------------------------------------------------------------------------------------------------

  /** Bytes that an entry of the level maps. */
  private span(level: number): number {
    return PAGE_SIZE * 2 ** ((this.geometry as Geometry).indexBits * (level - 1));
  }

  /** The entry of a level for an address; null when a table above it is missing and is not to be made, or a large page is in the way. */
  private walk(root: number, va: number, level: number, make: boolean): Slot | null {
    const { levels, indexBits, entrySize } = this.geometry as Geometry;
    let table = root;
    for (let at = levels; ; at--) {
      const index = Math.floor(va / this.span(at)) % 2 ** indexBits;
      if (at === level) return { table, index };
      const place = table + index * entrySize;
      let child = this.children.get(place);
      if (child === undefined) {
        if (!make || this.tables.get(table)?.has(index)) return null;
        child = this.newTable();
        this.children.set(place, child);
        const isPdpte = this.workload.guestPaging.mode === "pae" && at === 3;
        this.tables.get(table)?.set(index, guestEntry(child, isPdpte ? "p" : TABLE_FLAGS));
      }
      table = child;
    }
  }

  /** Every table page, in the order in which they were handed out. */
  get tablePages(): readonly number[] {
    return [...this.tables.keys()];
  }

  // --- results -----------------------------------------------------------------------------------------------------

  private initialState(): InitialState {
    const { guestPaging, guestNx, guestWp, guestPge } = this.workload;
    const { mode } = guestPaging;
    if (mode === "none") return { cr0: 0x11, cr3: 0, cr4: 0, efer: 0, pageTableEntries: [] };
    const entrySize = (this.geometry as Geometry).entrySize;
    const pageTableEntries = [...this.tables].flatMap(([table, entries]) =>
      [...entries].map(([index, value]) => ({
        gpa: table + index * entrySize,
        value,
        entrySize,
        count: 1,
        step: U64_ZERO,
      })),
    );
    const isLong = mode === "4level" || mode === "5level";
    return {
      cr0: guestWp ? 0x8001_0011 : 0x8000_0011,
      cr3: this.roots.get(guestPaging.root) as number,
      cr4: (mode === "32bit" ? 0x10 : 0x20) | (mode === "5level" ? 0x1000 : 0) | (guestPge ? 0x80 : 0),
      efer: (isLong ? 0x500 : 0) | (guestNx && mode !== "32bit" ? 0x800 : 0),
      pageTableEntries,
    };
  }

  /** What the VMM works out for an operation of the guest: the place and value of a `set_pte`, the value of a `set_cr3`. */
  resolve(operation: GuestOperation): ResolvedMember {
    if (operation.guest === "set_cr3") {
      const value = this.roots.get(operation.root);
      return { pteAddress: null, value: value === undefined ? null : numberToU64(value) };
    }
    if (operation.guest !== "set_pte") return { pteAddress: null, value: null };
    const root = this.roots.get(operation.root ?? this.workload.guestPaging.root);
    const slot = root === undefined ? null : this.walk(root, operation.va, operation.level, false);
    if (slot === null) {
      throw this.unusable(
        `set_pte of va 0x${operation.va.toString(16)}: the guest has no table of level ${operation.level} there; map something near it`,
      );
    }
    const place = slot.table + slot.index * (this.geometry as Geometry).entrySize;
    const value =
      operation.flags === null
        ? (operation.value ?? U64_ZERO)
        : addU64(guestEntry(0, operation.flags), numberToU64(operation.pa ?? 0));
    return { pteAddress: this.windowAddress(place), value };
  }

  private unusable(what: string): UsageError {
    return new UsageError(`${this.workload.file}: ${what}`);
  }
}
