/**
 * struct kvm_vcpu, and the loop that runs the guest on it.
 *
 * Stands for vcpu_enter_guest() and vcpu_run() of 6.12 and 7.2, as far as the MMU can tell:
 *
 *     requests: flush, ...          SRCU read-side held
 *     load a root if there is none
 *     interrupts off
 *     mode = IN_GUEST_MODE
 *     leave SRCU (full barrier)
 *     a request came in meanwhile?  back out
 *     run the guest
 *     mode = OUTSIDE_GUEST_MODE, interrupts on, SRCU
 *     handle the exit
 */
import {
  type Cell as CellType,
  cell,
  deepCall,
  load,
  type Steps,
  startLoop,
  store,
  type World,
} from "../engine/index.ts";
import { srcuReadLock, srcuReadUnlock } from "../kernel/index.ts";
import {
  type Gpa,
  GuestCpu,
  type GuestInstruction,
  gpaToGfn,
  type Hpa,
  maskInterrupts,
  NO_PAGING,
  PAGE_SIZE,
  type PagingMode,
  PML_LOG_NR_ENTRIES,
  unmaskInterrupts,
  type VmExit,
  vmrun,
} from "../machine/index.ts";
import { kvmVcpuUpdateApicv, vmxSetApicAccessPageAddr } from "./apic-access.ts";
import { kvmVcpuMarkPageDirty } from "./dirty-log.ts";
import { DirtyRing, kvmDirtyRingCheckRequest } from "./dirty-ring.ts";
import {
  completeEmulatedMmio,
  type PendingMmio,
  x86DecodeEmulatedInstruction,
  x86EmulateInstruction,
} from "./emulate.ts";
import { completeInterrupts, injectException, type QueuedException } from "./exception.ts";
import { traceEntry, traceExit } from "./exit-trace.ts";
import { GfnToPfnCache } from "./gfn-to-pfn-cache.ts";
import { kvmGuestTimeUpdate, kvmWriteSystemTime, MSR_KVM_SYSTEM_TIME_NEW } from "./kvm-clock.ts";
import { kvmMmuPageFault } from "./mmu.ts";
import { INVALID_ROOT } from "./mmu-roots.ts";
import {
  IN_GUEST_MODE,
  KVM_REQ_APIC_PAGE_RELOAD,
  KVM_REQ_APICV_UPDATE,
  KVM_REQ_CLOCK_UPDATE,
  KVM_REQ_MMU_FREE_OBSOLETE_ROOTS,
  KVM_REQ_MMU_SYNC,
  KVM_REQ_STEAL_UPDATE,
  KVM_REQ_TLB_FLUSH,
  KVM_REQ_TLB_FLUSH_CURRENT,
  KVM_REQ_TLB_FLUSH_GUEST,
  kvmCheckRequest,
  kvmMakeRequest,
  OUTSIDE_GUEST_MODE,
} from "./requests.ts";
import { hardwareLevels } from "./shadow/roots.ts";
import { kvmMmuSyncPrevRoots, kvmMmuSyncRoots } from "./shadow/sync.ts";
import { recordStealTime } from "./steal-time.ts";
import type { StatEvent } from "./trace.ts";
import { VcpuMmu } from "./vcpu-mmu.ts";
import type { Vm } from "./vm.ts";

export class Vcpu {
  readonly vm: Vm;
  readonly id: number;
  /** The physical CPU that its thread runs on. */
  readonly cpu: number;
  readonly requests: CellType;
  readonly mode: CellType;
  /** mmu->root.hpa, its own thread's business. */
  readonly rootHpa: CellType;
  readonly mmu: VcpuMmu;
  /** vcpu->arch.mmio_gva, mmio_access, mmio_gfn and mmio_gen: the last frame that was found to be MMIO, its own thread's business. */
  readonly mmioGva: CellType;
  readonly mmioAccess: CellType;
  readonly mmioGfn: CellType;
  readonly mmioGen: CellType;
  /** vcpu->arch.pv_time: the page of its kvm-clock. */
  readonly pvTime: GfnToPfnCache;
  /** vcpu->arch.st: where its guest has struct kvm_steal_time; null when it has not asked for that. */
  stealTime: Gpa | null = null;
  /** Null when the VM logs writes in bitmaps, or not at all. */
  readonly dirtyRing: DirtyRing | null;
  /** The CPU that it is on while in guest mode, its own thread's business. */
  guest: GuestCpu;
  /** What the VMM has to do before the vCPU can go on. */
  mmio: PendingMmio | null = null;
  /**
   * is_guest_mode(): it runs a guest of its guest, on the tables of its guest, so on a root of its own over the same memory. What else nested guests need
   * is not modelled.
   */
  guestMode = false;
  /** vcpu->arch.exception */
  exception: QueuedException | null = null;

  constructor(vm: Vm, id: number, cpu: number) {
    this.vm = vm;
    this.id = id;
    this.cpu = cpu;
    this.requests = cell(vm.world, `vcpu${id}->requests`);
    this.mode = cell(vm.world, `vcpu${id}->mode`);
    this.rootHpa = cell(vm.world, `vcpu${id}->mmu->root.hpa`);
    this.mmu = new VcpuMmu(vm.world, id, this.rootHpa);
    this.mmioGva = cell(vm.world, `vcpu${id}->arch.mmio_gva`);
    this.mmioAccess = cell(vm.world, `vcpu${id}->arch.mmio_access`);
    this.mmioGfn = cell(vm.world, `vcpu${id}->arch.mmio_gfn`);
    this.mmioGen = cell(vm.world, `vcpu${id}->arch.mmio_gen`);
    this.pvTime = new GfnToPfnCache(vm.kvm, `vcpu${id}->arch.pv_time`);
    const { dirtyRingSize } = vm.kvm;
    const ring = { bytes: dirtyRingSize, reserved: vm.kvm.variants.pml ? PML_LOG_NR_ENTRIES : 0 };
    this.dirtyRing = dirtyRingSize > 0 ? new DirtyRing(vm.world, id, ring, this.requests) : null;
    this.guest = this.newGuestCpu(NO_PAGING);
  }

  private newGuestCpu(mode: PagingMode): GuestCpu {
    const { interrupts, tdp, kvm } = this.vm;
    const format = { ...tdp.layout.format, levels: tdp.rootLevel };
    return new GuestCpu(this.world, this.cpu, interrupts, mode, format, kvm.variants.pml);
  }

  get world(): World {
    return this.vm.world;
  }

  /** The thread that is to run it begins: nothing is cached. */
  reset(mode: PagingMode = NO_PAGING): void {
    this.guest = this.newGuestCpu(mode);
    this.mmio = null;
    this.exception = null;
    this.mmu.reset();
  }

  /** mmu->root_role.direct: a fault's address is guest-physical, with nested paging or without paging in the guest. */
  get isDirectMmu(): boolean {
    return this.vm.kvm.params.npt || !this.guest.mode.paging;
  }

  /** kvm_test_request(), by the vCPU's own thread. */
  hasRequest(request: number): boolean {
    return (this.requests.value & request) !== 0;
  }

  /** vcpu_clear_mmio_info(). @param gva null: whatever it is about */
  clearMmioInfo(gva: number | null): void {
    if (gva === null || this.mmioGva.value === gva - (gva % PAGE_SIZE)) this.mmioGva.value = 0;
  }

  count(stat: string): void {
    const event: StatEvent = { name: "stat", stat, vcpu: this.id, delta: 1 };
    this.world.emit(event);
  }
}

/** How KVM_RUN ended. */
export type RunResult =
  | "io"
  | "mmio"
  | "dirty-ring-full"
  | "done"
  | "guest-fault"
  | "efault"
  | "internal-error"
  | "gave-up";

/**
 * KVM_RUN: runs the instructions to the next OUT, or to their end.
 * @param instructions null: goes on with those of the last call, after the VMM has done what it was left for
 */
export function* kvmArchVcpuIoctlRun(vcpu: Vcpu, instructions: readonly GuestInstruction[] | null): Steps<RunResult> {
  const { guest } = vcpu;
  const { faultsMax } = vcpu.vm.kvm.variants;
  if (instructions !== null) guest.loadInstructions(instructions);
  // kvm_arch_vcpu_load()
  if (vcpu.stealTime !== null) yield* kvmMakeRequest(vcpu, KVM_REQ_STEAL_UPDATE);
  yield* srcuReadLock(vcpu.vm.kvm.srcu);
  let result: RunResult | null = vcpu.mmio === null ? null : yield* completeEmulatedMmio(vcpu, vcpu.mmio);
  let faults = 0;
  const again = startLoop(vcpu.world);
  for (let at = guest.next; result === null; ) {
    if (vcpu.world.comparesStates) again(at, Number.isFinite(faultsMax) ? faults : 0, ...positionOf(vcpu));
    const exit = yield* deepCall(vcpu.world, vcpuEnterGuest(vcpu));
    if (exit === null) continue;
    if (exit === "dirty-ring-full") {
      result = exit;
      break;
    }
    if (exit === "enospc") {
      vcpu.vm.emit({ name: "kvm_userspace_exit", reason: "error", code: ENOSPC });
      result = "efault";
      break;
    }
    if (guest.next !== at) faults = 0;
    at = guest.next;
    const isFault = exit.kind === "npf" || exit.kind === "page-fault";
    result = isFault && faults++ === faultsMax ? "gave-up" : yield* deepCall(vcpu.world, handleExit(vcpu, exit));
  }
  yield* srcuReadUnlock(vcpu.vm.kvm.srcu);
  return result;
}

/** What the rest of a run depends on besides memory: for the search of loops in which a guest gets nowhere. */
function positionOf({ guest, exception, mmu }: Vcpu): number[] {
  const { mode, lastRead } = guest;
  const numbers = [guest.next, guest.instructions === guest.handler?.code ? 1 : 0, lastRead.hi, lastRead.lo];
  numbers.push(mode.cr0, mode.cr3, mode.cr4, mode.efer, ...mmu.pdptes.flatMap(({ hi, lo }) => [hi, lo]));
  if (exception === null) numbers.push(0);
  else numbers.push(1, exception.event.errorCode, exception.event.address, exception.injected ? 1 : 0);
  return [...numbers, ...guest.pml.entries, ...guest.tlb.contents()];
}

/** The requests of vcpu_enter_guest(), in Linux's order; true when the vCPU has to leave to the VMM instead. */
function* handleRequests(vcpu: Vcpu): Steps<boolean> {
  if (vcpu.dirtyRing !== null && (yield* kvmDirtyRingCheckRequest(vcpu.dirtyRing))) return true;
  const { shadow, ops } = vcpu.vm;
  if (yield* kvmCheckRequest(vcpu, KVM_REQ_MMU_FREE_OBSOLETE_ROOTS)) yield* ops.freeObsoleteRoots(vcpu);
  if (yield* kvmCheckRequest(vcpu, KVM_REQ_CLOCK_UPDATE)) yield* kvmGuestTimeUpdate(vcpu);
  if ((yield* kvmCheckRequest(vcpu, KVM_REQ_MMU_SYNC)) && shadow !== null) yield* kvmMmuSyncRoots(vcpu, shadow);
  if (yield* kvmCheckRequest(vcpu, KVM_REQ_TLB_FLUSH)) {
    vcpu.count("tlb_flush");
    flushTlb(vcpu);
    // All includes its own.
    yield* kvmCheckRequest(vcpu, KVM_REQ_TLB_FLUSH_CURRENT);
  }
  if (yield* kvmCheckRequest(vcpu, KVM_REQ_TLB_FLUSH_CURRENT)) flushTlb(vcpu);
  if (yield* kvmCheckRequest(vcpu, KVM_REQ_TLB_FLUSH_GUEST)) yield* kvmVcpuFlushTlbGuest(vcpu);
  if (vcpu.stealTime !== null && (yield* kvmCheckRequest(vcpu, KVM_REQ_STEAL_UPDATE))) {
    if (yield* recordStealTime(vcpu)) yield* kvmVcpuFlushTlbGuest(vcpu);
  }
  if (vcpu.vm.kvm.apicAccess === null) return false;
  if (yield* kvmCheckRequest(vcpu, KVM_REQ_APIC_PAGE_RELOAD)) yield* vmxSetApicAccessPageAddr(vcpu);
  if (yield* kvmCheckRequest(vcpu, KVM_REQ_APICV_UPDATE)) yield* kvmVcpuUpdateApicv(vcpu);
  return false;
}

/** kvm_vcpu_flush_tlb_guest(): the guest's own flush of everything, in all of its address spaces. */
function* kvmVcpuFlushTlbGuest(vcpu: Vcpu): Steps<void> {
  const { shadow } = vcpu.vm;
  vcpu.count("tlb_flush");
  if (shadow !== null && !vcpu.vm.kvm.params.npt) {
    yield* kvmMmuSyncRoots(vcpu, shadow);
    yield* kvmMmuSyncPrevRoots(vcpu, shadow);
  }
  flushTlb(vcpu);
}

/** vcpu_enter_guest(), up to the exit; null when a request kept it from entering. */
function* vcpuEnterGuest(vcpu: Vcpu): Steps<VmExit | "dirty-ring-full" | "enospc" | null> {
  const { guest } = vcpu;
  const { kvm, interrupts, ops } = vcpu.vm;
  if ((yield* load(vcpu.requests)) !== 0 && (yield* handleRequests(vcpu))) return "dirty-ring-full";
  injectException(vcpu);
  if (vcpu.rootHpa.value === INVALID_ROOT) {
    if (!(yield* ops.load(vcpu))) return "enospc";
    flushTlb(vcpu);
  }
  setHardwareRoot(vcpu);
  yield* maskInterrupts(interrupts, vcpu.cpu);
  const leavesLast = !kvm.lacks("enter-guest-mode-without-full-fence/vcpu");
  if (!leavesLast) yield* srcuReadUnlock(kvm.srcu);
  yield* store(vcpu.mode, IN_GUEST_MODE);
  // Leaving SRCU is a full barrier: the mode is visible before the requests are read.
  if (leavesLast) yield* srcuReadUnlock(kvm.srcu);
  const requested = (yield* load(vcpu.requests)) !== 0 || (yield* load(vcpu.mode)) !== IN_GUEST_MODE;
  if (!requested) traceEntry(vcpu);
  const exit = requested ? null : yield* runInGuest(vcpu);
  if (exit !== null) {
    completeInterrupts(vcpu);
    vcpu.count("exits");
    traceExit(vcpu, exit);
  }
  yield* store(vcpu.mode, OUTSIDE_GUEST_MODE);
  yield* unmaskInterrupts(interrupts, vcpu.cpu);
  yield* srcuReadLock(kvm.srcu);
  if (guest.pml.entries.length > 0) yield* vmxFlushPmlBuffer(vcpu);
  return exit;
}

/** From the entry to the exit. An interrupt is not kept waiting by the guest: it makes the CPU leave it. */
function* runInGuest({ guest, world }: Vcpu): Steps<VmExit> {
  const { clock } = world;
  clock?.leave("irqs-off");
  clock?.enter("guest");
  const exit = yield* deepCall(world, vmrun(guest));
  clock?.leave("guest");
  clock?.enter("irqs-off");
  // When the guest has nothing more to do, the measured part is over.
  if (exit.kind !== "done") clock?.spend("leave and enter the guest");
  return exit;
}

function flushTlb({ guest, world }: Vcpu): void {
  world.clock?.spend("flush a TLB");
  guest.tlb.flushAll();
}

/**
 * vmx_flush_pml_buffer(), first of all at every exit: a vCPU that is outside the guest has nothing in its log. The index counts down, and 6.12 reads from there
 * up, so the newest comes first; later kernels read in the order of the writes.
 */
function* vmxFlushPmlBuffer(vcpu: Vcpu): Steps<void> {
  const logged = vcpu.guest.pml.take();
  if (vcpu.vm.kvm.variants.kernel === "6.12") logged.reverse();
  for (const addr of logged) yield* kvmVcpuMarkPageDirty(vcpu, gpaToGfn(addr));
}

/** kvm_mmu_load_pgd(): what the hardware starts its walks from. */
export function setHardwareRoot(vcpu: Vcpu): void {
  const { guest } = vcpu;
  const { shadow } = vcpu.vm;
  const root = vcpu.rootHpa.value as Hpa;
  guest.nestedRoot = root;
  const isShadowed = shadow !== null && !vcpu.vm.kvm.params.npt;
  guest.shadow = isShadowed ? { hpa: root, levels: hardwareLevels(vcpu, shadow) } : null;
}

function* handleExit(vcpu: Vcpu, exit: VmExit): Steps<RunResult | null> {
  switch (exit.kind) {
    case "interrupt":
    case "pml-full":
      // handle_pml_full(): what the log had was taken at the exit, so there is room.
      return null;
    case "npf":
      // Of an EPT violation the exit qualification is traced, of a misconfiguration nothing.
      return yield* handlePageFault(vcpu, exit.gpa, exit.errorCode, exit.reported);
    case "page-fault":
      return yield* handlePageFault(vcpu, exit.gva, exit.errorCode, exit.errorCode);
    case "intercept":
      return yield* handleIntercept(vcpu, exit.instruction);
    case "io":
      vcpu.vm.emit({ name: "kvm_userspace_exit", reason: "KVM_EXIT_IO", code: 2 });
      return "io";
    default:
      return exit.kind;
  }
}

/** npf_interception(), pf_interception(). @param reported what the trace says of it; null: nothing */
function* handlePageFault(
  vcpu: Vcpu,
  address: number,
  errorCode: number,
  reported: number | null,
): Steps<RunResult | null> {
  const { rip } = vcpu.guest;
  if (reported !== null) vcpu.vm.emit({ name: "kvm_page_fault", vcpu: vcpu.id, rip, address, errorCode: reported });
  vcpu.world.clock?.enter("page fault");
  vcpu.world.clock?.spend("handle a page fault");
  const { kind, allowRetry, writeToShadowPgtable } = yield* deepCall(
    vcpu.world,
    kvmMmuPageFault(vcpu, address, errorCode),
  );
  vcpu.world.clock?.leave("page fault");
  if (kind === "emulate")
    return yield* x86EmulateInstruction(vcpu, { addr: address, allowRetry, writeToShadowPgtable });
  if (kind === "resume") return null;
  vcpu.vm.emit({ name: "kvm_userspace_exit", reason: "error", code: EFAULT });
  return "efault";
}

/** cr_interception(), invlpg_interception(), msr_interception(), without decode assists. */
function* handleIntercept(vcpu: Vcpu, { action }: GuestInstruction): Steps<RunResult | null> {
  if (action.kind !== "wrmsr") return yield* x86EmulateInstruction(vcpu, null);
  if (action.msr === MSR_KVM_SYSTEM_TIME_NEW) yield* kvmWriteSystemTime(vcpu, action.value);
  // kvm_skip_emulated_instruction(): the processor does not say where the next one is.
  yield* x86DecodeEmulatedInstruction(vcpu);
  vcpu.guest.next++;
  return null;
}

const EFAULT = 14;
const ENOSPC = 28;
