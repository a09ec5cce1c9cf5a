/**
 * Random workloads for the TDP MMU: a document in the form of `<case>.workload.json`, made from a seed.
 *
 *     const workload = parseWorkload("seed 7", randomWorkload(7));
 *
 * One to three memories with whatever backing, memslots that come, go and move, every operation of the host mm and of KVM that a workload can
 * have, and guests that touch all of it. Operations fall on a few places again and again, so that they meet. Most are sensible (a slot that is deleted
 * is there), some are not: the errors are part of what is tested. No two operations run at the same time, and the guest's page tables stay
 * as they are.
 */
import { Random } from "../engine/index.ts";

const PAGE = 4096;
const HUGE = 512 * PAGE;
const GIGANTIC = 512 * HUGE;

/** What a random workload is to have. */
export interface RandomWorkloadOptions {
  /** Default 40. */
  readonly operations?: number;
  /** Also memory of hugetlbfs with pages of 1G, which takes long to run. Default false. */
  readonly gigantic?: boolean;
  /** Also guests with 5-level tables, which no recording has. Default true. */
  readonly fiveLevel?: boolean;
}

type Json = Readonly<Record<string, unknown>>;
/** A workload file's content. */
export type WorkloadDocument = { readonly name: string; readonly ops: readonly unknown[] } & Json;
type Backing = "anon4k" | "anon" | "thp" | "hugetlb2m" | "hugetlb1g" | "memfd" | "fileprivate";

interface RandomMemory {
  readonly slot: number;
  readonly gpa: number;
  readonly size: number;
  readonly backing: Backing;
  readonly later: boolean;
  /** Offsets that operations fall on. */
  readonly spots: readonly number[];
}

interface RandomSlot {
  gpa: number;
  dirtyLog: boolean;
  readonly: boolean;
}

/** Chooses among kinds by their weights. */
type Weighted<T> = readonly (readonly [weight: number, value: T])[];

const hex = (value: number): string => `0x${value.toString(16)}`;

/** A workload's document. The same seed and options give the same one anywhere. */
export function randomWorkload(seed: number, options: RandomWorkloadOptions = {}): WorkloadDocument {
  return new Builder(seed, options).document();
}

class Builder {
  private readonly random: Random;
  private readonly seed: number;
  private readonly options: RandomWorkloadOptions;
  private readonly vcpus: number;
  private readonly memories: readonly RandomMemory[];
  /** Memslots as the operations so far have left them, if none failed. */
  private readonly slots = new Map<number, RandomSlot>();
  private readonly nxHugePages: boolean;
  private readonly log: "bitmap" | "manual" | "initially-set" | "ring";
  private readonly longMode: boolean;
  private children = 0;
  private value = 1;

  constructor(seed: number, options: RandomWorkloadOptions) {
    this.seed = seed;
    this.options = options;
    this.random = new Random(seed);
    this.vcpus = this.pick([
      [3, 1],
      [2, 2],
    ]);
    this.nxHugePages = this.chance(0.25);
    this.log = this.pick([
      [4, "bitmap"],
      [2, "manual"],
      [3, "initially-set"],
      [1, "ring"],
    ]);
    this.memories = this.newMemories();
    this.longMode = this.chance(0.8);
    for (const { slot, gpa, later } of this.memories) {
      if (!later) this.slots.set(slot, { gpa, dirtyLog: this.chance(0.15), readonly: this.chance(0.07) });
    }
  }

  // --- choices -----------------------------------------------------------------------------------------------------

  private chance(probability: number): boolean {
    return this.random.below(1000) < 1000 * probability;
  }

  private one<T>(values: readonly T[]): T {
    return values[this.random.below(values.length)] as T;
  }

  private pick<T>(kinds: Weighted<T>): T {
    let left = this.random.below(kinds.reduce((sum, [weight]) => sum + weight, 0));
    for (const [weight, value] of kinds) {
      if (left < weight) return value;
      left -= weight;
    }
    throw new RangeError("a choice among nothing");
  }

  // --- the machine -------------------------------------------------------------------------------------------------

  private newMemories(): RandomMemory[] {
    const count = this.pick([
      [3, 1],
      [3, 2],
      [1, 3],
    ]);
    return Array.from({ length: count }, (_, slot) => {
      const backing = this.pick<Backing>([
        [4, "anon4k"],
        [2, "anon"],
        [6, "thp"],
        [2, "hugetlb2m"],
        [2, "memfd"],
        [1, "fileprivate"],
        [this.options.gigantic === true && slot === 0 ? 12 : 0, "hugetlb1g"],
      ]);
      const size = this.sizeOf(backing);
      const isHuge = backing === "thp" || backing === "hugetlb2m" || backing === "hugetlb1g";
      // A place that does not suit large pages, sometimes.
      const shift = isHuge && this.chance(0.8) ? 0 : PAGE * this.one([0, 0, 1, 16, 511]);
      const gpa = backing === "hugetlb1g" ? 2 * GIGANTIC : slot * 16 * HUGE + shift;
      return { slot, gpa, size, backing, later: this.chance(0.15), spots: this.spotsIn(size) };
    });
  }

  private sizeOf(backing: Backing): number {
    if (backing === "hugetlb1g") return GIGANTIC;
    if (backing === "hugetlb2m") return HUGE * this.one([1, 2]);
    if (backing === "thp")
      return this.pick([
        [3, 2 * HUGE],
        [1, HUGE],
        [1, HUGE + 64 * PAGE],
      ]);
    return PAGE * this.one([8, 64, 70, 130, 200]);
  }

  /** A few pages, some of them neighbours, some at the ends of large pages. */
  private spotsIn(size: number): number[] {
    const pages = size / PAGE;
    const first = this.random.below(pages);
    const edges = [0, 1, 63, 64, 511, 512, 513, pages - 1].filter((page) => page < pages);
    const chosen = [first, Math.min(pages - 1, first + 1), this.one(edges), this.one(edges), this.random.below(pages)];
    return [...new Set(chosen)].map((page) => page * PAGE);
  }

  private paging(): string | Json {
    const end = Math.max(...this.memories.map(({ gpa, size }) => gpa + size));
    const size = Math.ceil(end / HUGE) * HUGE + 64 * HUGE;
    if (!this.longMode) {
      return this.pick<string | Json>([
        [2, "none"],
        [1, { mode: "pae", identity: "2m", identity_size: hex(Math.min(size, 4 * GIGANTIC)) }],
        [
          1,
          {
            mode: "32bit",
            identity: "4m",
            identity_size: hex(2 * Math.ceil(Math.min(size, 4 * GIGANTIC) / HUGE / 2) * HUGE),
          },
        ],
      ]);
    }
    const mode = this.options.fiveLevel !== false && this.chance(0.2) ? "5level" : "4level";
    const identity = end > 64 * HUGE ? "1g" : this.one(["4k", "2m", "2m", "1g"]);
    const bytes = { "4k": 48 * HUGE, "2m": size, "1g": 4 * GIGANTIC }[identity] as number;
    return { mode, identity, identity_size: hex(bytes) };
  }

  document(): WorkloadDocument {
    const wanted = this.options.operations ?? 40;
    const slots = this.memories.map((memory) => this.memoryEntry(memory));
    const paging = this.paging();
    const ops: Json[] = [{ guest: "nop" }];
    while (ops.length < wanted) ops.push(...this.operations());
    return {
      name: `tdp-random-seed-${this.seed}`,
      kernel_params: {
        npt: 1,
        eager_page_split: this.chance(0.5) ? "Y" : "N",
        ...(this.nxHugePages ? { nx_huge_pages: "force", nx_huge_pages_recovery_ratio: 1 } : {}),
      },
      memory: slots,
      caps: this.caps(),
      guest_paging: paging,
      vcpus: this.vcpus,
      ops,
    };
  }

  private memoryEntry({ slot, gpa, size, backing, later }: RandomMemory): Json {
    const now = this.slots.get(slot);
    const flags = [...(now?.dirtyLog ? ["dirty_log"] : []), ...(now?.readonly ? ["readonly"] : [])];
    const hvaOffset = backing.startsWith("huge") || this.chance(0.7) ? 0 : gpa % HUGE;
    const shape = { slot, gpa: hex(gpa), size: hex(size), backing, hva_offset: hvaOffset };
    return { ...shape, ...(later ? { later } : {}), ...(flags.length > 0 ? { flags } : {}) };
  }

  private caps(): Json[] {
    if (this.log === "manual") return [{ cap: "manual_dirty_log_protect2", arg: 1 }];
    if (this.log === "initially-set") return [{ cap: "manual_dirty_log_protect2", arg: 3 }];
    return this.log === "ring" ? [{ cap: "dirty_ring", arg: 4096 }] : [];
  }

  // --- operations --------------------------------------------------------------------------------------------------

  private operations(): readonly Json[] {
    return this.pick<() => readonly Json[]>([
      [40, () => [this.guest()]],
      [6, () => this.exec()],
      [14, () => [this.hostMemory()]],
      [6, () => [this.hostTouch()]],
      [5, () => [this.hostWide()]],
      [8, () => [this.age()]],
      [14, () => [this.dirtyLogging()]],
      [6, () => [this.slotUpdate()]],
      [2, () => [this.prefault()]],
      [this.nxHugePages ? 4 : 1, () => [{ host: "sleep", ms: 1000 * 3600 }]],
      [1, () => [this.setting()]],
    ])();
  }

  private setting(): Json {
    const parameters = "/sys/module/kvm/parameters";
    return this.one<Json>([
      { host: "write_file", path: `${parameters}/eager_page_split`, value: this.one(["0", "1"]) },
      { host: "write_file", path: "/sys/kernel/mm/transparent_hugepage/use_zero_page", value: this.one(["0", "1"]) },
      this.nxHugePages
        ? { host: "write_file", path: `${parameters}/nx_huge_pages`, value: this.one(["force", "force", "never"]) }
        : { guest: "nop" },
    ]);
  }

  /** A place in a memory: its slot's guest address may have moved. */
  private place(): { readonly memory: RandomMemory; readonly offset: number; readonly gpa: number } {
    const memory = this.one(this.memories);
    const offset = this.one(memory.spots);
    return { memory, offset, gpa: (this.slots.get(memory.slot)?.gpa ?? memory.gpa) + offset };
  }

  private vcpu(): Json {
    const vcpu = this.random.below(this.vcpus);
    return vcpu === 0 ? {} : { vcpu };
  }

  /** How many pages an operation takes from its place on: never beyond the memory. */
  private extent(memory: RandomMemory, offset: number, most: number): number {
    const pages = this.one([1, 1, 2, 4, 8, 65, 512].filter((count) => count <= most));
    return Math.min(pages, (memory.size - offset) / PAGE);
  }

  private guest(): Json {
    // Beyond every slot: MMIO.
    const { memory, offset, gpa } = this.place();
    const addr = this.chance(0.03) ? 40 * HUGE : gpa;
    const count = this.extent(memory, offset, 65);
    const loop = { ...this.vcpu(), addr: hex(addr), count, stride: PAGE };
    const kind = this.pick<string>([
      [6, "write"],
      [5, "read"],
      [1, "rmw"],
    ]);
    if (kind !== "write") return { guest: kind, ...loop };
    this.value += 16;
    return { guest: "write", ...loop, value: hex(this.value), value_step: 1 };
  }

  /** The VMM puts the stub there first. */
  private exec(): readonly Json[] {
    const { memory, offset, gpa } = this.place();
    // Code in MMIO ends a guest for good.
    if (!this.slots.has(memory.slot)) return [];
    const stub = 0x800;
    const count = Math.min(this.extent(memory, offset, 4), 4);
    return [
      { host: "poke_ret", mem: memory.slot, offset: hex(offset + stub), count, stride: PAGE },
      { guest: "exec", ...this.vcpu(), addr: hex(gpa + stub), count, stride: PAGE },
    ];
  }

  private range(most = 512): { readonly memory: RandomMemory; readonly keys: Json } {
    const memory = this.one(this.memories);
    const isHugetlb = memory.backing.startsWith("hugetlb");
    if (isHugetlb || this.chance(0.1)) {
      const unit = memory.backing === "hugetlb1g" ? GIGANTIC : isHugetlb ? HUGE : memory.size;
      const at = this.random.below(memory.size / unit) * unit;
      return { memory, keys: { mem: memory.slot, offset: hex(at), len: hex(unit) } };
    }
    let offset = this.one(memory.spots);
    if (memory.size >= HUGE && this.chance(0.3)) offset -= offset % HUGE;
    const len = this.extent(memory, offset, most) * PAGE;
    return { memory, keys: { mem: memory.slot, offset: hex(offset), len: hex(len) } };
  }

  private hostMemory(): Json {
    const { memory, keys } = this.range();
    return this.pick<() => Json>([
      [8, () => ({ host: "madvise_dontneed", ...keys })],
      [7, () => ({ host: "mprotect", ...keys, prot: this.one(["none", "r", "r", "rwx", "rwx", "rwx", "rwx"]) })],
      [2, () => ({ host: "munmap", ...keys })],
      [3, () => ({ host: memory.backing.startsWith("huge") ? "madvise_dontneed" : "mmap_fixed", ...keys })],
      [3, () => ({ host: "madvise_pageout", ...keys })],
      [3, () => ({ host: "madvise_collapse", ...keys })],
      [1, () => ({ host: "madvise_cold", ...keys })],
      [1, () => ({ host: "madvise_free", ...keys })],
      [2, () => ({ host: this.one(["madvise_hugepage", "madvise_nohugepage"]), ...keys })],
      [2, () => ({ host: this.one(["madvise_populate_read", "madvise_populate_write"]), ...keys })],
      [memory.backing === "memfd" ? 6 : 0, () => ({ host: this.one(["punch", "madvise_remove"]), ...keys })],
      [memory.backing.startsWith("huge") ? 0 : 2, () => this.swap(memory)],
    ])();
  }

  /** A range moves over another one of the same memory. */
  private swap(memory: RandomMemory): Json {
    const pages = memory.size / PAGE;
    const count = this.one([1, 2, 4, 512].filter((each) => 2 * each <= pages));
    const slots = Math.floor(pages / count);
    const from = this.random.below(slots);
    const to = (from + 1 + this.random.below(slots - 1)) % slots;
    const bytes = count * PAGE;
    return {
      host: "mremap_swap",
      mem: memory.slot,
      offset: hex(from * bytes),
      len: hex(bytes),
      to: hex(to * bytes),
    };
  }

  private hostTouch(): Json {
    const { memory, offset } = this.place();
    const count = this.extent(memory, offset, 65);
    const range = { mem: memory.slot, offset: hex(offset) };
    this.value += 16;
    return this.one<Json>([
      { host: "touch", ...range, len: hex(count * PAGE), write: this.chance(0.5) },
      { host: "poke", ...range, value: hex(this.value), count, stride: PAGE },
      { host: "peek", ...range },
    ]);
  }

  /** What concerns the whole process. */
  private hostWide(): Json {
    const { keys } = this.range();
    return this.pick<() => Json>([
      [
        3,
        () => {
          if (this.children > 0) {
            this.children--;
            return { host: "fork_exit" };
          }
          this.children++;
          return { host: "fork" };
        },
      ],
      [1, () => ({ host: this.one(["madvise_mergeable", "madvise_mergeable", "madvise_unmergeable"]), ...keys })],
      [1, () => ({ host: "write_file", path: "/sys/kernel/mm/ksm/run", value: this.one(["1", "1", "0", "2"]) })],
      [1, () => ({ host: "write_file", path: "/sys/kernel/mm/ksm/pages_to_scan", value: "5000" })],
      [1, () => ({ host: "sleep", ms: 200 })],
    ])();
  }

  private age(): Json {
    const { keys } = this.range();
    return { host: "age", mode: this.one(["clear_flush_young", "clear_young", "clear_young", "test_young"]), ...keys };
  }

  private dirtyLogging(): Json {
    const memory = this.one(this.memories);
    const { slot } = memory;
    const now = this.slots.get(slot);
    const isOn = now?.dirtyLog ?? false;
    if (now !== undefined && (!isOn || this.chance(0.2))) {
      now.dirtyLog = !isOn;
      return { host: "dirty_log", slot, on: !isOn };
    }
    if (this.log === "ring") return { host: "ring_collect" };
    if (this.log === "bitmap" || this.chance(0.5)) return { host: "get_dirty_log", slot };
    const words = Math.ceil(memory.size / PAGE / 64);
    const first = this.random.below(words) * 64;
    const left = memory.size / PAGE - first;
    const pages = this.chance(0.4) ? left : Math.min(left, 64 * (1 + this.random.below(words)));
    return { host: "clear_dirty_log", slot, first, pages };
  }

  private slotUpdate(): Json {
    const memory = this.one(this.memories);
    const { slot } = memory;
    const now = this.slots.get(slot);
    if (now === undefined) {
      const made = { gpa: memory.gpa, dirtyLog: this.chance(0.2), readonly: this.chance(0.1) };
      this.slots.set(slot, made);
      const flags = [...(made.dirtyLog ? ["dirty_log"] : []), ...(made.readonly ? ["readonly"] : [])];
      return { host: "slot_create", slot, flags };
    }
    const kind = this.pick<"delete" | "move" | "again">([
      [4, "delete"],
      [3, "move"],
      // KVM refuses it.
      [1, "again"],
    ]);
    if (kind === "again") return { host: "slot_flags", slot, flags: now.readonly ? [] : ["readonly"] };
    if (kind === "delete") {
      this.slots.delete(slot);
      return { host: "slot_delete", slot };
    }
    // Where nothing else ever is, or back.
    now.gpa = now.gpa === memory.gpa ? memory.gpa + 4 * HUGE + this.one([0, 0, PAGE]) : memory.gpa;
    return { host: "slot_move", slot, gpa: hex(now.gpa) };
  }

  private prefault(): Json {
    const { memory, offset, gpa } = this.place();
    const len = this.extent(memory, offset, 8) * PAGE;
    return { host: "prefault", ...this.vcpu(), gpa: hex(gpa), len: hex(len) };
  }
}
