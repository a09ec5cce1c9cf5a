/** racewalk's own MMU as what workloads run on: the one that is explored. */
import { type Steps, u64, World } from "../engine/index.ts";
import { Kernel, Mm, mutexLock, mutexUnlock, PageFrames, writeLock, writeUnlock } from "../kernel/index.ts";
import { framesOf, kvmClearDirtyLog, kvmGetDirtyLog } from "../kvm/dirty-log.ts";
import { collectDirtyRing, kvmResetDirtyRings } from "../kvm/dirty-ring.ts";
import { loadPdptrs } from "../kvm/guest-walk.ts";
import { Kvm } from "../kvm/kvm.ts";
import { kvmVmIoctlSetClock } from "../kvm/kvm-clock.ts";
import { kvmSetMemoryRegion } from "../kvm/memory-region.ts";
import type { SlotDescription } from "../kvm/memslots.ts";
import { kvmMmuZapAllFast } from "../kvm/mmu-zap.ts";
import type { ModuleParams } from "../kvm/module-params.ts";
import { kvmVcpuPreFaultMemory } from "../kvm/pre-fault.ts";
import { hardwareLevels } from "../kvm/shadow/roots.ts";
import { kvmVmIoctlSetNrMmuPages } from "../kvm/shadow/zap.ts";
import type { SpteLayout } from "../kvm/spte-layout.ts";
import { kvmMmuUninitTdpMmu } from "../kvm/tdp-zap.ts";
import type { StatEvent } from "../kvm/trace.ts";
import { type KernelVersion, variantsOfKernel } from "../kvm/variants.ts";
import { kvmArchVcpuIoctlRun, type RunResult, type Vcpu } from "../kvm/vcpu.ts";
import { Vm } from "../kvm/vm.ts";
import {
  type Gpa,
  type GuestCpu,
  type GuestInstruction,
  gfn,
  type Hva,
  hva,
  Interrupts,
  PAGE_SIZE,
  type PagingMode,
} from "../machine/index.ts";
import { applySettings } from "./kvm-settings.ts";
import type { Stats } from "./run.ts";
import { newCounters, statsOf } from "./statistics.ts";
import { tdpLeaves } from "./tdp-leaves.ts";
import {
  type BodySetup,
  type DeviceAccess,
  type DirtyRingEntry,
  type Errno,
  preFaultAlarm,
  type WorkloadBody,
} from "./workload-body.ts";

export class OwnBody implements WorkloadBody {
  readonly world: World;
  readonly mm: Mm;
  readonly vm: Vm;
  /** KVM's statistics as they are now. */
  readonly counters: Stats;

  constructor({ workload, kernel, paging, variants: differing, bytes, lanes, window, frames, mm }: BodySetup) {
    this.world = new World({ staticBytes: bytes, arenaBytes: PAGE_SIZE, tasksMax: lanes });
    const variants = { ...variantsOfKernel(kernel), paging, ...differing };
    const pages = new PageFrames(this.world, frames);
    const kvmKernel = new Kernel(this.world);
    this.mm = new Mm(this.world, pages, hva(window.base), window.pages, { ...mm, kernel: variants.kernel });
    const kvm = new Kvm(this.world, kvmKernel, this.mm, variants);
    applySettings(kvm, workload);
    this.vm = new Vm(kvm, new Interrupts(this.world, lanes));
    this.counters = newCounters(kernel, workload.vcpus);
  }

  get params(): ModuleParams {
    return this.vm.kvm.params;
  }

  get kernel(): KernelVersion {
    return this.vm.kvm.variants.kernel;
  }

  get layout(): SpteLayout {
    return this.vm.tdp.layout;
  }

  get tracesExits(): boolean {
    return this.vm.tracesExits;
  }

  set tracesExits(on: boolean) {
    this.vm.tracesExits = on;
  }

  // --- set-up ------------------------------------------------------------------------------------------------------

  *addSlot(slot: SlotDescription): Steps<void> {
    const made = this.vm.kvm.memslots.addDuringSetup(slot);
    this.vm.kvm.arch?.prepareMemoryRegion({ old: null, new: made, change: "create" });
  }

  *addVcpu(mode: PagingMode): Steps<void> {
    const vcpu = this.vm.addVcpu(this.vm.vcpus.length);
    vcpu.reset(mode);
    // KVM_SET_SREGS: CR3 of a PAE guest is loaded with its PDPTEs.
    if (mode.paging && mode.levels === 3) yield* loadPdptrs(vcpu, mode.cr3);
  }

  // --- ioctls ------------------------------------------------------------------------------------------------------

  run(vcpu: number, instructions: readonly GuestInstruction[] | null): Steps<RunResult> {
    return kvmArchVcpuIoctlRun(this.vcpuOf(vcpu), instructions);
  }

  deviceAccess(vcpu: number): DeviceAccess | null {
    const { mmio } = this.vcpuOf(vcpu);
    return mmio === null ? null : { isWrite: mmio.isWrite, size: mmio.action.size };
  }

  answerDevice(vcpu: number, lo: number, hi: number): void {
    const { mmio } = this.vcpuOf(vcpu);
    if (mmio !== null) mmio.data = u64(hi, lo);
  }

  setMemoryRegion(slot: SlotDescription): Steps<Errno> {
    return kvmSetMemoryRegion(this.vm.kvm, slot);
  }

  *getDirtyLog(slot: number): Steps<readonly number[] | Errno> {
    const log = yield* kvmGetDirtyLog(this.vm, slot);
    return typeof log === "number" ? log : framesOf(log);
  }

  clearDirtyLog(slot: number, first: number, pages: number): Steps<Errno> {
    return kvmClearDirtyLog(this.vm, slot, first, pages);
  }

  *collectDirtyRing(vcpu: number): Steps<readonly DirtyRingEntry[] | null> {
    const { dirtyRing } = this.vcpuOf(vcpu);
    return dirtyRing === null ? null : yield* collectDirtyRing(dirtyRing);
  }

  resetDirtyRings(): Steps<number> {
    return kvmResetDirtyRings(this.vm);
  }

  *setParameter(name: string, value: string): Steps<void> {
    const { params } = this;
    switch (name) {
      case "eager_page_split":
        params.eagerPageSplit = isOn(value);
        break;
      case "nx_huge_pages":
        if (params.nxHugePages === isOn(value)) break;
        params.nxHugePages = isOn(value);
        yield* this.zapAllFast();
        break;
      case "nx_huge_pages_recovery_ratio":
        params.nxHugePagesRecoveryRatio = Number(value);
        break;
      case "nx_huge_pages_recovery_period_ms":
        params.nxHugePagesRecoveryPeriodMs = Number(value);
        break;
      default:
    }
  }

  /** set_nx_huge_pages(): every VM's mappings are made anew. */
  private *zapAllFast(): Steps<void> {
    const { slotsLock } = this.vm.kvm.memslots;
    yield* mutexLock(slotsLock);
    yield* kvmMmuZapAllFast(this.vm);
    yield* mutexUnlock(slotsLock);
  }

  *preFault(vcpu: number, gpa: number, bytes: number): Steps<Errno> {
    const thread = this.vcpuOf(vcpu);
    let left = preFaultAlarm(bytes);
    const remaining = yield* kvmVcpuPreFaultMemory(thread, gpa as Gpa, bytes, () => --left < 0);
    return left < 0 && remaining === bytes ? EINTR : 0;
  }

  *setNrMmuPages(pages: number): Steps<void> {
    const { shadow } = this.vm;
    if (shadow !== null) yield* kvmVmIoctlSetNrMmuPages(shadow, pages);
  }

  setClock(): Steps<void> {
    return kvmVmIoctlSetClock(this.vm);
  }

  recoverNxHugePages(): Steps<void> {
    return this.vm.ops.recoverNxHugePages();
  }

  *destroy(): Steps<void> {
    const { kvm, ops, vcpus, shadow, tdp } = this.vm;
    yield* writeLock(kvm.mmuLock);
    yield* ops.zapAll();
    yield* writeUnlock(kvm.mmuLock);
    for (const vcpu of vcpus) yield* ops.unload(vcpu);
    if (shadow === null) yield* kvmMmuUninitTdpMmu(tdp);
  }

  // --- what there is to be seen --------------------------------------------------------------------------------------

  private vcpuOf(vcpu: number): Vcpu {
    return this.vm.vcpus[vcpu] as Vcpu;
  }

  guest(vcpu: number): GuestCpu {
    return this.vcpuOf(vcpu).guest;
  }

  get vcpus(): number {
    return this.vm.vcpus.length;
  }

  slots(): readonly SlotDescription[] {
    const { memslots } = this.vm.kvm;
    return memslots.slotsOf(memslots.setAt(memslots.active.peek())).map((slot) => ({
      id: slot.id.peek(),
      baseGfn: gfn(slot.base_gfn.peek()),
      npages: slot.npages.peek(),
      userspaceAddr: hva(slot.userspace_addr.peek()),
      flags: slot.flags.peek(),
    }));
  }

  slotAt(addr: Hva): SlotDescription | null {
    const found = this.slots().find(({ userspaceAddr, npages }) => {
      const index = (addr - userspaceAddr) / PAGE_SIZE;
      return index >= 0 && index < npages;
    });
    return found ?? null;
  }

  count(event: StatEvent): void {
    const counters = event.vcpu === null ? this.counters.vm : this.counters.vcpu[event.vcpu];
    (counters as Record<string, number>)[event.stat] = (counters?.[event.stat] ?? 0) + event.delta;
  }

  stats(): Stats {
    return statsOf(this.counters);
  }

  leaves(): readonly string[] {
    const { vm, world } = this;
    const { shadow } = vm;
    const isShadow = shadow !== null && !this.params.npt;
    const roots = vm.vcpus.map((vcpu) => ({
      hpa: vcpu.rootHpa.peek(),
      levels: isShadow ? hardwareLevels(vcpu, shadow) : NESTED_LEVELS,
    }));
    return tdpLeaves(world, roots, this.layout);
  }
}

const EINTR = 4;
/** Levels of nested tables. */
const NESTED_LEVELS = 4;

/** What the kernel takes for true. "auto" is false: the modelled CPU does not have the erratum. */
function isOn(value: string): boolean {
  return /^(?:y|1|on|force)/i.test(value);
}
