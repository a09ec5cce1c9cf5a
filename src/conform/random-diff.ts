/**
 * Random workloads, for holding one MMU against another: what they do makes little sense, and reaches corners that nobody thought of.
 *
 * The same seed gives the same workload. It is a document as a workload file has it, so a run that shows something can be kept.
 */
import { Random, UsageError } from "../engine/index.ts";
import { randomWorkload as randomTdpWorkload, type WorkloadDocument } from "./random-workload.ts";

/** Which MMU a workload is for. */
export type RandomMmu = "tdp" | "direct" | "shadow";

export interface RandomOptions {
  /** Null: any of them. */
  readonly mmu: RandomMmu | null;
}

type Json = Readonly<Record<string, unknown>>;

const PAGE = 4096;
const LARGE = 512 * PAGE;
const BACKINGS = ["anon4k", "anon4k", "thp", "thp", "anon", "memfd", "fileprivate", "hugetlb2m"];
/** Where memories lie: apart from each other, with holes in between, below the control slot. */
const PLACES = [0, 16 * LARGE, 64 * LARGE];
const ADVICE = ["dontneed", "dontneed", "free", "cold", "pageout", "collapse", "hugepage", "nohugepage", "willneed"];
const MODES = ["4level", "4level", "pae", "32bit", "5level"];

interface Place {
  readonly slot: number;
  readonly gpa: number;
  readonly size: number;
  readonly backing: string;
  readonly later: boolean;
}

/** @param seed any integer */
export function randomWorkload(seed: number, options: RandomOptions): WorkloadDocument {
  const generator = new Generator(seed, options);
  // For the TDP MMU there are two kinds: this file's, and one whose operations fall on the same few places again and again.
  if (generator.mmu === "tdp" && seed % 2 !== 0) return randomTdpWorkload(seed);
  return generator.make();
}

/** What `--mmu` names. @throws UsageError for anything else */
export function randomMmu(text: string): RandomMmu {
  if (text === "tdp" || text === "direct" || text === "shadow") return text;
  throw new UsageError(`--mmu ${text}: no such MMU; use tdp, direct or shadow`);
}

class Generator {
  private readonly random: Random;
  private readonly seed: number;
  readonly mmu: RandomMmu;
  private readonly mode: string;
  private readonly memory: readonly Place[];
  private readonly vcpus: number;
  private readonly manual: number | null;
  private readonly ring: boolean;
  /** Memslots that there are now. */
  private readonly slots = new Map<number, { gpa: number; dirty: boolean; readonly: boolean }>();
  private children = 0;
  /** Memories that a root maps in 4K pages: a guest that changes an entry needs one that is there. */
  private readonly small = new Map<string, Set<number>>();

  constructor(seed: number, { mmu }: RandomOptions) {
    this.seed = seed;
    this.random = new Random(seed);
    this.mmu = mmu ?? this.pick<RandomMmu>(["tdp", "tdp", "tdp", "direct", "shadow", "shadow"]);
    this.mode = this.mmu === "shadow" ? this.pick(MODES) : this.pick(["none", "4level", "4level"]);
    this.memory = PLACES.slice(0, 1 + this.random.below(3)).map((gpa, slot) => this.place(slot, gpa));
    this.vcpus = 1 + this.random.below(3);
    this.ring = this.chance(8);
    this.manual = !this.ring && this.chance(3) ? 1 + 2 * this.random.below(2) : null;
  }

  private place(slot: number, gpa: number): Place {
    const size = (1 + this.random.below(4)) * LARGE;
    return { slot, gpa, size, backing: this.pick(BACKINGS), later: slot > 0 && this.chance(5) };
  }

  /** Once in `n` times. */
  private chance(n: number): boolean {
    return this.random.below(n) === 0;
  }

  private pick<T>(list: readonly T[]): T {
    return list[this.random.below(list.length)] as T;
  }

  make(): WorkloadDocument {
    const { seed, mmu, vcpus } = this;
    const memory = this.memory.map(({ gpa, size, backing, later, slot }) => {
      const dirty = !this.ring && this.chance(6);
      const readonly = this.chance(12);
      if (!later) this.slots.set(slot, { gpa, dirty, readonly });
      const flags = [...(dirty ? ["dirty_log"] : []), ...(readonly ? ["readonly"] : [])];
      const offset = backing !== "hugetlb2m" && this.chance(6) ? this.random.below(8) * PAGE : 0;
      return { gpa: hex(gpa), size, backing, flags, later, hva_offset: offset };
    });
    const caps = [
      ...(this.manual === null ? [] : [{ cap: "manual_dirty_log_protect2", arg: this.manual }]),
      ...(this.ring ? [{ cap: "dirty_ring", arg: 0x10000 }] : []),
    ];
    const count = 4 + this.random.below(28);
    const ops = Array.from({ length: count }, () => this.operation()).flat();
    return {
      name: `random-${seed}`,
      kernel_params: {
        npt: mmu === "shadow" ? "0" : "1",
        tdp_mmu: mmu === "tdp" ? "Y" : "N",
        eager_page_split: this.chance(3) ? "N" : "Y",
        nx_huge_pages: this.chance(4) ? "force" : "off",
      },
      memory,
      caps,
      guest_paging: this.paging(),
      guest_wp: !this.chance(6),
      guest_pge: this.chance(4),
      vcpus,
      ops,
    };
  }

  // --- the guest's tables ----------------------------------------------------------------------------------------------

  /** The guest's addresses are its physical ones, in pages of this size. */
  private get page(): string {
    return this.mode === "32bit" ? "4m" : "2m";
  }

  private paging(): unknown {
    if (this.mode === "none") return "none";
    const map = (root: string): Json[] =>
      this.memory.map(({ slot, gpa, size }) => {
        const large = this.chance(2) && (this.mode !== "32bit" || size % (2 * LARGE) === 0);
        const flags = this.pick(["pwuad", "pwuad", "pwad", "puad", "pwuadg", "pwu", "pw", "pwuadx"]);
        const kept = this.mode === "32bit" ? flags.replace("x", "") : flags;
        if (!large) this.small.set(root, (this.small.get(root) ?? new Set()).add(slot));
        return { va: hex(gpa), pa: hex(gpa), len: size, page: large ? this.page : "4k", flags: kept };
      });
    // Beyond what memslots have: device memory.
    const device = { va: hex(DEVICE), pa: hex(DEVICE), len: 4 * LARGE, page: this.page };
    if (this.mmu !== "shadow") return { mode: this.mode, maps: [...map("A").map(plain), device] };
    const roots = ["A", "B"].map((name) => ({ name, maps: [...map(name), device] }));
    return { mode: this.mode, roots, root: "A" };
  }

  // --- operations --------------------------------------------------------------------------------------------------------

  private operation(): Json[] {
    const kinds = [...GUEST, ...HOST, ...(this.mmu === "shadow" ? SHADOW : [])];
    const kind = this.pick(kinds);
    switch (kind) {
      case "access":
        return [this.access()];
      case "mmio":
        return [this.device()];
      case "advise":
        return [{ host: `madvise_${this.pick(ADVICE)}`, ...this.range() }];
      case "mprotect":
        return [{ host: "mprotect", ...this.range(), prot: this.pick(["r", "rw", "rwx", "none"]) }];
      case "munmap":
        return this.unmap();
      case "touch":
        return [{ host: "touch", ...this.range(), write: this.chance(2) }];
      case "fork":
        return [this.forkOrExit()];
      case "age":
        return [{ host: "age", ...this.range(), mode: this.pick(["clear_flush_young", "clear_young", "test_young"]) }];
      case "slot":
        return this.slot();
      case "dirty":
        return this.dirty();
      case "recover":
        return [
          { host: "write_file", path: `${PARAMETERS}nx_huge_pages_recovery_period_ms`, value: "100" },
          { host: "write_file", path: `${PARAMETERS}nx_huge_pages_recovery_ratio`, value: "1" },
          { host: "sleep", ms: 250 },
        ];
      case "parameter":
        return [this.parameter()];
      case "prefault":
        return this.mmu === "shadow" ? [] : [{ host: "prefault", vcpu: 0, ...this.guestRange() }];
      default:
        return this.shadowOperation(kind);
    }
  }

  private vcpu(): number {
    return this.random.below(this.vcpus);
  }

  /** A memory, and a run of places in it. */
  private places(): { readonly slot: number; readonly addr: number; readonly count: number; readonly stride: number } {
    const { slot, gpa, size } = this.pick(this.memory);
    const stride = this.pick([PAGE, PAGE, PAGE, 64, 16 * PAGE, LARGE]);
    const offset = this.random.below(size / PAGE) * PAGE + (this.chance(6) ? 8 * this.random.below(512) : 0);
    const room = Math.floor((size - offset - 8) / stride) + 1;
    return {
      slot,
      addr: gpa + offset,
      count: 1 + this.random.below(Math.min(room, this.pick([1, 4, 20, 64]))),
      stride,
    };
  }

  private access(): Json {
    let guest = this.pick(["write", "write", "write", "read", "read", "rmw", "exec"]);
    const { slot, addr, count, stride } = this.places();
    // What is fetched where there is no memory cannot be emulated, and a guest that is told so is not modelled.
    const home = this.memory[slot]?.gpa;
    if (guest === "exec" && (this.mmu === "shadow" || this.slots.get(slot)?.gpa !== home)) guest = "read";
    const cpl = this.chance(4) && this.mode !== "none" ? { cpl: 3 } : {};
    const value = guest === "write" ? { value: hex(this.random.next()) } : {};
    const aligned = guest === "exec" ? addr - (addr % 16) : addr;
    return { guest, vcpu: this.vcpu(), addr: hex(aligned), count, stride, ...cpl, ...value };
  }

  private device(): Json {
    const guest = this.pick(["write", "read", "rmw"]);
    const addr = DEVICE + this.random.below(4) * PAGE + 8 * this.random.below(4);
    return { guest, vcpu: this.vcpu(), addr: hex(addr), count: 1 + this.random.below(3), stride: PAGE };
  }

  private range(): { readonly mem: number; readonly offset: number; readonly len: number } {
    const { slot, size, backing } = this.pick(this.memory);
    const unit = backing === "hugetlb2m" || this.chance(4) ? LARGE : PAGE;
    const first = this.random.below(size / unit);
    const most = size / unit - first;
    const count = 1 + this.random.below(Math.min(most, this.pick([1, 3, 30, most])));
    return { mem: slot, offset: first * unit, len: count * unit };
  }

  private guestRange(): { readonly gpa: string; readonly len: number } {
    const { mem, offset, len } = this.range();
    return { gpa: hex((this.memory[mem]?.gpa ?? 0) + offset), len };
  }

  private unmap(): Json[] {
    const range = this.range();
    if (this.memory[range.mem]?.backing === "hugetlb2m") return [];
    const again = this.chance(2) ? [this.access()] : [];
    return [{ host: "munmap", ...range }, ...again, { host: "mmap_fixed", ...range }];
  }

  private forkOrExit(): Json {
    if (this.children > 0 && this.chance(2)) {
      this.children--;
      return { host: "fork_exit" };
    }
    this.children++;
    return { host: "fork" };
  }

  private slot(): Json[] {
    const { slot, gpa } = this.pick(this.memory);
    const now = this.slots.get(slot);
    if (now === undefined) {
      this.slots.set(slot, { gpa, dirty: false, readonly: false });
      return [{ host: "slot_create", slot, gpa: hex(gpa), flags: [] }];
    }
    if (this.chance(3)) {
      this.slots.delete(slot);
      const again = this.chance(2) ? [this.access()] : [];
      if (this.chance(2)) return [{ host: "slot_delete", slot }, ...again];
      this.slots.set(slot, { gpa, dirty: false, readonly: false });
      return [{ host: "slot_delete", slot }, ...again, { host: "slot_create", slot, gpa: hex(gpa), flags: [] }];
    }
    if (this.chance(2)) {
      const to = now.gpa === gpa ? gpa + 8 * LARGE : gpa;
      this.slots.set(slot, { ...now, gpa: to });
      return [{ host: "slot_move", slot, gpa: hex(to) }];
    }
    return this.dirty();
  }

  private dirty(): Json[] {
    if (this.ring) return [{ host: "ring_collect" }];
    const { slot, size } = this.pick(this.memory);
    const now = this.slots.get(slot);
    if (now === undefined) return [];
    if (!now.dirty || this.chance(6)) {
      this.slots.set(slot, { ...now, dirty: !now.dirty });
      return [{ host: "dirty_log", slot, on: !now.dirty }];
    }
    const get = { host: "get_dirty_log", slot };
    if (this.manual === null || this.chance(3)) return [get];
    const first = 64 * this.random.below(size / PAGE / 64);
    const pages = this.pick([64, 128, size / PAGE]);
    return [get, { host: "clear_dirty_log", slot, first, pages: Math.min(pages, size / PAGE - first) }];
  }

  private parameter(): Json {
    if (this.chance(2))
      return { host: "write_file", path: `${PARAMETERS}nx_huge_pages`, value: this.pick(["force", "off"]) };
    return { host: "write_file", path: `${PARAMETERS}eager_page_split`, value: this.pick(["Y", "N"]) };
  }

  // --- shadow paging -------------------------------------------------------------------------------------------------------

  private shadowOperation(kind: string): Json[] {
    const root = this.pick(["A", "B"]);
    const vcpu = this.vcpu();
    const { slot, addr, count } = this.places();
    const va = addr - (addr % PAGE);
    switch (kind) {
      case "set-pte": {
        if (this.small.get(root)?.has(slot) !== true) return [];
        const target = this.pick(this.memory);
        const pa = target.gpa + this.random.below(target.size / PAGE) * PAGE;
        const flags = this.pick(["pwuad", "puad", "pwad", "pwu", "pu", "", "pwuadg"]);
        const store = {
          guest: "set_pte",
          vcpu,
          va: hex(va),
          level: 1,
          pa: hex(pa),
          flags,
          count: Math.min(count, 8, leftOf(va, this.memory[slot])),
          root,
        };
        const flush = this.chance(2) ? [{ guest: "invlpg", vcpu, addr: hex(va), count: Math.min(count, 8) }] : [];
        return [store, ...flush];
      }
      case "invlpg":
        return [{ guest: "invlpg", vcpu, addr: hex(va), count: Math.min(count, 8) }];
      case "root":
        return [{ guest: "set_cr3", vcpu, root }];
      case "wp":
        return [{ guest: "set_cr0", vcpu, wp: this.chance(2) }];
      default:
        return [{ guest: "set_cr4", vcpu, ...(this.chance(2) ? { set: "0x80" } : { clear: "0x80" }) }];
    }
  }
}

const PARAMETERS = "/sys/module/kvm/parameters/";
const DEVICE = 0x2000_0000;

const GUEST = ["access", "access", "access", "access", "access", "access", "access", "mmio"];
const HOST = [
  ...["advise", "advise", "advise", "mprotect", "munmap", "touch", "fork", "age", "age"],
  ...["slot", "slot", "dirty", "dirty", "dirty", "recover", "parameter", "prefault"],
];
const SHADOW = ["set-pte", "set-pte", "set-pte", "set-pte", "invlpg", "root", "root", "wp", "global"];

const hex = (value: number): string => `0x${value.toString(16)}`;

/** With nested paging the guest's own tables only stand in the way: all that they map may be written. */
const plain = (map: Json): Json => ({ ...map, flags: "pwuad" });

/** Pages from an address to the end of its memory. */
function leftOf(va: number, place: Place | undefined): number {
  return place === undefined ? 1 : (place.gpa + place.size - va) / PAGE;
}
