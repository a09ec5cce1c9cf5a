/**
 * A compiled kernel as what workloads run on: its own memslots, MMU, dirty logs and notifier, under the guests, the host mm and the VMM of
 * racewalk's own model.
 *
 * Nothing is explored: the world never starts, so C code accesses memory at full speed, and one thread runs at a time.
 */

import {
  type BodySetup,
  type DeviceAccess,
  type DirtyRingEntry,
  type Errno,
  newCounters,
  preFaultAlarm,
  type Stats,
  tdpLeaves,
  type WorkloadBody,
} from "../conform/index.ts";
import { assert, EngineBug, runSequentially, type Steps, World } from "../engine/index.ts";
import type { Mm } from "../kernel/index.ts";
import type { SlotDescription } from "../kvm/memslots.ts";
import { defaultModuleParams, type ModuleParams } from "../kvm/module-params.ts";
import { type SpteLayout, spteLayout } from "../kvm/spte-layout.ts";
import type { KernelVersion, Paging } from "../kvm/variants.ts";
import type { RunResult } from "../kvm/vcpu.ts";
import {
  GuestCpu,
  type GuestInstruction,
  type Hva,
  hva,
  Interrupts,
  PAGE_SIZE,
  type PagingMode,
} from "../machine/index.ts";
import { bootKernel } from "./gpc-scene.ts";
import type { Host } from "./host.ts";
import { HostPageTables } from "./host-page-tables.ts";
import type { Image } from "./image.ts";
import { KernelVcpu } from "./kernel-vcpu.ts";
import { emitEvents } from "./kvm-events.ts";
import type { CompiledKernel } from "./machine.ts";
import { registerNotifier } from "./notifier.ts";

const PAGINGS: readonly Paging[] = ["npt", "ept", "ept-no-ad"];
/** KVM_DIRTY_GFN_F_DIRTY, KVM_DIRTY_GFN_F_RESET; struct kvm_dirty_gfn: flags, slot, offset. */
const GFN_DIRTY = 1;
const GFN_RESET = 2;
const DIRTY_GFN_BYTES = 16;
const ENOTTY = 25;

export class KernelBody implements WorkloadBody {
  readonly world: World;
  readonly mm: Mm;
  readonly params: ModuleParams = defaultModuleParams();
  readonly kernel: KernelVersion;
  readonly layout: SpteLayout;
  private readonly compiled: CompiledKernel;
  private readonly host: Host;
  private readonly kvm: bigint;
  private readonly threads: KernelVcpu[] = [];
  private readonly slotsById = new Map<number, SlotDescription>();
  private readonly statNames: Stats;
  private readonly logBuffer: number;
  private readonly logBytes: number;
  tracesExits = false;

  constructor(image: Image, setup: BodySetup) {
    const { workload, kernel, paging, bytes, lanes, window, frames, mm } = setup;
    this.world = new World({ staticBytes: bytes, arenaBytes: PAGE_SIZE, tasksMax: lanes });
    this.kernel = kernel.replace(/^v/, "") === "7.2" ? "7.2" : "6.12";
    this.layout = spteLayout(this.kernel, paging);
    const process = { base: hva(window.base), pages: window.pages };
    const booted = bootKernel(this.world, image, process, { mm: { ...mm, kernel: this.kernel }, frames });
    this.compiled = booted.kernel;
    this.host = booted.host;
    this.mm = booted.mm;
    this.host.interrupts = new Interrupts(this.world, lanes);
    this.host.pageTables = new HostPageTables(this.mm);
    const { npt, tdpMmu, eagerPageSplit, nxHugePages } = workload.kernelParams;
    Object.assign(this.params, { npt, tdpMmu, eagerPageSplit, nxHugePages });
    this.statNames = newCounters(kernel, workload.vcpus);
    const pages = Math.max(1, ...workload.memory.map(({ size }) => size / PAGE_SIZE));
    this.logBytes = 8 * Math.ceil(pages / 64);
    this.logBuffer = this.world.allocate(Math.max(this.logBytes, PAGE_SIZE), "the VMM's bitmap");
    this.kvm = BigInt(runSequentially(this.world, 0, "set-up", () => this.createVm(paging, workload.caps)));
    registerNotifier(this.compiled, this.mm, this.kvm);
    emitEvents(this.compiled);
    this.host.warns = true;
  }

  private *createVm(paging: Paging, caps: BodySetup["workload"]["caps"]): Steps<number> {
    const { compiled, params } = this;
    yield* compiled.call("rw_boot");
    compiled.poke(compiled.addressOf("tdp_mmu_enabled"), 1, params.tdpMmu ? 1 : 0);
    yield* compiled.call("rw_mmu_parameters", params.nxHugePages ? 1 : 0);
    const npt = params.npt ? 1 : 0;
    const loaded = yield* compiled.call("rw_load_modules", npt, PAGINGS.indexOf(paging), params.eagerPageSplit ? 1 : 0);
    assert(loaded === 0, `the modules do not load: ${loaded}`);
    const kvm = yield* compiled.call("rw_create_vm");
    for (const { cap, arg } of caps) {
      if (cap === "manual_dirty_log_protect2")
        yield* compiled.call("rw_enable_manual_protect", BigInt(kvm), BigInt(arg));
      else {
        const done = yield* compiled.call("rw_enable_dirty_ring", BigInt(kvm), arg);
        assert(done === 0, `KVM_CAP_DIRTY_LOG_RING: ${done}`);
      }
    }
    return kvm;
  }

  // --- set-up ------------------------------------------------------------------------------------------------------

  *addSlot(slot: SlotDescription): Steps<void> {
    const done = yield* this.setMemoryRegion(slot);
    assert(done === 0, `KVM_SET_USER_MEMORY_REGION of slot ${slot.id}: ${done}`);
  }

  *addVcpu(mode: PagingMode): Steps<void> {
    const id = this.threads.length;
    const { compiled, kvm } = this;
    const { cr0, cr3, cr4, efer } = mode;
    const vcpu = yield* compiled.call(
      "rw_create_guest",
      ...[kvm, id, BigInt(cr0 >>> 0), BigInt(cr3), BigInt(cr4), BigInt(efer)],
    );
    assert(vcpu !== 0, `vcpu${id} cannot be made`);
    const guest = new GuestCpu(this.world, id, this.host.interrupts as Interrupts, mode, this.layout.format);
    this.host.guests.set(id, guest);
    this.threads.push(new KernelVcpu(compiled, vcpu, id, guest, this.params.npt));
  }

  // --- ioctls ------------------------------------------------------------------------------------------------------

  run(vcpu: number, instructions: readonly GuestInstruction[] | null): Steps<RunResult> {
    this.vcpuOf(vcpu).tracesExits = this.tracesExits;
    return this.vcpuOf(vcpu).run(instructions);
  }

  deviceAccess(vcpu: number): DeviceAccess | null {
    return this.vcpuOf(vcpu).device;
  }

  answerDevice(vcpu: number, lo: number, hi: number): void {
    this.vcpuOf(vcpu).answerDevice(lo, hi);
  }

  *setMemoryRegion(slot: SlotDescription): Steps<Errno> {
    const { id, flags, baseGfn, npages, userspaceAddr } = slot;
    const places = [baseGfn * PAGE_SIZE, npages * PAGE_SIZE, userspaceAddr].map(BigInt);
    const done = yield* this.compiled.call("rw_set_memory_region", this.kvm, id, flags, ...places);
    if (done === 0 && npages === 0) this.slotsById.delete(id);
    else if (done === 0) this.slotsById.set(id, slot);
    return -done;
  }

  *getDirtyLog(slot: number): Steps<readonly number[] | Errno> {
    const { compiled, logBuffer, logBytes } = this;
    const done = yield* compiled.call("rw_get_dirty_log", this.kvm, slot, BigInt(logBuffer));
    if (done !== 0) return -done;
    const frames: number[] = [];
    const pages = this.slotsById.get(slot)?.npages ?? 0;
    for (let i = 0; i < Math.min(pages, 8 * logBytes); i++) {
      if (((compiled.peek(logBuffer + (i >>> 3), 1) >>> (i & 7)) & 1) !== 0) frames.push(i);
    }
    return frames;
  }

  *clearDirtyLog(slot: number, first: number, pages: number): Steps<Errno> {
    const { compiled, logBuffer, logBytes } = this;
    for (let i = 0; i < logBytes; i++) compiled.poke(logBuffer + i, 1, 0xff);
    return -(yield* compiled.call("rw_clear_dirty_log", this.kvm, slot, BigInt(first), pages, BigInt(logBuffer)));
  }

  *collectDirtyRing(id: number): Steps<readonly DirtyRingEntry[] | null> {
    const { compiled } = this;
    const vcpu = this.vcpuOf(id).address;
    const field = (name: string, size: 4 | 8): number =>
      compiled.peek(vcpu + compiled.offsetOf("kvm_vcpu", `dirty_ring.${name}`), size);
    const size = field("size", 4);
    if (size === 0) return null;
    const entries: DirtyRingEntry[] = [];
    for (let at = field("reset_index", 4); entries.length < size; at = (at + 1) >>> 0) {
      const entry = field("dirty_gfns", 8) + DIRTY_GFN_BYTES * (at % size);
      const flags = compiled.peek(entry, 4);
      if ((flags & GFN_DIRTY) === 0) break;
      if ((flags & GFN_RESET) !== 0) continue;
      entries.push({ slot: compiled.peek(entry + 4, 4), offset: compiled.peek(entry + 8, 8) });
      compiled.poke(entry, 4, flags | GFN_RESET);
    }
    return entries;
  }

  *resetDirtyRings(): Steps<number> {
    return yield* this.compiled.call("rw_reset_dirty_rings", this.kvm);
  }

  *setParameter(name: string, value: string): Steps<void> {
    const { compiled, params } = this;
    const isOn = /^(?:y|1|on|force)/i.test(value);
    switch (name) {
      case "eager_page_split":
        params.eagerPageSplit = isOn;
        compiled.poke(compiled.addressOf("eager_page_split"), 1, isOn ? 1 : 0);
        break;
      case "nx_huge_pages":
        params.nxHugePages = isOn;
        yield* compiled.call("rw_set_nx_huge_pages", isOn ? 1 : 0);
        break;
      case "nx_huge_pages_recovery_ratio":
      case "nx_huge_pages_recovery_period_ms": {
        if (name.endsWith("ratio")) params.nxHugePagesRecoveryRatio = Number(value);
        else params.nxHugePagesRecoveryPeriodMs = Number(value);
        const { nxHugePagesRecoveryRatio, nxHugePagesRecoveryPeriodMs } = params;
        yield* compiled.call("rw_set_nx_recovery", nxHugePagesRecoveryRatio, nxHugePagesRecoveryPeriodMs);
        break;
      }
      default:
    }
  }

  *preFault(vcpu: number, gpa: number, bytes: number): Steps<number> {
    if (!this.compiled.has("rw_pre_fault")) return ENOTTY;
    // kvm_tdp_map_page() offers to reschedule at each try.
    this.host.alarm = preFaultAlarm(bytes);
    const errno = yield* this.compiled.call(
      "rw_pre_fault",
      BigInt(this.vcpuOf(vcpu).address),
      BigInt(gpa),
      BigInt(bytes),
    );
    this.host.alarm = null;
    return errno;
  }

  *setNrMmuPages(pages: number): Steps<void> {
    yield* this.compiled.call("rw_set_nr_mmu_pages", this.kvm, pages);
  }

  *setClock(): Steps<void> {
    yield* this.compiled.call("rw_set_clock", this.kvm);
  }

  *recoverNxHugePages(): Steps<void> {
    yield* this.compiled.call("rw_recover_nx_huge_pages", this.kvm);
  }

  *destroy(): Steps<void> {
    yield* this.compiled.call("rw_destroy_vm", this.kvm);
    for (const { address } of this.threads) yield* this.compiled.call("rw_unload_mmu", BigInt(address));
  }

  // --- what there is to be seen --------------------------------------------------------------------------------------

  private vcpuOf(id: number): KernelVcpu {
    return this.threads[id] as KernelVcpu;
  }

  guest(id: number): GuestCpu {
    return this.vcpuOf(id).guest;
  }

  get vcpus(): number {
    return this.threads.length;
  }

  slots(): readonly SlotDescription[] {
    return [...this.slotsById.values()];
  }

  slotAt(addr: Hva): SlotDescription | null {
    const found = this.slots().find(({ userspaceAddr, npages }) => {
      const index = (addr - userspaceAddr) / PAGE_SIZE;
      return index >= 0 && index < npages;
    });
    return found ?? null;
  }

  count(): void {
    throw new EngineBug("a compiled kernel counts by itself");
  }

  stats(): Stats {
    const { statNames } = this;
    const of = (at: number, structure: string, names: Readonly<Record<string, number>>): Record<string, number> =>
      Object.fromEntries(Object.keys(names).map((name) => [name, this.stat(at, structure, name)]));
    return {
      vm: of(Number(this.kvm), "kvm", statNames.vm),
      vcpu: statNames.vcpu.map((names, id) => of(this.threads[id]?.address ?? 0, "kvm_vcpu", names)),
    };
  }

  private stat(at: number, structure: string, name: string): number {
    const { compiled } = this;
    const fields = compiled.image.description.structs[structure]?.fields ?? [];
    const found = fields.find(([, , field]) => field === `stat.${name}` || field === `stat.generic.${name}`);
    return at === 0 || found === undefined ? 0 : compiled.peek(at + found[0], 8);
  }

  leaves(): readonly string[] {
    const { compiled, world } = this;
    const rootAt = compiled.offsetOf("kvm_vcpu", "arch.root_mmu.root.hpa");
    const roleAt = compiled.offsetOf("kvm_vcpu", "arch.root_mmu.root_role.word");
    const roots = this.threads.map(({ address }) => {
      const hpa = compiled.peek(address + rootAt, 8);
      // INVALID_PAGE is no address of the heap.
      return { hpa: hpa < world.heap.bytes ? hpa : 0, levels: compiled.peek(address + roleAt, 4) & ROLE_LEVEL };
    });
    return tdpLeaves(world, roots, this.layout);
  }
}

/** kvm_mmu_page_role.level */
const ROLE_LEVEL = 0xf;
