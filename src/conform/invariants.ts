/**
 * What must hold in every trace of KVM's MMU, whatever the interleaving: the comparison for cases that race (traces/README.md).
 *
 * Each invariant reads the events in order and says when one breaks it. They see only what the events show, so each states what it
 * cannot see. Sources: reference/tracepoints.md, section 7 ("chain rule") and sections 2 to 4; reference/kvm-mmu.md, sections 3.4 and 5.
 *
 * SPTEs are read as on AMD (mmu-event.ts), as in all recordings.
 */
import { clearU64, hexU64, sameU64, type U64, u64 } from "../engine/index.ts";
import { MemslotHistory } from "./memslot-history.ts";
import * as mmu from "./mmu-event.ts";
import type { EventLine, Stats, WorkloadRun } from "./run.ts";
import type { Workload } from "./workload.ts";

/** An event that broke an invariant. */
export interface Breach {
  readonly invariant: string;
  /** Operation during which it happened; -1 the set-up, the number of operations the teardown. */
  readonly section: number;
  /** Place among the section's lines; their number when its end broke it. */
  readonly index: number;
  /** Null at the end of an operation or of the run. */
  readonly line: EventLine | null;
  readonly detail: string;
}

/** What an invariant may ask about the run. */
interface Scene {
  readonly memslots: MemslotHistory;
  /** Whether the TDP MMU maps the guest's memory, so that every change of an entry is an event. */
  readonly tdpMmu: boolean;
}

/** Reads one run. Each answer is what is wrong, or null. */
interface Watcher {
  see(line: EventLine, section: number): string | null;
  /** After an operation. */
  after?(stats: Stats): string | null;
  /** After the teardown. */
  end?(): string | null;
}

export interface Invariant {
  readonly name: string;
  /** What it says, and what it would mean on real hardware if it were false. */
  readonly prose: string;
  readonly watch: (scene: Scene) => Watcher;
}

const ACCESSED_DIRTY_WRITABLE = u64(0, (1 << 5) | (1 << 6) | (1 << 1));

const gfnText = (gfn: number) => gfn.toString(16);

/** Present entries of the TDP MMU by place, as the events set them. */
class TdpEntries {
  private readonly values = new Map<string, U64[]>();
  private roots = 0;
  /** Places in split tables, whose entries came to be without an event. */
  private readonly split = new Set<string>();

  /** A new root; if nothing of older ones is left, it is the only one. */
  addRoot(): void {
    this.roots = this.values.size === 0 ? 1 : this.roots + 1;
  }

  change(event: mmu.SpteChanged): string | null {
    const place = `${event.asId}:${gfnText(event.gfn)}:${event.level}`;
    const known = this.values.get(place) ?? [];
    const fault = mmu.isPresent(event.oldSpte) ? this.take(event, known) : null;
    if (mmu.isPresent(event.newSpte)) known.push(event.newSpte);
    if (known.length > 0) this.values.set(place, known);
    else this.values.delete(place);
    if (
      mmu.isLeaf(event.oldSpte, event.level) &&
      mmu.isPresent(event.newSpte) &&
      !mmu.isLeaf(event.newSpte, event.level)
    ) {
      this.split.add(`${event.asId}:${gfnText(event.gfn)}:${event.level}`);
    }
    if (fault !== null || known.length <= Math.max(this.roots, 1)) return fault;
    return `a second present value (${hexU64(event.newSpte)}) where ${hexU64(known[0] as U64)} stands`;
  }

  /** Takes the old value out of `known`. A, D and W may have changed without an event: by the hardware, by a fast page fault. */
  private take(event: mmu.SpteChanged, known: U64[]): string | null {
    const plain = (spte: U64) => clearU64(spte, ACCESSED_DIRTY_WRITABLE);
    const at = known.findIndex((value) => sameU64(plain(value), plain(event.oldSpte)));
    if (at >= 0) {
      known.splice(at, 1);
      return null;
    }
    if (this.wasSplit(event)) return null;
    const expected = known.length === 0 ? "nothing present" : known.map(hexU64).join(" or ");
    return `old_spte ${hexU64(event.oldSpte)}, but the events before left ${expected}`;
  }

  private wasSplit(event: mmu.SpteChanged): boolean {
    const pages = 512 ** event.level;
    return this.split.has(`${event.asId}:${gfnText(event.gfn - (event.gfn % pages))}:${event.level + 1}`);
  }

  get left(): readonly string[] {
    return [...this.values.keys()];
  }
}

const spteChain: Invariant = {
  name: "tdp-spte-chain",
  prose:
    "The old value of an entry is the value that the event before it left there, up to A and D (set by the hardware), W (set by a fast page " +
    "fault) and entries born in a split table; and an entry is present at most once per root. Otherwise an SPTE was overwritten behind the " +
    "MMU's back: a lost update, or two tables for one place.",
  watch: () => {
    const entries = new TdpEntries();
    return {
      see: (line) => {
        if (line.event === "kvm_mmu_get_page") {
          const page = mmu.parseShadowPage(line.text);
          // A table of level 4 under a 5-level root counts as a root too, which only weakens the check.
          if (page?.made === true && page.level >= 4) entries.addRoot();
          return null;
        }
        const event = line.event === "kvm_tdp_mmu_spte_changed" ? mmu.parseSpteChanged(line.text) : null;
        return event === null ? null : entries.change(event);
      },
    };
  },
};

const nothingLeft: Invariant = {
  name: "tdp-teardown-complete",
  prose:
    "When the VM is gone, no entry that an event made present is still present: it would map memory that the host has freed.",
  watch: () => {
    const entries = new TdpEntries();
    return {
      see: (line) => {
        const event = line.event === "kvm_tdp_mmu_spte_changed" ? mmu.parseSpteChanged(line.text) : null;
        if (event !== null) entries.change(event);
        return null;
      },
      end: () =>
        entries.left.length === 0 ? null : `${entries.left.length} entries left, the first ${entries.left[0]}`,
    };
  },
};

const leafKeepsFrame: Invariant = {
  name: "present-leaf-keeps-its-frame",
  prose:
    "A present leaf never changes its frame without passing through non-present (KVM BUGs on it): the guest could go on using the old page " +
    "through its TLB, as nothing asks for a flush.",
  watch: () => ({
    see: (line) => {
      const event = line.event === "kvm_tdp_mmu_spte_changed" ? mmu.parseSpteChanged(line.text) : null;
      if (event === null || !mmu.isLeaf(event.oldSpte, event.level) || !mmu.isLeaf(event.newSpte, event.level))
        return null;
      if (mmu.frameOf(event.oldSpte) === mmu.frameOf(event.newSpte)) return null;
      return `${hexU64(event.oldSpte)} became ${hexU64(event.newSpte)}`;
    },
  }),
};

const writableStates: Invariant = {
  name: "writable-implies-permitted",
  prose:
    "In a leaf, W implies MMU-writable and MMU-writable implies host-writable (check_spte_writable_invariants()): otherwise the guest writes " +
    "to a page that the host holds read-only, or to a page table that KVM believes to be write-protected.",
  watch: () => ({
    see: (line) => {
      for (const spte of leavesOf(line)) {
        if (mmu.isWritable(spte) && !mmu.isMmuWritable(spte)) return `${hexU64(spte)} is writable but not MMU-writable`;
        if (mmu.isMmuWritable(spte) && !mmu.isHostWritable(spte))
          return `${hexU64(spte)} is MMU-writable but not host-writable`;
      }
      return null;
    },
  }),
};

/** The leaves that an event names. */
function leavesOf(line: EventLine): readonly U64[] {
  if (line.event === "kvm_tdp_mmu_spte_changed") {
    const event = mmu.parseSpteChanged(line.text);
    return event === null ? [] : [event.oldSpte, event.newSpte].filter((spte) => mmu.isLeaf(spte, event.level));
  }
  const event = line.event === "kvm_mmu_set_spte" ? mmu.parseSetSpte(line.text) : null;
  return event !== null && mmu.isLeaf(event.spte, event.level) ? [event.spte] : [];
}

const leafInsideSlot: Invariant = {
  name: "leaf-inside-a-memslot",
  prose:
    "A leaf is made only for guest frames that one existing memslot holds, all of them: otherwise the guest reaches host memory that " +
    "nobody gave it.",
  watch: ({ memslots }) => ({
    see: (line, section) => {
      const leaf = newLeaf(line);
      if (leaf === null || memslots.holds(section, leaf.gfn, 512 ** (leaf.level - 1))) return null;
      return `gfn ${gfnText(leaf.gfn)} level ${leaf.level} is in no memslot`;
    },
  }),
};

function newLeaf(line: EventLine): { readonly gfn: number; readonly level: number } | null {
  if (line.event === "kvm_tdp_mmu_spte_changed") {
    const event = mmu.parseSpteChanged(line.text);
    return event !== null && mmu.isLeaf(event.newSpte, event.level) ? event : null;
  }
  const event = line.event === "kvm_mmu_set_spte" ? mmu.parseSetSpte(line.text) : null;
  return event !== null && mmu.isLeaf(event.spte, event.level) ? event : null;
}

const mmioOutsideSlots: Invariant = {
  name: "mmio-outside-memslots",
  prose:
    "An MMIO entry is made only for a guest frame that some moment's memslots do not hold: otherwise the guest's memory reads as a device.",
  watch: ({ memslots }) => ({
    see: (line, section) => {
      const m = line.event === "mark_mmio_spte" ? / gfn ([0-9a-f]+) /.exec(line.text) : null;
      const gfn = Number.parseInt(m?.[1] ?? "", 16);
      return m === null || !memslots.alwaysHolds(section, gfn) ? null : `gfn ${gfnText(gfn)} is memory`;
    },
  }),
};

const notAboveRequested: Invariant = {
  name: "mapping-not-larger-than-requested",
  prose:
    "A fault maps at the level that was asked for or below, never above: a larger mapping would reach beyond the host's page, or beyond what " +
    "dirty logging and write tracking allow.",
  watch: () => {
    const requested = new Map<string, number>();
    return {
      see: (line) => {
        if (line.event === "kvm_mmu_spte_requested") {
          requested.set(line.task, mmu.parseSpteRequested(line.text)?.level ?? 5);
          return null;
        }
        const event = line.event === "kvm_mmu_set_spte" ? mmu.parseSetSpte(line.text) : null;
        const level = requested.get(line.task);
        if (event === null || level === undefined || event.level <= level) return null;
        return `mapped at level ${event.level}, requested ${level}`;
      },
    };
  },
};

const frozenIsFinal: Invariant = {
  name: "frozen-entry-is-final",
  prose:
    "A frozen entry belongs to an unlinked table and never changes again: a change would be lost with the table, or link into freed memory.",
  watch: () => ({
    see: (line) => {
      const event = line.event === "kvm_tdp_mmu_spte_changed" ? mmu.parseSpteChanged(line.text) : null;
      return event !== null && mmu.isFrozen(event.oldSpte) ? `old_spte ${hexU64(event.oldSpte)} is frozen` : null;
    },
  }),
};

const zappedWasMade: Invariant = {
  name: "zapped-page-was-made",
  prose:
    "A page is torn down once for each time that it was made (an already invalid one may be torn down again): otherwise it is freed twice.",
  watch: () => {
    const alive = new Map<string, number>();
    return {
      see: (line) => {
        const isMade = line.event === "kvm_mmu_get_page";
        if (!isMade && line.event !== "kvm_mmu_prepare_zap_page") return null;
        const page = mmu.parseShadowPage(line.text);
        if (page === null || page.invalid || (isMade && !page.made)) return null;
        const count = (alive.get(page.key) ?? 0) + (isMade ? 1 : -1);
        alive.set(page.key, Math.max(count, 0));
        return count < 0 ? "no such page is alive" : null;
      },
    };
  },
};

const syncAfterUnsync: Invariant = {
  name: "sync-after-unsync",
  prose:
    "Only a page that was made unsync becomes sync: otherwise KVM has lost track of which shadow pages differ from the guest's tables.",
  watch: () => {
    const unsync = new Map<string, number>();
    return {
      see: (line) => {
        const step = line.event === "kvm_mmu_unsync_page" ? 1 : line.event === "kvm_mmu_sync_page" ? -1 : 0;
        const page = step === 0 ? null : mmu.parseShadowPage(line.text);
        if (page === null) return null;
        const count = (unsync.get(page.key) ?? 0) + step;
        unsync.set(page.key, Math.max(count, 0));
        return count < 0 ? "the page was sync" : null;
      },
    };
  },
};

const fastFaultPermitted: Invariant = {
  name: "fast-page-fault-needs-mmu-writable",
  prose:
    "A fast page fault makes an entry writable only where MMU-writable says that it may, without mmu_lock: otherwise it undoes the write " +
    "protection of a page table.",
  watch: () => ({
    see: (line) => {
      const event = line.event === "fast_page_fault" ? mmu.parseFastPageFault(line.text) : null;
      if (event === null || !event.fixed || !mmu.isWritable(event.newSpte) || mmu.isWritable(event.oldSpte))
        return null;
      return mmu.isMmuWritable(event.oldSpte) ? null : `${hexU64(event.oldSpte)} was made writable`;
    },
  }),
};

const pageStatistics: Invariant = {
  name: "page-statistics-count-leaves",
  prose:
    "With the TDP MMU, pages_4k, pages_2m and pages_1g are the numbers of present leaves that the events leave: otherwise an entry was " +
    "changed without its bookkeeping, or counted twice.",
  watch: ({ tdpMmu }) => {
    const leaves = [0, 0, 0, 0, 0, 0];
    const add = (level: number, count: number) => {
      leaves[level] = (leaves[level] ?? 0) + count;
    };
    return {
      see: (line) => {
        const event = line.event === "kvm_tdp_mmu_spte_changed" ? mmu.parseSpteChanged(line.text) : null;
        if (event === null) return null;
        const wasLeaf = mmu.isLeaf(event.oldSpte, event.level);
        const isLeaf = mmu.isLeaf(event.newSpte, event.level);
        add(event.level, (isLeaf ? 1 : 0) - (wasLeaf ? 1 : 0));
        // A split: the table's entries came to be without events.
        if (wasLeaf && !isLeaf && mmu.isPresent(event.newSpte)) add(event.level - 1, 512);
        return null;
      },
      after: ({ vm }) => {
        const names = tdpMmu ? ["pages_4k", "pages_2m", "pages_1g"] : [];
        const at = names.findIndex((name, index) => vm[name] !== undefined && vm[name] !== leaves[index + 1]);
        return at < 0 ? null : `${names[at]} is ${vm[names[at] as string]}, the events leave ${leaves[at + 1]}`;
      },
    };
  },
};

/** Statistics of a vcpu, each with the events that it counts. */
const COUNTED: Readonly<Record<string, (line: EventLine) => number>> = {
  pf_taken: (line) => (line.event === "kvm_page_fault" ? 1 : line.event === "handle_mmio_page_fault" ? -1 : 0),
  pf_fast: (line) => (line.event === "fast_page_fault" && /(?:spurious|fixed) 1\b/.test(line.text) ? 1 : 0),
  pf_mmio_spte_created: (line) => (line.event === "mark_mmio_spte" ? 1 : 0),
  insn_emulation: (line) => (line.event === "kvm_emulate_insn" && !/ failed\s*$/.test(line.text) ? 1 : 0),
};

const vcpuStatistics: Invariant = {
  name: "vcpu-statistics-count-events",
  prose:
    "pf_taken, pf_fast, pf_mmio_spte_created and insn_emulation of each vcpu are the numbers of their events in its thread (a fault that an " +
    "MMIO entry answers is not taken): otherwise a fault went another way than the trace shows.",
  watch: () => {
    const counts = new Map<string, number>();
    return {
      see: (line) => {
        for (const [name, count] of Object.entries(COUNTED)) {
          const key = `${line.task} ${name}`;
          counts.set(key, (counts.get(key) ?? 0) + count(line));
        }
        return null;
      },
      after: ({ vcpu }) => {
        for (const [number, values] of vcpu.entries()) {
          for (const name of Object.keys(COUNTED)) {
            const count = counts.get(`vcpu${number} ${name}`) ?? 0;
            if (values[name] !== undefined && values[name] !== count) {
              return `${name} of vcpu ${number} is ${values[name]}, the events are ${count}`;
            }
          }
        }
        return null;
      },
    };
  },
};

export const INVARIANTS: readonly Invariant[] = [
  spteChain,
  nothingLeft,
  leafKeepsFrame,
  writableStates,
  leafInsideSlot,
  mmioOutsideSlots,
  notAboveRequested,
  frozenIsFinal,
  zappedWasMade,
  syncAfterUnsync,
  fastFaultPermitted,
  pageStatistics,
  vcpuStatistics,
];

/** Checks invariants over a whole run. Breaches are in order of section, then of line. */
export function breachesOf(
  run: WorkloadRun,
  workload: Workload,
  invariants: readonly Invariant[] = INVARIANTS,
): readonly Breach[] {
  const { npt, tdpMmu } = workload.kernelParams;
  const scene = { memslots: new MemslotHistory(workload), tdpMmu: npt && tdpMmu };
  const watchers = invariants.map(({ name, watch }) => ({ name, watcher: watch(scene) }));
  const breaches: Breach[] = [];
  const report = (
    section: number,
    index: number,
    line: EventLine | null,
    ask: (watcher: Watcher) => string | null | undefined,
  ) => {
    for (const { name, watcher } of watchers) {
      const detail = ask(watcher) ?? null;
      if (detail !== null) breaches.push({ invariant: name, section, index, line, detail });
    }
  };
  const read = (lines: readonly EventLine[], section: number) => {
    lines.forEach((line, index) => {
      if (mmu.kindOf(line.event, line.text) === "tracepoint")
        report(section, index, line, (watcher) => watcher.see(line, section));
    });
  };
  read(run.setup, -1);
  run.operations.forEach(({ events, stats }, section) => {
    read(events, section);
    report(section, events.length, null, (watcher) => watcher.after?.(stats));
  });
  read(run.teardown, run.operations.length);
  report(run.operations.length, run.teardown.length, null, (watcher) => watcher.end?.());
  return breaches;
}
