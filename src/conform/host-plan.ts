/**
 * What the host decided while a case was recorded, as input for a model.
 *
 * Which host page backs a guest page, how large its mapping is, whether it is writable, and which notifier calls the host's mm makes: none of
 * that is KVM's decision, so none of it is the model's to get right. The trace shows it (traces/README.md, "How to compare"):
 *
 *     kvm_page_fault vcpu 0 ... address 600000 error_code 100000007       the fault
 *       mn_inv_start start=7f6d9f400000 end=7f6d9f600000 event=1          the host replaces the page, in the faulting thread
 *       mn_inv_end   start=7f6d9f400000 end=7f6d9f600000
 *       [no kvm_mmu_spte_requested: KVM saw that, gives up, the guest faults again]
 *     kvm_page_fault vcpu 0 ... address 600000 error_code 100000006
 *       kvm_mmu_spte_requested gfn 600 pfn 6d4c level 1                   the answer
 *
 * A model asks {@link HostPlan.decide} at each fault, and replays {@link HostPlan.calls} for what other threads did. It may take frame numbers from
 * here or make its own, as long as equal stays equal: the comparison renames them.
 */
import type { U64 } from "../engine/index.ts";
import type { TraceLine } from "./ftrace.ts";
import { type HostLayout, type Piece, piecesOf } from "./host-layout.ts";
import * as mmu from "./mmu-event.ts";
import type { KernelRecording } from "./recording.ts";
import type { Workload } from "./workload.ts";

/** A call of one of KVM's notifier callbacks. */
export interface NotifierCall {
  readonly kind: "invalidate-start" | "invalidate-end" | "clear-flush-young" | "clear-young" | "test-young" | "release";
  /** enum mmu_notifier_event of an invalidation's start: 0 unmap, 1 clear, 2 protection of a VMA, 3 protection of a page. */
  readonly event: number | null;
  /** Host addresses as recorded, `end` exclusive; 0 and 0 for release. */
  readonly start: number;
  readonly end: number;
  /** The parts of the workload's memory that it touches; none: it is about the VMM's own memory. */
  readonly pieces: readonly Piece[];
  readonly task: string;
  /** Order among all events of the trace. */
  readonly counter: number;
}

/** What the host gave for a fault. */
export interface Backing {
  readonly gfn: number;
  /** Frame of exactly that gfn; null: no memslot there. */
  readonly pfn: number | null;
  /** Level that KVM went for, after the host's mapping level and KVM's own limits. */
  readonly level: number;
  /** Whether the host's mapping was writable, from the entry that was made; null when none was. */
  readonly hostWritable: boolean | null;
}

export interface FaultDecision {
  readonly operation: number;
  readonly task: string;
  /** Null when no vcpu faulted: KVM_PRE_FAULT_MEMORY. */
  readonly vcpu: number | null;
  /** How many faults the vcpu took in this operation before. */
  readonly taken: number;
  readonly rip: number | null;
  /** Guest-physical with NPT, guest-virtual with shadow paging. */
  readonly address: number;
  readonly errorCode: U64 | null;
  /** The faulting guest frame; null with shadow paging when the fault was not resolved. */
  readonly gfn: number | null;
  /** Notifier calls in the faulting thread before the page was there. */
  readonly before: readonly NotifierCall[];
  /** Null: not resolved (a retry, a guest page fault, an emulation, a fast page fault). */
  readonly requested: Backing | null;
  /** Neighbours that were mapped in passing (shadow paging), in order. */
  readonly prefetched: readonly Backing[];
  /** Notifier calls in the faulting thread after, up to its next fault or exit. */
  readonly after: readonly NotifierCall[];
  readonly counter: number;
}

/** A step of what the host did, in the order of the trace. */
export type PlanStep =
  | { readonly kind: "fault"; readonly fault: FaultDecision }
  | { readonly kind: "notifier"; readonly call: NotifierCall };

/** A guest frame, aligned to `level`, that the host backs with a page of that level. */
export interface HugePage {
  readonly gfn: number;
  readonly level: number;
  /** Its first frame, from the entries of the table that went away or from the huge entry that took its place; null: neither says. */
  readonly pfn: number | null;
}

/** Consecutive frames, aligned to their number. */
export interface FrameBlock {
  readonly first: number;
  readonly count: number;
}

/** A question at a fault. */
export interface FaultQuery {
  readonly operation: number;
  readonly vcpu: number;
  readonly gfn: number;
  /** How many faults the vcpu took in this operation already. */
  readonly taken: number;
}

/** A frame that backs a guest frame from some moment on. */
export interface FrameQuery {
  /** The moment: order among all events of the trace. */
  readonly counter: number;
  readonly gfn: number;
  readonly pfn: number;
  readonly hva: number;
}

const PAGE = 4096;
const PFERR_FETCH = 16;

export class HostPlan {
  readonly layout: HostLayout;
  /** Notifier calls of the set-up and of the teardown that touch memory. */
  readonly setup: readonly NotifierCall[];
  readonly teardown: readonly NotifierCall[];
  /** Blocks of consecutive frames that a huge page was seen in, without overlaps, in order. */
  readonly blocks: readonly FrameBlock[];
  private readonly memory: Workload["memory"];
  private readonly operations: readonly (readonly PlanStep[])[];
  private readonly huge: readonly (readonly HugePage[])[];
  private readonly rounds: readonly number[];

  constructor(recording: KernelRecording, workload: Workload) {
    this.layout = recording.layout;
    const isNpt = workload.kernelParams.npt;
    this.memory = workload.memory;
    this.operations = recording.operations.map((operation) => {
      return stepsOf([...operation.lines, ...operation.after], operation.index, this.layout, isNpt);
    });
    this.huge = recording.operations.map((operation) => hugePagesIn([...operation.lines, ...operation.after]));
    this.rounds = recording.operations.map((operation) => recoveryRoundsIn([...operation.lines, ...operation.after]));
    this.blocks = this.frameBlocks();
    const callsIn = (lines: readonly TraceLine[]) =>
      lines.map((line) => notifierCall(line, this.layout)).filter((call) => call !== null);
    this.setup = callsIn(recording.setup);
    this.teardown = callsIn(recording.teardown);
  }

  /** Everything the host did in an operation, in order. */
  steps(operation: number): readonly PlanStep[] {
    return this.operations[operation] ?? [];
  }

  /** The faults of a vcpu in an operation; without a vcpu, the pages of KVM_PRE_FAULT_MEMORY. */
  faults(operation: number, vcpu: number | null): readonly FaultDecision[] {
    return this.steps(operation).flatMap((step) =>
      step.kind === "fault" && step.fault.vcpu === vcpu ? [step.fault] : [],
    );
  }

  /** Notifier calls of an operation outside of faults; of one thread, or of all. */
  calls(operation: number, task?: string): readonly NotifierCall[] {
    return this.steps(operation).flatMap((step) =>
      step.kind === "notifier" && (task === undefined || step.call.task === task) ? [step.call] : [],
    );
  }

  /**
   * What happened at a fault. The fault of the same number is meant, if it was on this frame; a model that has taken a fault more or less
   * gets the next one on the frame, then any on the frame in this operation.
   *
   * @returns null when the recording has no such fault; {@link backing} may still know the page
   */
  decide({ operation, vcpu, gfn, taken }: FaultQuery): FaultDecision | null {
    const own = this.faults(operation, vcpu);
    const exact = own[taken];
    if (exact !== undefined && (exact.gfn === null || exact.gfn === gfn)) return exact;
    const isHere = (fault: FaultDecision) => fault.gfn === gfn;
    const others = this.steps(operation).flatMap((step) => (step.kind === "fault" ? [step.fault] : []));
    return own.slice(taken).find(isHere) ?? own.find(isHere) ?? others.find(isHere) ?? null;
  }

  /** What last backed a guest frame up to an operation, or first did after it; null when no event ever says. */
  backing({ operation, gfn }: { readonly operation: number; readonly gfn: number }): Backing | null {
    return this.backingOfPage({ operation, gfns: [gfn], since: -1 });
  }

  /**
   * The same for a host page, by the guest frames that show it.
   * @param since what backed it up to this operation is gone
   */
  backingOfPage(query: {
    readonly operation: number;
    readonly gfns: readonly number[];
    readonly since: number;
  }): Backing | null {
    const { operation, gfns, since } = query;
    const named = (found: Backing): Backing => shifted(found, gfns.find((gfn) => covers(found, gfn)) as number);
    const isHere = (each: Backing): boolean => gfns.some((gfn) => covers(each, gfn));
    for (let at = operation; at > since; at--) {
      const found = this.backings(at).findLast(isHere);
      if (found !== undefined) return named(found);
    }
    for (let at = operation + 1; at < this.operations.length; at++) {
      const found = this.backings(at).find(isHere);
      if (found !== undefined) return named(found);
    }
    return null;
  }

  /**
   * Huge host pages that came to light without a fault: KVM looked at the host's mapping when dirty logging went off, and replaced (7.2) or
   * dropped (6.12) the table of small entries. Only the TDP MMU's are events.
   */
  hugePages(operation: number): readonly HugePage[] {
    return this.huge[operation] ?? [];
  }

  /**
   * Level of the host page around a frame, when the request at hand says less than the host has: KVM asks for 4K to execute where huge pages are
   * not executable. The next request that maps the same frame for another purpose tells, if nothing was invalidated in between; if there is
   * none, memory that asks for huge pages is taken to have them.
   */
  hostLevel({ counter, gfn, pfn, hva }: FrameQuery): number {
    const lines = this.operations.flat();
    const isChange = ({ kind, start, end, counter: at }: NotifierCall) =>
      kind === "invalidate-start" && at > counter && start <= hva && hva < end;
    const calls = lines.flatMap((step) =>
      step.kind === "notifier" ? [step.call] : [...step.fault.before, ...step.fault.after],
    );
    const until = Math.min(...calls.filter(isChange).map((call) => call.counter), Number.POSITIVE_INFINITY);
    for (const step of lines) {
      if (step.kind !== "fault" || step.fault.counter <= counter || step.fault.counter >= until) continue;
      const { requested, errorCode } = step.fault;
      const isFetch = errorCode !== null && (errorCode.lo & PFERR_FETCH) !== 0;
      if (requested?.pfn == null || isFetch || !covers(requested, gfn)) continue;
      if (requested.pfn - requested.gfn === pfn - gfn) return requested.level;
    }
    const place = this.layout.places.find((each) => hva >= each.hva && hva < each.hva + each.size);
    const backing = this.memory.find((each) => each.slot === place?.memory)?.backing ?? null;
    return backing === "hugetlb1g" ? 3 : backing === "thp" || backing === "hugetlb2m" ? 2 : 1;
  }

  /** Rounds that the thread which recovers NX huge pages made during an operation, as far as they changed anything. */
  recoveries(operation: number): number {
    return this.rounds[operation] ?? 0;
  }

  private frameBlocks(): readonly FrameBlock[] {
    const found = new Map<number, FrameBlock>();
    for (const { pfn, level } of this.huge.flat()) {
      if (pfn !== null) found.set(pfn, { first: pfn, count: pagesOf(level) });
    }
    for (let at = 0; at < this.operations.length; at++) {
      for (const { pfn, level } of this.backings(at)) {
        if (pfn === null || level === 1) continue;
        const first = pfn - (pfn % pagesOf(level));
        found.set(first, { first, count: Math.max(pagesOf(level), found.get(first)?.count ?? 0) });
      }
    }
    const all = [...found.values()].sort((a, b) => a.first - b.first || b.count - a.count);
    const isInside = (block: FrameBlock) => (other: FrameBlock) =>
      other !== block && block.first >= other.first && block.first + block.count <= other.first + other.count;
    return all.filter((block) => !all.some(isInside(block)));
  }

  private backings(operation: number): readonly Backing[] {
    return this.steps(operation).flatMap((step) => {
      if (step.kind !== "fault") return [];
      return [...(step.fault.requested === null ? [] : [step.fault.requested]), ...step.fault.prefetched];
    });
  }
}

const pagesOf = (level: number) => 512 ** (level - 1);

function covers(backing: Backing, gfn: number): boolean {
  const base = backing.gfn - (backing.gfn % pagesOf(backing.level));
  return gfn >= base && gfn < base + pagesOf(backing.level);
}

/** The same backing for another frame of its block. */
function shifted(backing: Backing, gfn: number): Backing {
  return { ...backing, gfn, pfn: backing.pfn === null ? null : backing.pfn + gfn - backing.gfn };
}

const CALLS: Readonly<Record<string, NotifierCall["kind"]>> = {
  mn_inv_start: "invalidate-start",
  mn_inv_end: "invalidate-end",
  mn_clear_flush_young: "clear-flush-young",
  mn_clear_young: "clear-young",
  mn_test_young: "test-young",
  mn_release: "release",
};

/** Reads a probe on a notifier callback; null for any other line. */
function notifierCall(line: TraceLine, layout: HostLayout): NotifierCall | null {
  const kind = CALLS[line.event];
  if (kind === undefined) return null;
  const field = (name: string) => new RegExp(`\\b${name}=(0x[0-9a-f]+|\\d+)`).exec(line.text)?.[1];
  const start = Number(field("start") ?? field("addr") ?? 0);
  const end = Number(field("end") ?? (kind === "test-young" ? start + 1 : 0));
  const event = field("event");
  return {
    kind,
    event: event === undefined ? null : Number(event),
    start,
    end,
    pieces: piecesOf(layout, start, end),
    task: line.task,
    counter: line.counter,
  };
}

type Writable<T> = { -readonly [K in keyof T]: T[K] extends readonly (infer Item)[] ? Item[] : T[K] };

/** A fault whose outcome is being read. */
type OpenFault = Writable<FaultDecision>;

/** Reads one operation. Each thread has at most one fault in progress. */
function stepsOf(
  lines: readonly TraceLine[],
  operation: number,
  layout: HostLayout,
  isNpt: boolean,
): readonly PlanStep[] {
  const steps: PlanStep[] = [];
  const open = new Map<string, OpenFault>();
  const taken = new Map<number, number>();
  const start = (line: TraceLine, fault: mmu.PageFault | null, gfn: number | null): OpenFault => {
    const vcpu = fault?.vcpu ?? null;
    const count = vcpu === null ? 0 : (taken.get(vcpu) ?? 0);
    if (vcpu !== null) taken.set(vcpu, count + 1);
    const decision: OpenFault = {
      operation,
      task: line.task,
      vcpu,
      taken: count,
      gfn,
      counter: line.counter,
      rip: fault?.rip ?? null,
      address: fault?.address ?? (gfn ?? 0) * PAGE,
      errorCode: fault?.errorCode ?? null,
      before: [],
      requested: null,
      prefetched: [],
      after: [],
    };
    steps.push({ kind: "fault", fault: decision });
    open.set(line.task, decision);
    return decision;
  };
  for (const line of lines) {
    const current = open.get(line.task);
    const call = notifierCall(line, layout);
    if (call !== null) {
      if (current === undefined) steps.push({ kind: "notifier", call });
      else (current.requested === null ? current.before : current.after).push(call);
    } else if (line.event === "kvm_page_fault") {
      const fault = mmu.parsePageFault(line.text);
      if (fault !== null) start(line, fault, isNpt ? Math.floor(fault.address / PAGE) : null);
    } else if (line.event === "kvm_userspace_exit" || line.event === "kvm_entry") open.delete(line.task);
    else if (line.event === "kvm_mmu_spte_requested") {
      const requested = mmu.parseSpteRequested(line.text);
      if (requested === null) continue;
      const fault = current?.requested === null ? current : start(line, null, requested.gfn);
      fault.gfn = requested.gfn;
      fault.requested = { ...requested, hostWritable: null };
    } else if (current !== undefined) noteEntry(line, current);
  }
  return steps;
}

/** Tables that are recovered after one of the functions that do so has been entered, up to the thread's next step of another kind. */
function hugePagesIn(lines: readonly TraceLine[]): readonly HugePage[] {
  const recovering = new Set<string>();
  const found: HugePage[] = [];
  const leaves: mmu.SpteChanged[] = [];
  for (const line of lines) {
    if (line.event === "zap_collapsible" || line.event === "recover_huge") recovering.add(line.task);
    else if (line.event === "kvm_tdp_mmu_spte_changed") {
      const event = recovering.has(line.task) ? mmu.parseSpteChanged(line.text) : null;
      if (event === null || !mmu.isPresent(event.oldSpte)) continue;
      if (mmu.isLeaf(event.oldSpte, event.level)) leaves.push(event);
      // A frozen entry is one of a table that went away with a larger one.
      else if (!mmu.isFrozen(event.newSpte)) {
        const pfn = mmu.isPresent(event.newSpte) ? mmu.frameOf(event.newSpte) : null;
        found.push({ gfn: event.gfn, level: event.level, pfn });
      }
    } else if (!/^(?:kvm_mmu_|flush_|tdp_sp_rcu_free$)/.test(line.event)) recovering.delete(line.task);
  }
  return found.map((page) => ({ ...page, pfn: page.pfn ?? firstFrame(page, leaves) }));
}

/** The first frame of a huge page, by an entry for a part of it. */
function firstFrame({ gfn, level }: HugePage, leaves: readonly mmu.SpteChanged[]): number | null {
  const leaf = leaves.find((event) => event.gfn >= gfn && event.gfn < gfn + pagesOf(level));
  return leaf === undefined ? null : mmu.frameOf(leaf.oldSpte) - (leaf.gfn - gfn);
}

/** Each round that has zapped anything ends with a flush. */
function recoveryRoundsIn(lines: readonly TraceLine[]): number {
  const own = lines.filter((line) => line.task.startsWith("kvm-nx"));
  const flushes = own.filter((line) => line.event === "flush_remote_tlbs").length;
  return Math.max(flushes, own.some((line) => line.event === "kvm_tdp_mmu_spte_changed") ? 1 : 0);
}

/** An entry made while a fault is in progress tells whether the host's mapping was writable, or is a neighbour mapped in passing. */
function noteEntry(line: TraceLine, fault: OpenFault): void {
  const changed = line.event === "kvm_tdp_mmu_spte_changed" ? mmu.parseSpteChanged(line.text) : null;
  const set = line.event === "kvm_mmu_set_spte" ? mmu.parseSetSpte(line.text) : null;
  const entry = changed === null ? set : { gfn: changed.gfn, level: changed.level, spte: changed.newSpte };
  const { requested } = fault;
  if (entry === null || requested === null || !mmu.isLeaf(entry.spte, entry.level)) return;
  const hostWritable = mmu.isHostWritable(entry.spte);
  const base = requested.gfn - (requested.gfn % pagesOf(entry.level));
  if (entry.gfn === base) {
    if (requested.hostWritable === null) fault.requested = { ...requested, hostWritable };
  } else if (set !== null) {
    fault.prefetched.push({ gfn: set.gfn, pfn: mmu.frameOf(set.spte), level: set.level, hostWritable });
  }
}
