/**
 * What a VM with the TDP MMU must be like between two operations: the plain reference, a map from guest frame to what should be there.
 *
 *     memory       the word of every page (host-reference.ts), which guests and the VMM must read
 *     memslots     where they lie, what they log (slots-reference.ts)
 *     mapped       frames that a guest has used since the host, or a slot update, last took them away: an entry must be there
 *     used         frames that a guest has used since they were aged last: certainly, or possibly (by an entry that maps others, too)
 *
 * It follows the operations and the host's notifier calls, and knows nothing of tables, roots, levels and locks. What it then says of KVM's state is
 * compared in machine-check.ts.
 */
import type { InspectedMachine } from "../../src/conform/model.ts";
import { type GuestOperation, type HostOperation, membersOf } from "../../src/conform/operation.ts";
import type { OperationResult, OperationRun } from "../../src/conform/run.ts";
import type { Workload } from "../../src/conform/workload.ts";
import { bigOf, HostReference } from "./host-reference.ts";
import { SlotsReference } from "./slots-reference.ts";

const PAGE = 4096;
/** Entries of the largest kind that is there map so many pages. */
const REGION = 512;
const GIGANTIC_REGION = 512 * 512;
/** What the VMM answers to a read of MMIO. */
const MMIO_WORD = 0x5a5a5a5a5a5a5a5an;
const ALL_ONES = 2n ** 64n - 1n;

/** What is asked of the reference besides the workload. */
export interface ReferenceOptions {
  readonly kernel: string;
  /** Translations outlive a stay in the guest, so an access may leave no mark in an entry. */
  readonly keepsTranslations: boolean;
}

/** How an access ends: an operation goes on after it or not. */
type Ended = "done" | "run_errno_14" | "done or run_errno_14" | "gave-up";

export class TdpReference {
  readonly host: HostReference;
  readonly slots: SlotsReference;
  readonly workload: Workload;
  /** Frames that must be mapped; those of the last operation that were written must be writable. */
  readonly mapped = new Set<number>();
  readonly justWritten = new Set<number>();
  /** The last operation was a reset of the dirty rings. */
  ringsJustReset = false;
  /** Processes that were forked and still hold pages. */
  children = 0;
  private readonly options: ReferenceOptions;
  private readonly certainlyYoung = new Set<number>();
  private readonly possiblyYoung = new Set<number>();
  /** Frames that were asked for where no memslot was: an MMIO entry may stand there still. */
  private readonly askedInVain = new Set<number>();
  /** Ranges of host addresses that the host has announced to change, in this operation. */
  private readonly invalidated: { readonly start: number; readonly end: number }[] = [];
  private readonly natural: 4 | 8;

  constructor(workload: Workload, options: ReferenceOptions) {
    this.workload = workload;
    this.options = options;
    this.host = new HostReference(workload);
    this.slots = new SlotsReference(workload);
    const { mode } = workload.guestPaging;
    this.natural = mode === "4level" || mode === "5level" ? 8 : 4;
  }

  /** Hears the host's notifier calls from here on, as KVM does. */
  listen({ vm }: InspectedMachine): void {
    const { invalidated } = this;
    vm.kvm.mm.notifiers.push({
      *invalidateRangeStart(range) {
        invalidated.push(range);
      },
      *invalidateRangeEnd() {},
      *clearFlushYoung() {
        return false;
      },
      *clearYoung() {
        return false;
      },
      *testYoung() {
        return false;
      },
    });
  }

  /** Carries an operation out; what is wrong with its results, or null. */
  apply(machine: InspectedMachine, at: number, { results }: OperationRun): string | null {
    const operation = this.workload.ops[at];
    if (operation === undefined) return null;
    this.justWritten.clear();
    this.ringsJustReset = operation.kind === "host" && operation.host === "ring_collect";
    const gone = this.goneFrames(machine);
    let problem: string | null = null;
    for (const [nth, member] of membersOf(operation).entries()) {
      const result = results?.[nth] ?? {};
      if (member.kind === "guest") this.drop(gone);
      problem ??=
        member.kind === "guest" ? this.guest(member, result, gone) : this.hostOperation(machine, member, result);
    }
    this.drop(gone);
    return problem;
  }

  /** Frames of all ranges that were announced since the last operation. */
  private goneFrames(machine: InspectedMachine): Set<number> {
    const gone = new Set<number>();
    for (const { start, end } of this.invalidated.splice(0)) {
      for (const { gfn, slot } of this.framesOf(machine, start, end)) {
        // An entry that maps others, too, goes as a whole.
        const region = this.regionOf(slot);
        const first = gfn - (gfn % region);
        for (let i = 0; i < region && !gone.has(first + i); i++) gone.add(first + i);
      }
    }
    return gone;
  }

  private *framesOf(machine: InspectedMachine, start: number, end: number): Generator<{ gfn: number; slot: number }> {
    for (const slot of this.slots.slots.values()) {
      const base = machine.hvaOf(slot.id);
      const first = Math.max(0, Math.floor((start - base) / PAGE));
      const last = Math.min(slot.pages, Math.ceil((end - base) / PAGE));
      for (let i = first; i < last; i++) yield { gfn: slot.gpa / PAGE + i, slot: slot.id };
    }
  }

  private drop(gone: Iterable<number>): void {
    for (const gfn of gone) {
      this.mapped.delete(gfn);
      this.certainlyYoung.delete(gfn);
    }
  }

  private forgetAll(): void {
    this.mapped.clear();
    this.certainlyYoung.clear();
  }

  // --- the guest ---------------------------------------------------------------------------------------------------

  private guest(operation: GuestOperation, result: OperationResult, gone: ReadonlySet<number>): string | null {
    if (!("stride" in operation) || operation.guest === "invlpg") return null;
    const { end } = result;
    if (end === "exit_31") {
      // The ring is full: so far and no further, and nobody says how far.
      for (const gpa of addresses(operation)) this.maybeAccessed(gpa);
      return null;
    }
    let last: bigint | null = null;
    let value = operation.guest === "write" ? bigOf(operation.value) : 0n;
    const step = operation.guest === "write" ? bigOf(operation.value_step) : 0n;
    for (const gpa of addresses(operation)) {
      const { ended, read } = this.access(operation, gpa, value);
      if (ended === "run_errno_14") this.noteRefused(gpa);
      // Where an MMIO entry stands, EPT does not say what the access was, and KVM takes it for a read, which the VMM's memory may not allow.
      if (ended === "done or run_errno_14" && end === "run_errno_14") return null;
      if (ended !== "done" && ended !== "done or run_errno_14")
        return end === ended ? null : `0x${gpa.toString(16)} ends ${String(end)}, not ${ended}`;
      this.noteAccess(gpa, operation.guest, gone);
      last = read;
      value = (value + step) & ALL_ONES;
    }
    if (end !== "done") return `ends ${String(end)}, not done`;
    if (operation.guest === "read" && last !== null && BigInt(String(result["rax"])) !== last) {
      return `the guest reads ${String(result["rax"])}, not 0x${last.toString(16)}`;
    }
    return null;
  }

  /** One access, as memory without any paging would have it. */
  private access({ guest }: GuestOperation, gpa: number, value: bigint): { ended: Ended; read: bigint | null } {
    const found = this.slots.at(gpa);
    const mask = this.natural === 8 ? ALL_ONES : 0xffffffffn;
    if (found === null) {
      this.askedInVain.add(Math.floor(gpa / PAGE));
      return { ended: guest === "exec" ? "gave-up" : "done", read: MMIO_WORD & mask };
    }
    const { slot, index } = found;
    const page = this.host.pageAt(slot.id, index);
    const isWrite = guest === "write" || guest === "rmw";
    // The VMM is told of it, and the memory stays as it is.
    if (isWrite && slot.readonly) return { ended: page?.readable ? "done" : "done or run_errno_14", read: null };
    if (page === null || !(isWrite ? page.writable : page.readable)) return { ended: "run_errno_14", read: null };
    const old = page.word.value;
    if (guest === "rmw" && old !== null) page.word.value = (old & ~mask) | ((old + 1n) & mask);
    if (guest === "write" && (old !== null || mask === ALL_ONES)) {
      page.word.value = ((old ?? 0n) & ~mask) | (value & mask);
    }
    return { ended: "done", read: old === null ? null : old & mask };
  }

  /** @param gone frames that were taken away in this very operation: before the access or after it */
  private noteAccess(gpa: number, guest: string, gone: ReadonlySet<number>): void {
    const found = this.slots.at(gpa);
    if (found === null) return;
    const { slot, index } = found;
    const gfn = Math.floor(gpa / PAGE);
    const isWrite = guest === "write" || guest === "rmw";
    this.maybeUsed(gfn, slot.id);
    if (slot.dirtyLog) slot.used.add(index);
    if (isWrite && slot.readonly) return;
    if (slot.dirtyLog && isWrite) slot.written.add(index);
    if (gone.has(gfn)) return;
    this.mapped.add(gfn);
    if (this.options.keepsTranslations) return;
    if (isWrite) this.justWritten.add(gfn);
    this.certainlyYoung.add(gfn);
  }

  /** The VMM may not do it; but where an MMIO entry stood, the access was first taken for a read, which maps the page and marks it used. */
  private noteRefused(gpa: number): void {
    const found = this.slots.at(gpa);
    const gfn = Math.floor(gpa / PAGE);
    if (found === null || !this.askedInVain.has(gfn) || !this.host.pageAt(found.slot.id, found.index)?.readable) return;
    if (found.slot.dirtyLog) found.slot.used.add(found.index);
    this.maybeUsed(gfn, found.slot.id);
  }

  private maybeAccessed(gpa: number): void {
    const found = this.slots.at(gpa);
    if (found === null) return;
    const page = this.host.pageAt(found.slot.id, found.index);
    if (page !== null) page.word.value = null;
    if (found.slot.dirtyLog) found.slot.used.add(found.index);
    this.maybeUsed(Math.floor(gpa / PAGE), found.slot.id);
  }

  /** Everything that one entry may map together with the frame counts as used. */
  private maybeUsed(gfn: number, slot: number): void {
    const region = this.regionOf(slot);
    const first = gfn - (gfn % region);
    for (let i = 0; i < region; i++) this.possiblyYoung.add(first + i);
  }

  /** How many pages the largest entry may map that a memory can have. */
  private regionOf(slot: number): number {
    const memory = this.workload.memory.find((each) => each.slot === slot);
    if (memory?.backing === "hugetlb1g") return GIGANTIC_REGION;
    return (memory?.size ?? 0) < REGION * PAGE ? 1 : REGION;
  }

  // --- the host ----------------------------------------------------------------------------------------------------

  private hostOperation(machine: InspectedMachine, operation: HostOperation, result: OperationResult): string | null {
    const problem =
      this.host.apply(operation, result) ?? this.slots.log(operation, result) ?? this.age(machine, operation, result);
    const change = this.slots.update(operation);
    if (change === "all mappings go") this.forgetAll();
    if (change === "logging ends" && "slot" in operation) this.recover(operation.slot);
    // A change of the parameter drops everything, and so may the thread that recovers huge pages.
    const setsNx = operation.host === "write_file" && operation.path.endsWith("/nx_huge_pages");
    if (setsNx || (operation.host === "sleep" && machine.vm.kvm.params.nxHugePages)) this.forgetAll();
    if (operation.host === "fork") this.children++;
    if (operation.host === "fork_exit" && this.children > 0) this.children--;
    if (operation.host === "prefault") this.prefaulted(operation.gpa, operation.len);
    return problem;
  }

  /** Tables make way for huge pages: 6.12 drops them; later kernels put an entry there that is as old as the first of the small ones. */
  private recover(id: number): void {
    const slot = this.slots.slots.get(id);
    if (slot === undefined) return;
    for (let i = 0; i < slot.pages; i++) {
      const gfn = slot.gpa / PAGE + i;
      this.certainlyYoung.delete(gfn);
      if (this.options.kernel === "v6.12") this.mapped.delete(gfn);
    }
  }

  private prefaulted(gpa: number, len: number): void {
    for (let at = gpa; at < gpa + len; at += PAGE) {
      const found = this.slots.at(at);
      if (found === null) {
        this.askedInVain.add(Math.floor(at / PAGE));
        continue;
      }
      if (found.slot.dirtyLog) found.slot.used.add(found.index);
      const gfn = Math.floor(at / PAGE);
      this.maybeUsed(gfn, found.slot.id);
      // 6.12 makes the entry anew, and takes it for unused, also where there is one that was used.
      const region = this.regionOf(found.slot.id);
      const first = gfn - (gfn % region);
      if (this.options.kernel === "v6.12") for (let i = 0; i < region; i++) this.certainlyYoung.delete(first + i);
    }
  }

  private age(machine: InspectedMachine, operation: HostOperation, result: OperationResult): string | null {
    if (operation.host !== "age") return null;
    const base = machine.hvaOf(operation.mem);
    const size = this.workload.memory.find(({ slot }) => slot === operation.mem)?.size ?? 0;
    const start = base + operation.offset;
    const isTest = operation.mode === "test_young";
    const end = isTest ? start + 1 : operation.len === null ? base + size : start + operation.len;
    const frames = [...this.framesOf(machine, start, end)].map(({ gfn }) => gfn);
    const isYoung = result["young"] === "1";
    if (!isYoung && frames.some((gfn) => this.certainlyYoung.has(gfn))) return "a page that was used is said to be old";
    if (isYoung && !frames.some((gfn) => this.possiblyYoung.has(gfn)))
      return "a page that was not used is said to be young";
    if (isTest) return null;
    const region = this.regionOf(operation.mem);
    for (const gfn of frames) this.possiblyYoung.delete(gfn);
    // Of a gigabyte there are more than fit as arguments.
    const first = frames.reduce((least, gfn) => Math.min(least, gfn), Number.POSITIVE_INFINITY);
    const last = frames.reduce((most, gfn) => Math.max(most, gfn), 0);
    // An entry that maps part of the range and more is old as a whole.
    for (let gfn = first - (first % region); gfn < last - (last % region) + region; gfn++)
      this.certainlyYoung.delete(gfn);
    return null;
  }
}

function* addresses(operation: GuestOperation): Generator<number> {
  if (!("stride" in operation)) return;
  for (let round = 0; round < operation.repeat; round++) {
    for (let i = 0; i < operation.count; i++) yield operation.addr + i * operation.stride;
  }
}
