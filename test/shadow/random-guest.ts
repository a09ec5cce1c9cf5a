/**
 * Random guests that edit their own page tables: workloads for the oracle of coherence.
 *
 * A guest has two or three address spaces, a few pages in each, mapped more than once, and its tables at their own address. It stores to its tables
 * (whole entries, parts of them, across them), through the window or through whatever alias it has made; flushes or forgets to; switches roots; reads, writes and
 * executes, as supervisor and user. Meanwhile the host ages, logs, swaps, forks, moves and takes away memory.
 *
 *     memory 0      0 - 4M         data and, in half of the guests, the page tables; the host leaves its contents alone
 *     memory 1      20000000 - +256K   data only: the host may throw it away
 *     memory 100    40000000 - +1M     code, stack, and the page tables of the other half
 *
 * CR4.PSE stays as it is: KVM keeps what it shadowed of 4M pages when a guest clears it (docs/oracles.md). What leads to the guest's code and to its tables is never edited, so that it can always go on. PDPTEs of PAE paging are kept valid: KVM would answer
 * others with #GP, which is not modelled.
 */
import { GuestTables } from "../../src/conform/guest-tables.ts";
import { parseWorkload, type Workload } from "../../src/conform/workload.ts";
import { Chance } from "./chance.ts";
import { hex, MEMORY_1, RandomHost } from "./random-host.ts";

/** A workload as its file has it. */
export interface GuestDocument {
  readonly name: string;
  readonly ops: readonly object[];
  readonly [key: string]: unknown;
}

/** What a sequence is run with. */
export interface RandomGuest {
  readonly seed: number;
  readonly kernel: "v6.12" | "v7.2";
  readonly keepsTlb: boolean;
  readonly document: GuestDocument;
}

type Mode = "32bit" | "pae" | "4level" | "5level";

const PAGE = 0x1000;
const CONTROL = 0x4000_0000;
/** Data pages in memory 0; any of them may become a table. */
const POOL = Array.from({ length: 8 }, (_, i) => 0x1_0000 + i * PAGE);
const LARGE = 0x20_0000;
/** Stands for bit 63, which a number cannot hold beside the others. */
const NX = 2 ** 52;

/** Where the guest has its data. */
interface Layout {
  readonly large: "2m" | "4m";
  readonly pages: readonly number[];
  readonly largeVa: number;
  readonly maps: readonly object[];
}

interface Entry {
  readonly place: number;
  readonly level: number;
  readonly table: number;
}

const NO_CAPS: readonly object[] = [];

/** The same seed makes the same guest. */
export function randomGuest(seed: number): RandomGuest {
  const chance = new Chance(seed);
  const kernel = chance.pick(["v7.2", "v6.12"] as const);
  const keepsTlb = chance.happens(0.7);
  return { seed, kernel, keepsTlb, document: new GuestWriter(chance, seed).document() };
}

class GuestWriter {
  private readonly chance: Chance;
  private readonly seed: number;
  private readonly mode: Mode;
  private readonly vcpus: number;
  private readonly nx: boolean;
  private readonly roots: readonly string[];
  private readonly layout: Layout;
  /** The supervisor's own pages are not the user's: SMEP and SMAP may be on, and nobody is in user mode. */
  private readonly isSupervisorOnly: boolean;
  /** Tables may stand at levels that are not theirs, so their entries must all lead to memory that nobody throws away. */
  private readonly isWild: boolean;
  private readonly base: Readonly<Record<string, unknown>> & { readonly name: string };
  private readonly ops: object[] = [];
  /** How often it does what: each guest in its own way. */
  private readonly habits: Readonly<
    Record<"access" | "pte" | "table" | "odd" | "invlpg" | "cr3" | "cr" | "host", number>
  >;
  private tables: readonly number[] = [];
  private levelOf = new Map<number, number>();
  /** Entries that may be edited. */
  private entries: readonly Entry[] = [];
  /** Offsets in a page at which some table has an entry that must stay. */
  private readonly keptOffsets = new Set<number>();
  private wp = true;
  private cr4 = { set: 0, clear: 0 };
  private readonly host: RandomHost;

  constructor(chance: Chance, seed: number) {
    this.chance = chance;
    this.seed = seed;
    this.mode = chance.weighted({ "4level": 5, pae: 2, "32bit": 2, "5level": 1 });
    this.vcpus = chance.happens(0.4) ? 2 : 1;
    this.nx = this.mode !== "32bit" && chance.happens(0.7);
    this.roots = chance.happens(0.2) ? ["A"] : chance.happens(0.8) ? ["A", "B"] : ["A", "B", "C"];
    this.layout = this.makeLayout();
    this.isSupervisorOnly = chance.happens(0.25);
    this.isWild = chance.happens(0.25);
    this.base = this.makeBase();
    this.host = new RandomHost(chance, this.base["caps"] !== NO_CAPS);
    const often = (usual: number): number => usual * chance.pick([0.3, 1, 1, 3]);
    this.habits = {
      access: 46,
      pte: often(14),
      table: often(6),
      odd: often(4),
      invlpg: often(8),
      cr3: often(6),
      cr: often(4),
      host: often(12),
    };
  }

  private get wide(): boolean {
    return this.mode === "4level" || this.mode === "5level";
  }

  private get entryBytes(): 4 | 8 {
    return this.mode === "32bit" ? 4 : 8;
  }

  // --- what it starts from -----------------------------------------------------------------------------------------

  private makeLayout(): Layout {
    const { chance, mode } = this;
    const large = mode === "32bit" ? "4m" : "2m";
    const step = mode === "32bit" ? 0x40_0000 : 0x20_0000;
    const first = 0x804_0000;
    const second = first + step;
    // Where one upper table could serve both. Of 32-bit guests: in the upper half of the first table, which has a shadow page of its own.
    const far = this.wide ? 0x10_0804_0000 : mode === "pae" ? 0x8804_0000 : first + 0x20_0000;
    const largeVa = 0x800_0000 + 2 * step;
    const flags = (): string => chance.pick(["pwuad", "pwuad", "pwua", "pwu", "puad", "pwad", "pwuadg", "pw"]);
    const map = (va: number, pages: readonly number[]): object[] =>
      pages.map((pa, i) => ({ va: hex(va + i * PAGE), pa: hex(pa), len: "4K", page: "4k", flags: flags() }));
    const isLow = mode === "32bit" || chance.happens(0.5);
    return {
      large,
      largeVa,
      pages: [...pagesFrom(first, 8), ...pagesFrom(second, 5), ...pagesFrom(far, 3)],
      maps: [
        ...map(first, POOL.slice(0, 6)),
        ...map(second, chance.happens(0.7) ? POOL.slice(2, 5) : [MEMORY_1[0], POOL[1] as number, MEMORY_1[0] + PAGE]),
        ...map(far, [POOL[0] as number, POOL[7] as number]),
        {
          va: hex(largeVa),
          pa: isLow ? "0x0" : hex(LARGE),
          len: large === "4m" ? "4M" : "2M",
          page: large,
          flags: flags(),
        },
      ],
    };
  }

  private makeBase(): Readonly<Record<string, unknown>> & { readonly name: string } {
    const { chance, mode } = this;
    const backing = chance.pick(["anon4k", "anon4k", "thp", "memfd"]);
    return {
      name: `random-guest-${this.seed}`,
      kernel_params: { npt: 0, nx_huge_pages: chance.happens(0.3) ? "force" : "off" },
      memory: [
        { slot: 0, gpa: "0x0", size: "4M", backing },
        { slot: 1, gpa: hex(MEMORY_1[0]), size: "256K", backing: chance.pick(["anon4k", "memfd"]) },
      ],
      caps: chance.happens(0.25) ? [{ cap: "manual_dirty_log_protect2", arg: chance.pick([1, 3]) }] : NO_CAPS,
      guest_paging: {
        mode,
        roots: this.roots.map((name) => ({ name, maps: name === "A" ? this.layout.maps : this.otherMaps() })),
        ...(chance.happens(0.5) ? { pt_base: "0x100000" } : {}),
      },
      guest_nx: this.nx,
      guest_pge: chance.happens(0.4),
      guest_wp: true,
      vcpus: this.vcpus,
    };
  }

  /** Another address space: fewer pages, and some of other frames. */
  private otherMaps(): readonly object[] {
    const { chance, layout } = this;
    return layout.maps
      .filter(() => chance.happens(0.85))
      .map((map) => ({
        ...map,
        ...((map as { page: string }).page === "4k" && chance.happens(0.4) ? { pa: hex(chance.pick(POOL)) } : {}),
      }));
  }

  document(): GuestDocument {
    const workload = parseWorkload("random guest", { ...this.base, ops: [] });
    this.findTables(workload);
    this.prologue();
    const count = this.chance.between(15, 50);
    for (let i = 0; i < count; i++) this.operation();
    return { ...this.base, ops: this.ops };
  }

  /** Which tables there are, at which levels, and which entries may be edited. */
  private findTables(workload: Workload): void {
    const tables = new GuestTables(workload);
    const values = new Map(tables.initial.pageTableEntries.map(({ gpa, value }) => [gpa, value.lo]));
    const { entryBytes } = this;
    const levels = { "32bit": 2, pae: 3, "4level": 4, "5level": 5 }[this.mode];
    const perTable = this.mode === "32bit" ? 1024 : 512;
    for (const root of tables.roots.values()) this.levelOf.set(root, levels);
    // Tables are handed out top down, so a table's level is known before its entries are looked at.
    for (const [gpa, value] of [...values].sort(([a], [b]) => a - b)) {
      const level = this.levelOf.get(gpa - (gpa % PAGE));
      if (level === undefined || level === 1 || (value & 0x80) !== 0) continue;
      this.levelOf.set(value - (value % PAGE), level - 1);
    }
    this.tables = [...this.levelOf.keys()];
    const kept = new Set<number>();
    const walk = (root: number, va: number, use: (place: number, level: number) => void): void => {
      let table = root;
      for (let level: number = levels; level > 0; level--) {
        const index =
          Math.floor(va / (PAGE * perTable ** (level - 1))) % (this.mode === "pae" && level === 3 ? 4 : perTable);
        const place = table + index * entryBytes;
        use(place, level);
        const value = values.get(place) ?? 0;
        if ((value & 1) === 0 || (value & 0x80) !== 0) return;
        table = value - (value % PAGE);
      }
    };
    const control = [...this.tables, ...[0, 1, 2, 3].map((i) => CONTROL + i * PAGE)];
    for (const root of tables.roots.values()) {
      for (const va of control) walk(root, va, (place) => kept.add(place));
    }
    for (const place of kept) this.keptOffsets.add((place % PAGE) - (place % 8));
    const entries = new Map<number, Entry>();
    for (const root of tables.roots.values()) {
      for (const va of [...this.layout.pages, this.layout.largeVa]) {
        walk(root, va, (place, level) => {
          if (!kept.has(place)) entries.set(place, { place, level, table: place - (place % PAGE) });
        });
      }
    }
    this.entries = [...entries.values()];
  }

  private prologue(): void {
    const { chance } = this;
    for (let vcpu = 0; vcpu < this.vcpus; vcpu++) this.ops.push({ guest: "nop", vcpu });
    if (this.isSupervisorOnly) {
      for (const root of this.roots) {
        for (const i of [0, 1, 2, 3]) {
          const va = hex(CONTROL + i * PAGE);
          this.ops.push({ guest: "set_pte", va, pa: va, level: 1, flags: "pwad", root });
        }
      }
      for (let vcpu = 0; vcpu < this.vcpus; vcpu++) this.guest({ guest: "set_cr3", root: "A", vcpu });
    }
    // Address spaces that share a last-level table.
    if (chance.happens(0.4)) this.editTable();
    if (chance.happens(0.3)) this.ops.push(...this.host.operations());
  }

  // --- operations --------------------------------------------------------------------------------------------------

  private operation(): void {
    switch (this.chance.weighted(this.habits)) {
      case "access":
        this.access();
        break;
      case "pte":
        this.editPage();
        break;
      case "table":
        this.editTable();
        break;
      case "odd":
        this.editOddly();
        break;
      case "invlpg":
        this.guest({ guest: "invlpg", addr: hex(this.address()) });
        break;
      case "cr3":
        this.guest({ guest: "set_cr3", root: this.chance.pick(this.roots) });
        break;
      case "cr":
        this.controlRegister();
        break;
      case "host":
        this.ops.push(...this.host.operations());
        break;
    }
  }

  private guest(operation: object): void {
    const vcpu = this.chance.between(0, this.vcpus - 1);
    this.ops.push(vcpu === 0 ? operation : { vcpu, ...operation });
  }

  private access(): void {
    const { chance } = this;
    const user = !this.isSupervisorOnly && chance.happens(0.35) ? { cpl: 3 } : {};
    const page = this.address();
    const offset = this.offset();
    const size = chance.happens(0.8) ? {} : { size: chance.pick([1, 2, 4]) };
    const kind = chance.weighted({ read: 10, write: 10, rmw: 3, exec: 5 });
    if (kind === "exec") this.guest({ guest: "exec", addr: hex(page + offset), ...user });
    else if (kind === "rmw") this.guest({ guest: "rmw", addr: hex(page + offset), ...user });
    else if (kind === "read") this.guest({ guest: "read", addr: hex(page + offset), ...size, ...user });
    else this.guest({ guest: "write", addr: hex(page + offset), value: hexOf(this.value()), ...size, ...user });
  }

  /** A page that the guest may have. */
  private address(): number {
    const { chance, layout } = this;
    if (chance.happens(0.2)) {
      // In the large page: where the pool or a table is, if it maps those.
      const inPage = chance.pick([...POOL, ...this.tables, LARGE + PAGE * 3, 0x1f_f000]) % 0x20_0000;
      return layout.largeVa + inPage;
    }
    return chance.pick(layout.pages);
  }

  /** An offset at which no table has an entry that must stay. */
  private offset(): number {
    for (;;) {
      const offset = 8 * this.chance.between(0, 511);
      if (!this.keptOffsets.has(offset)) return this.chance.happens(0.6) ? this.usefulOffset(offset) : offset;
    }
  }

  /** Where tables have entries of what the guest uses. */
  private usefulOffset(otherwise: number): number {
    if (this.entries.length === 0) return otherwise;
    const place = this.chance.pick(this.entries).place % PAGE;
    const offset = place - (place % 8);
    return this.keptOffsets.has(offset) ? otherwise : offset;
  }

  /** What is stored to data: often what would do as an entry. */
  private value(): number {
    return this.chance.happens(0.7) ? this.pageEntry() : this.chance.between(0, 0xfff);
  }

  // --- entries -----------------------------------------------------------------------------------------------------

  private flags(): number {
    const { chance } = this;
    const bits = [
      [0.9, 1],
      [0.7, 2],
      [0.6, 4],
      [0.65, 0x20],
      [0.5, 0x40],
      [0.2, 0x100],
    ] as const;
    return bits.reduce((sum, [probability, bit]) => sum + (chance.happens(probability) ? bit : 0), 0);
  }

  private noExecute(): number {
    // Without EFER.NXE the bit is reserved.
    return this.entryBytes === 8 && this.chance.happens(this.nx ? 0.2 : 0.03) ? NX : 0;
  }

  private frame(): number {
    const { chance } = this;
    const kind = chance.weighted({
      pool: 14,
      memory1: this.isWild ? 0 : 4,
      table: 3,
      large: 1,
      nowhere: this.isWild ? 0 : 1,
    });
    switch (kind) {
      case "memory1":
        return chance.pick(MEMORY_1) + PAGE * chance.between(0, 3);
      case "table":
        return chance.pick(this.tables);
      case "large":
        return LARGE + PAGE * chance.between(0, 3);
      case "nowhere":
        return 0x3000_0000;
      default:
        return chance.pick(POOL);
    }
  }

  private pageEntry(): number {
    if (this.chance.happens(0.06)) return 0;
    // Now and then a reserved bit.
    const reserved = this.wide && this.chance.happens(0.02) ? 2 ** 45 : 0;
    return this.frame() + this.flags() + this.noExecute() + reserved;
  }

  private editPage(): void {
    const entry = this.pickEntry((level) => level === 1);
    if (entry !== null) this.store(entry.place, this.pageEntry());
  }

  private editTable(): void {
    const entry = this.pickEntry((level) => level > 1);
    if (entry === null) return;
    this.store(entry.place, this.tableEntry(entry));
    // PDPTEs are read when CR3 is loaded.
    if (this.mode === "pae" && entry.level === 3 && this.chance.happens(0.8))
      this.guest({ guest: "set_cr3", root: this.chance.pick(this.roots) });
  }

  private tableEntry({ level, table }: Entry): number {
    const { chance } = this;
    const isPdpte = this.mode === "pae" && level === 3;
    const kind = chance.weighted({
      table: 10,
      pool: level === 2 ? 3 : 0,
      page: level === 2 ? 4 : 0,
      self: isPdpte ? 0 : 2,
      wild: this.isWild && !isPdpte ? 2 : 0,
      nothing: 1,
    });
    if (kind === "nothing") return 0;
    if (kind === "page") {
      const size = this.mode === "32bit" ? 0 : chance.pick([0, LARGE]);
      return size + this.flags() + 0x80 + this.noExecute();
    }
    const below = this.tables.filter((each) => this.levelOf.get(each) === level - 1);
    const target =
      kind === "pool"
        ? chance.pick(POOL)
        : kind === "self"
          ? table
          : kind === "wild"
            ? chance.pick(this.tables)
            : chance.pick(below);
    if (isPdpte) return target + 1;
    return target + (this.flags() & ~0x140) + (chance.happens(0.85) ? 0 : this.noExecute());
  }

  private pickEntry(isWanted: (level: number) => boolean): Entry | null {
    const wanted = this.entries.filter(({ level }) => isWanted(level));
    return wanted.length === 0 ? null : this.chance.pick(wanted);
  }

  /** Stores an entry through the window. A 32-bit guest stores eight bytes in two. */
  private store(place: number, value: number): void {
    if (this.mode !== "pae") {
      this.guest({
        guest: "write",
        addr: hex(place),
        value: hexOf(value),
        ...(this.mode === "32bit" ? { size: 4 } : {}),
      });
      return;
    }
    const isPdpte = this.levelOf.get(place - (place % PAGE)) === 3;
    if (!isPdpte && (value >= NX || this.chance.happens(0.3)))
      this.guest({ guest: "write", addr: hex(place + 4), value: value >= NX ? "0x80000000" : "0x0", size: 4 });
    this.guest({ guest: "write", addr: hex(place), value: hexOf(value % 2 ** 32), size: 4 });
  }

  /** Parts of entries, across entries, increments. */
  private editOddly(): void {
    const { chance } = this;
    const entry = this.pickEntry((level) => !(this.mode === "pae" && level === 3));
    if (entry === null) return;
    const { place } = entry;
    switch (chance.weighted({ byte: 4, half: 2, word: 2, across: 1, rmw: 2 })) {
      case "byte":
        this.guest({ guest: "write", addr: hex(place), value: hex(this.flags() & 0xff), size: 1 });
        break;
      case "half":
        this.guest({ guest: "write", addr: hex(place), value: hex(this.flags() + (this.frame() & 0xf000)), size: 2 });
        break;
      case "word":
        this.guest({ guest: "write", addr: hex(place), value: hex(this.pageEntry() % 2 ** 32), size: 4 });
        break;
      case "across":
        if (!this.keptOffsets.has(((place + 8) % PAGE) - (place % 8)))
          this.guest({ guest: "write", addr: hex(place + 2), value: "0x0", size: this.wide ? 8 : 4 });
        break;
      case "rmw":
        this.guest({ guest: "rmw", addr: hex(place) });
        break;
    }
  }

  private controlRegister(): void {
    const { chance } = this;
    if (chance.happens(0.4)) {
      this.wp = !this.wp;
      this.guest({ guest: "set_cr0", wp: this.wp });
      return;
    }
    const bits = [0x80, ...(this.isSupervisorOnly ? [0x10_0000, 0x20_0000, 0x30_0000] : [])];
    const bit = chance.pick(bits);
    if ((this.cr4.set & bit) !== 0) this.cr4 = { set: this.cr4.set & ~bit, clear: this.cr4.clear | bit };
    else this.cr4 = { set: this.cr4.set | bit, clear: this.cr4.clear & ~bit };
    this.guest({ guest: "set_cr4", set: hex(this.cr4.set), clear: hex(this.cr4.clear) });
  }
}

function pagesFrom(va: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => va + i * PAGE);
}

function hexOf(value: number): string {
  return value < NX ? hex(value) : `0x${(2n ** 63n + BigInt(value - NX)).toString(16)}`;
}
