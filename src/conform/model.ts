/**
 * Runs a workload on the model: one operation after the other, as the VMM of the recordings does.
 *
 *     const run = runWorkload({ workload, initial, kernel: "v7.2", recording });
 *
 * The MMU, the machine and the kernel's services are those that `check` explores; only one thread runs at a time. With a recording, the host's
 * part (which page backs what, which notifiers it calls) is taken from it; without, the modelled host mm decides.
 */
import {
  addU64,
  runSequentially,
  type Steps,
  type U64,
  U64_ZERO,
  UsageError,
  u64,
  type World,
} from "../engine/index.ts";
import type { Mm } from "../kernel/index.ts";
import { formatEvent, isKvmEvent, isStatEvent, type KvmEvent } from "../kvm/trace.ts";
import type { KvmVariants, Paging } from "../kvm/variants.ts";
import type { RunResult } from "../kvm/vcpu.ts";
import type { Vm } from "../kvm/vm.ts";
import { type GuestInstruction, gfn, type Hva, hva, PAGE_SIZE, pagingModeOf } from "../machine/index.ts";
import { exceptionHandler, type GuestProgramContext, guestCode } from "./guest-code.ts";
import { CONTROL_PAGES, GuestTables } from "./guest-tables.ts";
import { HostFollower, windowOf } from "./host-follower.ts";
import type { HostLayout, SlotMarker } from "./host-layout.ts";
import { type OperationMachine, runHostOperation } from "./host-operations.ts";
import { HostPlan } from "./host-plan.ts";
import type { InitialState } from "./initial-state.ts";
import { recoverNxHugePages } from "./kvm-settings.ts";
import { type GuestOperation, type HostOperation, membersOf, type Operation } from "./operation.ts";
import { OwnBody } from "./own-body.ts";
import { OwnHost } from "./own-host.ts";
import { type OwnLayout, ownBytes, ownLayout, ownSlots, ownWindow } from "./own-layout.ts";
import { isNotifierEvent, notifierEvent, notifierText } from "./own-notifiers.ts";
import type { KernelRecording, ResolvedMember } from "./recording.ts";
import { guestResult, hostResult } from "./results.ts";
import type { EventLine, OperationResult, OperationRun, Stats, WorkloadRun } from "./run.ts";
import { checkRunnable } from "./runnable.ts";
import { CONTROL_SLOT, type Workload } from "./workload.ts";
import type { BodySetup, MakeBody, WorkloadBody } from "./workload-body.ts";

export interface ModelInput {
  readonly workload: Workload;
  /** What the guest starts from; null: what follows from the workload (guest-tables.ts). */
  readonly initial: InitialState | null;
  /** `v6.12`, `v7.2`. */
  readonly kernel: string;
  /** What the host did; null: the modelled host decides. */
  readonly recording: KernelRecording | null;
  /** Default: npt. */
  readonly paging?: Paging;
  /** The MMU that it runs on; left out: racewalk's own. */
  readonly makeBody?: MakeBody;
  /** Designs in which the VM differs from the kernel's on the machine of the recordings: EPT, PML. */
  readonly variants?: Partial<KvmVariants>;
  /** The CPU keeps translations from one stay in the guest to the next, which the processor of the recordings does not. */
  readonly keepsTranslations?: boolean;
  /** Modelled memory for the kernel's own structures: little where many runs are short. */
  readonly kernelBytes?: number;
  /** Looks at the machine after the set-up (`at` is -1), after each operation, and after the teardown (`at` is their number). */
  readonly inspect?: (machine: InspectedMachine, at: number, run: OperationRun | null) => void;
  /** Who is told of each member of an operation as it begins and ends, made when the guest's memory is ready; without a recording only. */
  readonly inspector?: (machine: InspectedMachine) => RunInspector;
}

/** What a check between two operations may look at; nothing runs meanwhile. */
export interface InspectedMachine {
  readonly vm: Vm;
  readonly workload: Workload;
  /** Host addresses of the entries of the guest's tables as they were set up. */
  readonly entries: readonly Hva[];
  /** Where a memory starts on the host. */
  hvaOf(memory: number): Hva;
  /** Host addresses of part of a memory. */
  rangeOf: OperationMachine["rangeOf"];
  /** KVM's statistics as they are now. */
  readonly counters: Stats;
}

/** Is told of each operation. What it throws ends the run. */
export interface RunInspector {
  guestBegins(vcpu: number, code: readonly GuestInstruction[]): void;
  guestEnds(vcpu: number, result: RunResult): void;
  hostBegins(operation: HostOperation): void;
  hostEnds(operation: HostOperation, result: OperationResult): void;
}

export interface ModelRun extends WorkloadRun {
  /** What the model cannot do yet, as `ops[3]: dirty_log`; the run went on without it. */
  readonly notModelled: readonly string[];
  /** What the MMU's tables hold at the end (workload-body.ts). */
  readonly leaves: readonly string[];
}

interface GuestStore {
  readonly gpa: number;
  readonly value: U64;
  readonly size: 4 | 8;
}

/** Bytes of modelled memory when a recording is followed: reserved, and used only as far as touched. */
const MEMORY_BYTES = 512 * 1024 * 1024;
const HUGE = 2 * 1024 * 1024;

/** @throws UsageError for a workload that cannot be run at all */
export function runWorkload(input: ModelInput): ModelRun {
  if (input.recording === null) checkRunnable(input.workload);
  const machine = new ModelMachine(input);
  const setup = machine.setUp();
  input.inspect?.(machine, -1, null);
  const operations = input.workload.ops.map((operation, at) => {
    const run = machine.run(operation, at);
    input.inspect?.(machine, at, run);
    return run;
  });
  const { layout, notModelled } = machine;
  const leaves = machine.body.leaves();
  const teardown = machine.tearDown();
  input.inspect?.(machine, operations.length, null);
  return { setup, operations, teardown, layout, notModelled, leaves };
}

class ModelMachine implements OperationMachine, InspectedMachine {
  readonly notModelled: string[] = [];
  readonly layout: HostLayout;
  readonly body: WorkloadBody;
  readonly workload: Workload;
  private readonly input: ModelInput;
  private readonly world: World;
  private readonly mm: Mm;
  private readonly plan: HostPlan | null;
  readonly follower: HostFollower | null;
  readonly own: OwnHost | null;
  private readonly ownPlaces: OwnLayout;
  private readonly tables: GuestTables;
  private readonly initial: InitialState;
  private reported = 0;
  private inspector: RunInspector | null = null;

  constructor(input: ModelInput) {
    const { workload, recording, kernel } = input;
    this.input = input;
    this.workload = workload;
    this.plan = recording === null ? null : new HostPlan(recording, workload);
    this.ownPlaces = ownLayout(workload);
    this.layout = this.plan?.layout ?? this.ownPlaces;
    this.tables = new GuestTables(workload);
    this.initial = input.initial ?? this.tables.initial;
    const block = Math.max(0, ...(this.plan?.blocks ?? []).map(({ count }) => count));
    const gigantic = block > 512 || workload.memory.some((memory) => memory.backing === "hugetlb1g");
    const blockBytes = (this.plan?.blocks ?? []).reduce((sum, { count }) => sum + count * PAGE_SIZE, 0);
    const lanes = workload.vcpus + 2;
    const bytes = this.plan === null ? ownBytes(workload, input.kernelBytes) : MEMORY_BYTES + 2 * blockBytes;
    // A kernel's own walk of host page tables wants whole tables.
    const align = gigantic || input.makeBody !== undefined ? 512 * HUGE : HUGE;
    const window = this.plan === null ? ownWindow(this.ownPlaces, align) : windowOf(this.layout.places, align);
    const isOwn = this.plan === null;
    const { makeBody = (setup: BodySetup): WorkloadBody => new OwnBody(setup), paging = "npt" } = input;
    const mm = { gigantic, hugePages: isOwn };
    const frames = { reuse: isOwn };
    const { variants = {} } = input;
    const body = makeBody({ workload, kernel, paging, variants, bytes, lanes, window, frames, mm });
    this.body = body;
    this.world = body.world;
    this.mm = body.mm;
    this.own = isOwn ? new OwnHost(this.mm, workload, this.ownPlaces) : null;
    const { plan } = this;
    this.follower =
      plan === null ? null : new HostFollower(this.world, this.mm, plan, () => this.slotPlaces(), body.params);
    if (this.follower !== null) this.mm.policy = this.follower;
    if (isOwn) this.mm.onNotify = (edge, range) => this.world.emit(notifierEvent(edge, range));
    body.tracesExits = workload.traceExits;
  }

  /** racewalk's own VM; there is none when a kernel's source runs. */
  private get ownBody(): OwnBody {
    if (this.body instanceof OwnBody) return this.body;
    throw new Error("only racewalk's own MMU can be inspected");
  }

  get vm(): Vm {
    return this.ownBody.vm;
  }

  get counters(): Stats {
    return this.ownBody.counters;
  }

  private slotPlaces(): { baseGfn: number; npages: number; hva: number }[] {
    return this.body.slots().map(({ baseGfn, npages, userspaceAddr }) => ({ baseGfn, npages, hva: userspaceAddr }));
  }

  // --- set-up ------------------------------------------------------------------------------------------------------

  /** The VM, its memslots and vCPUs; the pages that the VMM writes before the first run. */
  setUp(): readonly EventLine[] {
    const lines: EventLine[] = [];
    for (const step of this.setupSteps()) {
      if ("map" in step) {
        const { own } = this;
        if (own !== null) this.sequentially("vmm", () => own.map(step.map));
        lines.push(...this.newEvents());
      } else if ("call" in step) {
        this.sequentially("vmm", () => (this.follower as HostFollower).replaySetup(step.call));
        lines.push(...this.newEvents());
      } else {
        lines.push({ task: "vmm", event: "tracing_mark_write", text: markerText(step.slot) });
        this.addSlot(step.slot);
      }
    }
    this.writeGuestTables();
    for (let i = 0; i < this.input.workload.vcpus; i++) {
      this.sequentially(`vcpu${i}`, () => this.body.addVcpu(pagingModeOf(this.initial)));
      const guest = this.body.guest(i);
      guest.handler = exceptionHandler(this.workload);
      // The processor of the recordings keeps no translation from one VMRUN to the next.
      guest.forgetsBetweenStays = this.input.keepsTranslations !== true;
    }
    this.inspector = this.input.inspector?.(this) ?? null;
    return [...lines, ...this.newEvents()];
  }

  get entries(): readonly Hva[] {
    const hvaOf = this.hvasOfGuest();
    return this.initial.pageTableEntries.flatMap(({ gpa, entrySize, count }) =>
      Array.from({ length: count }, (_, i) => hvaOf(gpa + i * entrySize)),
    );
  }

  private setupSteps(): ({ slot: SlotMarker } | { call: HostPlan["setup"][number] } | { map: number })[] {
    const { recording, workload } = this.input;
    if (recording === null || this.plan === null) {
      const slots = ownSlots(workload, this.ownPlaces);
      const memories = [CONTROL_SLOT.slot, ...workload.memory.map(({ slot }) => slot)];
      return memories.flatMap((memory) => [
        { map: memory },
        ...slots.filter(({ slot }) => slot === memory).map((slot) => ({ slot })),
      ]);
    }
    const markers = recording.slots.map((slot) => ({ slot, at: slot.counter }));
    const calls = this.plan.setup.map((call) => ({ call, at: call.counter }));
    return [...markers, ...calls].sort((a, b) => a.at - b.at);
  }

  private addSlot(slot: SlotMarker): void {
    const description = {
      id: slot.slot,
      baseGfn: gfn(slot.gpa / PAGE_SIZE),
      npages: slot.size / PAGE_SIZE,
      userspaceAddr: hva(slot.hva),
      flags: slot.flags,
    };
    this.sequentially("vmm", () => this.body.addSlot(description));
  }

  private writeGuestTables(): void {
    // Every page that the guest uses was written, also those whose contents do not matter here; but not its stack, the last of the control pages.
    const pages = this.own === null ? [] : [...this.tables.tablePages, ...CONTROL_PAGES.slice(0, -1)];
    const stores: GuestStore[] = pages.map((gpa) => ({ gpa, value: U64_ZERO, size: 8 }));
    for (const { gpa, value, entrySize, count, step } of this.initial.pageTableEntries) {
      let entry = value;
      for (let i = 0; i < count; i++) {
        stores.push({ gpa: gpa + i * entrySize, value: entry, size: entrySize });
        entry = addU64(entry, step);
      }
    }
    this.pokeGuest(stores);
  }

  /** The VMM writes to its own memory. */
  private pokeGuest(stores: readonly GuestStore[]): void {
    const { own } = this;
    const hvaOf = this.hvasOfGuest();
    if (own === null) for (const each of stores) this.poke(hvaOf(each.gpa), each.value, each.size);
    else {
      this.sequentially("vmm", function* () {
        for (const each of stores) yield* own.store(hvaOf(each.gpa), each.value, each.size);
      });
    }
  }

  /** Where guest addresses are on the host, by the memslots of now. */
  private hvasOfGuest(): (gpa: number) => Hva {
    const slots = this.slotPlaces();
    return (gpa) => {
      const slot = slots.find(({ baseGfn, npages }) => {
        const index = gpa / PAGE_SIZE - baseGfn;
        return index >= 0 && index < npages;
      });
      if (slot === undefined)
        throw new UsageError(`guest address 0x${gpa.toString(16)}: in no memslot; mend the workload`);
      return hva(slot.hva + gpa - slot.baseGfn * PAGE_SIZE);
    };
  }

  /** The same with a recording, which says what backs the page. */
  private poke(addr: Hva, value: U64, size: 4 | 8): void {
    const page = hva(addr - (addr % PAGE_SIZE));
    const frame = (this.follower as HostFollower).frameForVmm(page);
    const word = (frame * PAGE_SIZE + (addr % PAGE_SIZE)) / 4;
    const { words } = this.world.heap;
    words[word] = value.lo;
    if (size === 8) words[word + 1] = value.hi;
  }

  // --- operations --------------------------------------------------------------------------------------------------

  run(operation: Operation, at: number): OperationRun {
    this.follower?.begin(at);
    const record = this.input.recording?.operations[at];
    const before = this.body.stats().vm["remote_tlb_flush_requests"] ?? 0;
    const results: OperationResult[] = [];
    let replayed = false;
    for (const [nth, member] of membersOf(operation).entries()) {
      if (member.kind === "guest") results.push(this.runGuest(member, record?.resolved[nth] ?? null));
      else {
        results.push(this.runHost(member, `ops[${at}]`, operation.kind === "par" ? "hostop" : "vmm", !replayed));
        replayed = true;
      }
    }
    if (this.plan !== null) recoverNxHugePages(this, this.plan.recoveries(at));
    const events = this.newEvents();
    const stats = this.body.stats();
    return { events, stats, flushes: (stats.vm["remote_tlb_flush_requests"] ?? 0) - before, results };
  }

  private get programContext(): GuestProgramContext {
    return { workload: this.workload, tables: this.tables, initial: this.initial };
  }

  private runGuest(operation: GuestOperation, resolved: ResolvedMember | null): OperationResult {
    const { body } = this;
    const { vcpu } = operation;
    const guest = body.guest(vcpu);
    const code = guestCode(this.programContext, operation, resolved ?? this.tables.resolve(operation));
    guest.lastRead = U64_ZERO;
    const task = `vcpu${vcpu}`;
    this.inspector?.guestBegins(vcpu, code);
    let result = this.sequentially(task, () => body.run(vcpu, code));
    while (result === "mmio") {
      const access = body.deviceAccess(vcpu);
      const answer = mmioAnswer(access?.size ?? 0);
      if (access !== null && !access.isWrite) body.answerDevice(vcpu, answer.lo, answer.hi);
      result = this.sequentially(task, () => body.run(vcpu, null));
    }
    this.inspector?.guestEnds(vcpu, result);
    return guestResult(vcpu, guest, result);
  }

  private runHost(operation: HostOperation, place: string, task: string, first: boolean): OperationResult {
    this.inspector?.hostBegins(operation);
    const result = this.own?.perform(operation, task, (name, steps) => this.sequentially(name, steps)) ?? null;
    const details = runHostOperation(this, operation, task);
    if (details === null && result === null) this.notModelled.push(`${place}: ${operation.host}`);
    const { follower } = this;
    if (follower !== null && first) {
      // The VMM's own calls, and those of the kernel's threads meanwhile.
      for (const thread of follower.threads()) this.sequentially(thread.task, () => follower.replay(thread.calls));
    }
    const outcome = { ...hostResult(operation.host, result), ...details };
    this.inspector?.hostEnds(operation, outcome);
    return outcome;
  }

  rangeOf(operation: { readonly mem: number; readonly offset: number; readonly len: number | null }): {
    start: Hva;
    end: Hva;
  } {
    const base = this.hvaOf(operation.mem);
    const size = this.workload.memory.find(({ slot }) => slot === operation.mem)?.size ?? CONTROL_SLOT.size;
    const start = hva(base + operation.offset);
    return { start, end: hva(operation.len === null ? base + size : start + operation.len) };
  }

  hvaOf(slot: number): Hva {
    const alias = this.workload.memory.find((memory) => memory.slot === slot)?.alias ?? null;
    const owner = alias?.of ?? slot;
    const place = this.layout.places.find(({ memory }) => memory === owner);
    if (place === undefined) {
      throw new UsageError(`memory ${owner}: the recording does not say where it is; record the case again`);
    }
    return hva(place.hva + (alias?.offset ?? 0));
  }

  sequentially<T>(name: string, steps: () => Steps<T>): T {
    const { vcpus } = this.input.workload;
    const lane = name.startsWith("vcpu") ? Number(name.slice(4)) : vcpus + (name === "vmm" ? 0 : 1);
    return runSequentially(this.world, lane, name, steps);
  }

  // --- the end -----------------------------------------------------------------------------------------------------

  tearDown(): readonly EventLine[] {
    this.sequentially("vmm", () => this.body.destroy());
    return this.newEvents();
  }

  /** What was reported since the last call; statistics are added up on the way. */
  private newEvents(): readonly EventLine[] {
    const { trace } = this.world;
    const { body } = this;
    const lines: EventLine[] = [];
    for (; this.reported < trace.length; this.reported++) {
      const { task, event } = trace[this.reported] as (typeof trace)[number];
      if (isStatEvent(event)) {
        body.count(event);
      } else if (isNotifierEvent(event)) {
        lines.push({ task: task?.name ?? "vmm", event: event.name, text: notifierText(event) });
      } else if (isKvmEvent(event)) {
        const text = formatEvent(event as KvmEvent, body.kernel, body.layout);
        lines.push({ task: task?.name ?? "vmm", event: event.name, text });
      }
    }
    return lines;
  }
}

/** The VMM's device: every byte reads as 0x5a. */
function mmioAnswer(size: number): U64 {
  const word = (bytes: number): number => (bytes >= 4 ? 0x5a5a5a5a : 0x5a5a5a5a % 2 ** (8 * Math.max(0, bytes)));
  return u64(word(size - 4), word(size));
}

function markerText(slot: SlotMarker): string {
  const hex = (value: number): string => `0x${value.toString(16)}`;
  return `setup slot ${slot.slot} gpa ${hex(slot.gpa)} size ${hex(slot.size)} flags ${slot.flags} hva ${hex(slot.hva)}`;
}
