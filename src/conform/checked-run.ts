/**
 * Runs a workload on the shadow MMU under oracles that look after every operation, and ends at the first thing that is wrong.
 *
 *     coherence     every access, every translation in the hardware's reach, every changed word (oracle/coherence)
 *     rmap, tables  reverse maps, parents, unsync marks, write protection against the tables
 *     counts        what the MMU counts, counted again
 *     dirty log     what was written is logged until the VMM fetches it
 *     ages          an aging call says what the entries' A bits say, and clears them
 *     progress      a guest that may go on does
 *
 * Runs without a recording, with one thing going on at a time.
 */
import { Violation } from "../engine/index.ts";
import { spteAt } from "../kvm/shadow/rmap.ts";
import type { ShadowMmu } from "../kvm/shadow/shadow-mmu.ts";
import { isAccessedSpte, isLastSpte, isShadowPresentPte } from "../kvm/spte.ts";
import { SPTE_MMU_PRESENT_MASK } from "../kvm/spte-layout.ts";
import type { RunResult } from "../kvm/vcpu.ts";
import { type GuestInstruction, type Hva, hva, PAGE_SIZE } from "../machine/index.ts";
import { CoherenceOracle, checkHardware, type Departures, KVM_DEPARTURES } from "../oracle/coherence/index.ts";
import { rmapsProblem } from "../oracle/rmap.ts";
import { shadowCountsProblem } from "../oracle/shadow-counts.ts";
import { shadowTablesProblem } from "../oracle/shadow-tables.ts";
import { type InspectedMachine, type RunInspector, runWorkload } from "./model.ts";
import type { HostOperation } from "./operation.ts";
import type { OperationResult } from "./run.ts";
import type { Workload } from "./workload.ts";

export interface CheckedRunInput {
  readonly workload: Workload;
  /** `v6.12`, `v7.2`. */
  readonly kernel: string;
  /** The CPUs keep their TLBs until they are flushed: a flush too few shows. */
  readonly keepsTlb: boolean;
  /** Where KVM may depart from the manual; as it is known to, when left out. */
  readonly departures?: Departures;
  /** Modelled memory for the kernel's own structures. */
  readonly kernelBytes?: number;
}

/** What was wrong, and after which operation of the workload. */
export interface CheckedProblem {
  readonly property: string;
  readonly message: string;
  readonly operation: number;
}

export interface CheckedRun {
  readonly problem: CheckedProblem | null;
  /** Accesses and translations that were held against the guest's tables. */
  readonly judged: number;
  /** How the guest's operations ended, and how often. */
  readonly ends: ReadonlyMap<string, number>;
}

/** A guest that faults more often on one instruction gets nowhere. */
const FAULTS_MAX = 40;

/** @throws UsageError for a workload that cannot be run, or that does not run on the shadow MMU */
export function runChecked({ workload, kernel, keepsTlb, kernelBytes, departures }: CheckedRunInput): CheckedRun {
  let inspector: Inspector | null = null;
  let problem: CheckedProblem | null = null;
  try {
    runWorkload({
      workload,
      kernel,
      initial: null,
      recording: null,
      keepsTranslations: keepsTlb,
      ...(kernelBytes === undefined ? {} : { kernelBytes }),
      variants: { faultsMax: FAULTS_MAX },
      inspector: (machine) => {
        inspector = new Inspector(machine, departures ?? KVM_DEPARTURES);
        return inspector;
      },
    });
  } catch (error) {
    if (!(error instanceof Violation)) throw error;
    problem = { property: error.property, message: error.message, operation: (inspector as Inspector | null)?.at ?? 0 };
  }
  const seen = inspector as Inspector | null;
  return { problem, judged: seen?.judged ?? 0, ends: seen?.ends ?? new Map() };
}

class Inspector implements RunInspector {
  /** The operation at hand. */
  at = -1;
  readonly ends = new Map<string, number>();
  private readonly machine: InspectedMachine;
  private readonly oracle: CoherenceOracle;
  private readonly shadow: ShadowMmu | null;
  private hardware = 0;
  /** Entries of an aging call's range that have their A bit before it. */
  private young: readonly number[] = [];

  constructor(machine: InspectedMachine, departures: Departures) {
    this.machine = machine;
    this.oracle = new CoherenceOracle(machine.vm, machine.entries, departures);
    this.shadow = machine.vm.shadow;
  }

  get judged(): number {
    return this.oracle.judged + this.hardware;
  }

  // --- the guest ---------------------------------------------------------------------------------------------------

  guestBegins(vcpu: number, code: readonly GuestInstruction[]): void {
    this.at++;
    this.oracle.cpu(vcpu).begins(code);
  }

  guestEnds(vcpu: number, result: RunResult): void {
    const cpu = this.oracle.cpu(vcpu);
    cpu.ends();
    const end = result === "io" && cpu.vcpu.guest.lastFault !== null ? "guest-fault" : result;
    this.ends.set(end, (this.ends.get(end) ?? 0) + 1);
    if (result === "gave-up" && !cpu.mayLeaveMemory())
      throw new Violation("progress", `vCPU ${vcpu} faults again and again, and gets nowhere`);
    this.checkTables();
  }

  // --- the host ----------------------------------------------------------------------------------------------------

  hostBegins(operation: HostOperation): void {
    this.at++;
    if (operation.host === "age") this.young = this.accessedIn(this.agedRange(operation));
  }

  hostEnds(operation: HostOperation, result: OperationResult): void {
    const { oracle, machine } = this;
    const range = destroys(operation) ? machine.rangeOf(operation) : null;
    if (operation.host === "get_dirty_log" && result["rc"] === 0) {
      const clears = !machine.workload.caps.some(({ cap }) => cap === "manual_dirty_log_protect2");
      oracle.fetchedLog(operation.slot, framesOf(result["dirty"]), clears);
    } else if (operation.host === "clear_dirty_log" && result["rc"] === 0) {
      oracle.forgetWrites(operation.slot, operation.first, operation.pages);
    } else if (/^(?:slot_|dirty_log)/.test(operation.host)) {
      oracle.forgetAllWrites();
    }
    if (operation.host === "slot_create" || operation.host === "slot_move") oracle.slotMade(operation.slot);
    oracle.hostActed((place) => range !== null && place >= range.start && place < range.end);
    if (operation.host === "age") this.checkAge(operation, result);
    this.checkTables();
  }

  /** A test is of one page. */
  private agedRange(operation: HostOperation & { readonly host: "age" }): { readonly start: Hva; readonly end: Hva } {
    const range = this.machine.rangeOf(operation);
    return operation.mode === "test_young" ? { ...range, end: hva(range.start + PAGE_SIZE) } : range;
  }

  private checkAge(operation: HostOperation & { readonly host: "age" }, result: OperationResult): void {
    const says = result["young"] === "1";
    const isYoung = this.young.length > 0;
    if (says !== isYoung)
      throw new Violation("age", `the pages are called ${says ? "young" : "old"}; ${this.young.length} entries have A`);
    if (operation.mode === "test_young") return;
    const left = this.accessedIn(this.machine.rangeOf(operation));
    if (left.length > 0)
      throw new Violation(
        "age",
        `${this.machine.vm.world.nameOf(left[0] as number)} still has A after its page was aged`,
      );
  }

  /** Leaves of the shadow tables that map a page of the range and have A, found without reverse maps. */
  private accessedIn({ start, end }: { readonly start: Hva; readonly end: Hva }): readonly number[] {
    const { shadow, oracle } = this;
    if (shadow === null) return [];
    const { memory } = oracle;
    const { heap } = shadow.world;
    memory.forgetSlots();
    const found: number[] = [];
    for (const table of shadow.pages.liveTables()) {
      const sp = shadow.pages.ofEntry(table);
      const level = sp.role.peek() & 0xf;
      for (let i = 0; i < 512; i++) {
        if ((heap.read(table + 8 * i, 8) & SPTE_MMU_PRESENT_MASK.lo) === 0) continue;
        const spte = spteAt(shadow.world, table + 8 * i).peek();
        if (!isShadowPresentPte(spte) || !isLastSpte(spte, level) || !isAccessedSpte(shadow.layout, spte)) continue;
        const place = memory.placeOf(shadow.pages.gfnOf(sp, i) * PAGE_SIZE);
        const bytes = PAGE_SIZE * 512 ** (level - 1);
        if (place !== null && place < end && place + bytes > start) found.push(table + 8 * i);
      }
    }
    return found;
  }

  // --- everything --------------------------------------------------------------------------------------------------

  private checkTables(): void {
    const { shadow, oracle } = this;
    if (shadow === null) return;
    for (const cpu of oracle.cpus) this.hardware += checkHardware(shadow, oracle.memory, cpu);
    if (shadow.shadowRootAllocated.peek() === 0) return;
    const checks = { rmap: rmapsProblem, "shadow-tables": shadowTablesProblem, "shadow-counts": shadowCountsProblem };
    for (const [property, problemOf] of Object.entries(checks)) {
      const problem = problemOf(shadow);
      if (problem !== null) throw new Violation(property, problem);
    }
  }
}

type InMemory = HostOperation & { readonly mem: number; readonly offset: number; readonly len: number | null };

/** Operations after which a range may have other contents. */
function destroys(operation: HostOperation): operation is InMemory {
  switch (operation.host) {
    case "madvise":
    case "repeat_madvise":
      return /^(?:dontneed|free|remove|dontneed_locked)$/.test(operation.advice);
    case "touch":
      return operation.write;
    case "poke":
    case "poke_ret":
    case "punch":
    case "munmap":
    case "mmap_fixed":
    case "mremap_swap":
      return true;
    default:
      return false;
  }
}

/** Runs of [first, count], as a set. */
function framesOf(runs: OperationResult[string] | undefined): ReadonlySet<number> {
  if (!Array.isArray(runs)) return new Set();
  return new Set(
    (runs as readonly (readonly [number, number])[]).flatMap(([first, count]) =>
      Array.from({ length: count }, (_, i) => first + i),
    ),
  );
}
