/**
 * Runs a workload on the model: one operation after the other, as the VMM of the recordings does.
 *
 *     const run = runWorkload({ workload, initial, kernel: "v7.2", recording });
 *
 * The MMU, the machine and the kernel's services are those that `check` explores; only one thread runs at a time. With a recording, the host's
 * part (which page backs what, which notifiers it calls) is taken from it; without, the modelled host mm decides.
 */
import { addU64, runSequentially, type Steps, type U64, U64_ZERO, UsageError, u64, World } from "../engine/index.ts";
import { Kernel, Mm, PageFrames, writeLock, writeUnlock } from "../kernel/index.ts";
import { kvmPrepareDirtyBitmap } from "../kvm/dirty-log.ts";
import { loadPdptrs } from "../kvm/guest-walk.ts";
import { Kvm } from "../kvm/kvm.ts";
import { kvmMmuUninitTdpMmu } from "../kvm/tdp-zap.ts";
import { formatEvent, isKvmEvent, isStatEvent, type KvmEvent } from "../kvm/trace.ts";
import { type KvmVariants, variantsOfKernel } from "../kvm/variants.ts";
import { kvmArchVcpuIoctlRun } from "../kvm/vcpu.ts";
import { Vm } from "../kvm/vm.ts";
import { gfn, type Hva, hva, Interrupts, PAGE_SIZE, pagingModeOf } from "../machine/index.ts";
import { exceptionHandler, type GuestProgramContext, guestCode } from "./guest-code.ts";
import { CONTROL_PAGES, GuestTables } from "./guest-tables.ts";
import { HostFollower, windowOf } from "./host-follower.ts";
import type { HostLayout, SlotMarker } from "./host-layout.ts";
import { type OperationMachine, runHostOperation } from "./host-operations.ts";
import { HostPlan } from "./host-plan.ts";
import type { InitialState } from "./initial-state.ts";
import { applySettings, recoverNxHugePages } from "./kvm-settings.ts";
import { type GuestOperation, type HostOperation, membersOf, type Operation } from "./operation.ts";
import { OwnHost } from "./own-host.ts";
import { type OwnLayout, ownBytes, ownLayout, ownSlots, ownWindow } from "./own-layout.ts";
import { isNotifierEvent, notifierEvent, notifierText } from "./own-notifiers.ts";
import type { KernelRecording, ResolvedMember } from "./recording.ts";
import { guestResult, hostResult } from "./results.ts";
import type { EventLine, OperationResult, OperationRun, Stats, WorkloadRun } from "./run.ts";
import { checkRunnable } from "./runnable.ts";
import { newCounters, statsOf } from "./statistics.ts";
import { CONTROL_SLOT, type Workload } from "./workload.ts";

export interface ModelInput {
  readonly workload: Workload;
  /** What the guest starts from; null: what follows from the workload (guest-tables.ts). */
  readonly initial: InitialState | null;
  /** `v6.12`, `v7.2`. */
  readonly kernel: string;
  /** What the host did; null: the modelled host decides. */
  readonly recording: KernelRecording | null;
  /** Designs in which the VM differs from the kernel's on the machine of the recordings: EPT, PML. */
  readonly variants?: Partial<KvmVariants>;
  /** The CPU keeps translations from one stay in the guest to the next, which the processor of the recordings does not. */
  readonly keepsTranslations?: boolean;
  /** Looks at the machine after the set-up (`at` is -1), after each operation, and after the teardown (`at` is their number). */
  readonly inspect?: (machine: InspectedMachine, at: number, run: OperationRun | null) => void;
}

/** What a check between two operations may look at; nothing runs meanwhile. */
export interface InspectedMachine {
  readonly vm: Vm;
  readonly workload: Workload;
  /** Where a memory starts on the host. */
  hvaOf(memory: number): Hva;
  /** KVM's statistics as they are now. */
  readonly counters: Stats;
}

export interface ModelRun extends WorkloadRun {
  /** What the model cannot do yet, as `ops[3]: dirty_log`; the run went on without it. */
  readonly notModelled: readonly string[];
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
  const teardown = machine.tearDown();
  input.inspect?.(machine, operations.length, null);
  return { setup, operations, teardown, layout: machine.layout, notModelled: machine.notModelled };
}

class ModelMachine implements OperationMachine, InspectedMachine {
  readonly notModelled: string[] = [];
  readonly layout: HostLayout;
  readonly vm: Vm;
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
  readonly counters: Stats;
  private reported = 0;

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
    const staticBytes = this.plan === null ? ownBytes(workload) : MEMORY_BYTES + 2 * blockBytes;
    this.world = new World({ staticBytes, arenaBytes: PAGE_SIZE, tasksMax: lanes });
    const align = gigantic ? 512 * HUGE : HUGE;
    const window = this.plan === null ? ownWindow(this.ownPlaces, align) : windowOf(this.layout.places, align);
    const variants = { ...variantsOfKernel(kernel), ...input.variants };
    const isOwn = this.plan === null;
    const frames = new PageFrames(this.world, { reuse: isOwn });
    const kvmKernel = new Kernel(this.world);
    this.mm = new Mm(this.world, frames, hva(window.base), window.pages, {
      gigantic,
      hugePages: isOwn,
      kernel: variants.kernel,
    });
    this.own = isOwn ? new OwnHost(this.mm, workload, this.ownPlaces) : null;
    const kvm = new Kvm(this.world, kvmKernel, this.mm, variants);
    applySettings(kvm, workload);
    this.vm = new Vm(kvm, new Interrupts(this.world, lanes));
    const { plan } = this;
    this.follower =
      plan === null ? null : new HostFollower(this.world, this.mm, plan, () => this.slotPlaces(), kvm.params);
    if (this.follower !== null) this.mm.policy = this.follower;
    if (isOwn) this.mm.onNotify = (edge, range) => this.world.emit(notifierEvent(edge, range));
    this.vm.tracesExits = workload.traceExits;
    this.counters = newCounters(kernel, workload.vcpus);
  }

  private slotPlaces(): { baseGfn: number; npages: number; hva: number }[] {
    const { memslots } = this.vm.kvm;
    return memslots.slotsOf(memslots.setAt(memslots.active.peek())).map((slot) => ({
      baseGfn: slot.base_gfn.peek(),
      npages: slot.npages.peek(),
      hva: slot.userspace_addr.peek(),
    }));
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
    for (let i = 0; i < this.input.workload.vcpus; i++) {
      const vcpu = this.vm.addVcpu(i);
      vcpu.reset(pagingModeOf(this.initial));
      vcpu.guest.handler = exceptionHandler(this.workload);
      // The processor of the recordings keeps no translation from one VMRUN to the next.
      vcpu.guest.forgetsBetweenStays = this.input.keepsTranslations !== true;
    }
    this.writeGuestTables();
    this.loadPdptes();
    return [...lines, ...this.newEvents()];
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
    const { memslots } = this.vm.kvm;
    const made = memslots.addDuringSetup({
      id: slot.slot,
      baseGfn: gfn(slot.gpa / PAGE_SIZE),
      npages: slot.size / PAGE_SIZE,
      userspaceAddr: hva(slot.hva),
      flags: slot.flags,
    });
    kvmPrepareDirtyBitmap(this.vm, { old: null, new: made, change: "create" });
  }

  /** KVM_SET_SREGS: CR3 of a PAE guest is loaded with its PDPTEs. */
  private loadPdptes(): void {
    for (const vcpu of this.vm.vcpus) {
      const { mode } = vcpu.guest;
      if (!mode.paging || mode.levels !== 3) continue;
      this.sequentially(`vcpu${vcpu.id}`, () => loadPdptrs(vcpu, mode.cr3));
    }
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
    const slots = this.slotPlaces();
    const hvaOf = ({ gpa }: GuestStore): Hva => {
      const slot = slots.find(({ baseGfn, npages }) => {
        const index = gpa / PAGE_SIZE - baseGfn;
        return index >= 0 && index < npages;
      });
      if (slot === undefined)
        throw new UsageError(`guest address 0x${gpa.toString(16)}: in no memslot; mend the workload`);
      return hva(slot.hva + gpa - slot.baseGfn * PAGE_SIZE);
    };
    const { own } = this;
    if (own === null) for (const each of stores) this.poke(hvaOf(each), each.value, each.size);
    else {
      this.sequentially("vmm", function* () {
        for (const each of stores) yield* own.store(hvaOf(each), each.value, each.size);
      });
    }
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
    const before = this.counters.vm["remote_tlb_flush_requests"] ?? 0;
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
    const flushes = (this.counters.vm["remote_tlb_flush_requests"] ?? 0) - before;
    return { events, stats: statsOf(this.counters), flushes, results };
  }

  private get programContext(): GuestProgramContext {
    return { workload: this.workload, tables: this.tables, initial: this.initial };
  }

  private runGuest(operation: GuestOperation, resolved: ResolvedMember | null): OperationResult {
    const vcpu = this.vm.vcpus[operation.vcpu] as Vm["vcpus"][number];
    const code = guestCode(this.programContext, operation, resolved ?? this.tables.resolve(operation));
    vcpu.guest.lastRead = U64_ZERO;
    const task = `vcpu${vcpu.id}`;
    let result = this.sequentially(task, () => kvmArchVcpuIoctlRun(vcpu, code));
    while (result === "mmio") {
      if (vcpu.mmio !== null && !vcpu.mmio.isWrite) vcpu.mmio.data = mmioAnswer(vcpu.mmio.action.size);
      result = this.sequentially(task, () => kvmArchVcpuIoctlRun(vcpu, null));
    }
    return guestResult(vcpu, result);
  }

  private runHost(operation: HostOperation, place: string, task: string, first: boolean): OperationResult {
    const result = this.own?.perform(operation, task, (name, steps) => this.sequentially(name, steps)) ?? null;
    const details = runHostOperation(this, operation, task);
    if (details === null && result === null) this.notModelled.push(`${place}: ${operation.host}`);
    const { follower } = this;
    if (follower !== null && first) {
      // The VMM's own calls, and those of the kernel's threads meanwhile.
      for (const thread of follower.threads()) this.sequentially(thread.task, () => follower.replay(thread.calls));
    }
    return { ...hostResult(operation.host, result), ...details };
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
    const { kvm, ops, vcpus, shadow, tdp } = this.vm;
    this.sequentially("vmm", function* () {
      yield* writeLock(kvm.mmuLock);
      yield* ops.zapAll();
      yield* writeUnlock(kvm.mmuLock);
      for (const vcpu of vcpus) yield* ops.unload(vcpu);
      if (shadow === null) yield* kvmMmuUninitTdpMmu(tdp);
    });
    return this.newEvents();
  }

  /** What was reported since the last call; statistics are added up on the way. */
  private newEvents(): readonly EventLine[] {
    const { trace } = this.world;
    const { kernel } = this.vm.kvm.variants;
    const lines: EventLine[] = [];
    for (; this.reported < trace.length; this.reported++) {
      const { task, event } = trace[this.reported] as (typeof trace)[number];
      if (isStatEvent(event)) {
        const counters = event.vcpu === null ? this.counters.vm : this.counters.vcpu[event.vcpu];
        (counters as Record<string, number>)[event.stat] = (counters?.[event.stat] ?? 0) + event.delta;
      } else if (isNotifierEvent(event)) {
        lines.push({ task: task?.name ?? "vmm", event: event.name, text: notifierText(event) });
      } else if (isKvmEvent(event)) {
        const text = formatEvent(event as KvmEvent, kernel, this.vm.tdp.layout);
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
