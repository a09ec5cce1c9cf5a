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
import { type Cell as CellType, cell, load, type Steps, store, type World } from "../engine/index.ts";
import { srcuReadLock, srcuReadUnlock } from "../kernel/index.ts";
import {
  GuestCpu,
  type GuestInstruction,
  gpaToGfn,
  type Hpa,
  maskInterrupts,
  NO_PAGING,
  type PagingMode,
  unmaskInterrupts,
  type VmExit,
  vmrun,
} from "../machine/index.ts";
import { kvmVcpuMarkPageDirty } from "./dirty-log.ts";
import { DirtyRing, kvmDirtyRingCheckRequest } from "./dirty-ring.ts";
import {
  completeEmulatedMmio,
  type PendingMmio,
  x86DecodeEmulatedInstruction,
  x86EmulateInstruction,
} from "./emulate.ts";
import { GfnToPfnCache } from "./gfn-to-pfn-cache.ts";
import { kvmGuestTimeUpdate, kvmWriteSystemTime, MSR_KVM_SYSTEM_TIME_NEW } from "./kvm-clock.ts";
import { kvmMmuPageFault } from "./mmu.ts";
import { INVALID_ROOT, kvmMmuFreeObsoleteRoots, kvmMmuLoad } from "./mmu-roots.ts";
import {
  IN_GUEST_MODE,
  KVM_REQ_CLOCK_UPDATE,
  KVM_REQ_MMU_FREE_OBSOLETE_ROOTS,
  KVM_REQ_TLB_FLUSH,
  kvmCheckRequest,
  OUTSIDE_GUEST_MODE,
} from "./requests.ts";
import type { StatEvent } from "./trace.ts";
import type { Vm } from "./vm.ts";

/** Frames that the CPU may log between two exits. */
const PML_LOG_NR_ENTRIES = 512;

export class Vcpu {
  readonly vm: Vm;
  readonly id: number;
  /** The physical CPU that its thread runs on. */
  readonly cpu: number;
  readonly requests: CellType;
  readonly mode: CellType;
  /** mmu->root.hpa, its own thread's business. */
  readonly rootHpa: CellType;
  /** vcpu->arch.mmio_gfn and mmio_gen: the last frame that was found to be MMIO, its own thread's business. */
  readonly mmioGfn: CellType;
  readonly mmioGen: CellType;
  /** vcpu->arch.pv_time: the page of its kvm-clock. */
  readonly pvTime: GfnToPfnCache;
  /** Null when the VM logs writes in bitmaps, or not at all. */
  readonly dirtyRing: DirtyRing | null;
  /** The CPU that it is on while in guest mode, its own thread's business. */
  guest: GuestCpu;
  /** What the VMM has to do before the vCPU can go on. */
  mmio: PendingMmio | null = null;

  constructor(vm: Vm, id: number, cpu: number) {
    this.vm = vm;
    this.id = id;
    this.cpu = cpu;
    this.requests = cell(vm.world, `vcpu${id}->requests`);
    this.mode = cell(vm.world, `vcpu${id}->mode`);
    this.rootHpa = cell(vm.world, `vcpu${id}->mmu->root.hpa`);
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
    return new GuestCpu(this.world, this.cpu, interrupts, mode, tdp.layout.format, kvm.variants.pml);
  }

  get world(): World {
    return this.vm.world;
  }

  /** The thread that is to run it begins: nothing is cached. */
  reset(mode: PagingMode = NO_PAGING): void {
    this.guest = this.newGuestCpu(mode);
    this.mmio = null;
  }

  count(stat: string): void {
    const event: StatEvent = { name: "stat", stat, vcpu: this.id, delta: 1 };
    this.world.emit(event);
  }
}

/** How KVM_RUN ended. */
export type RunResult = "io" | "mmio" | "dirty-ring-full" | "done" | "guest-fault" | "efault" | "gave-up";

/**
 * KVM_RUN: runs the instructions to the next OUT, or to their end.
 * @param instructions null: goes on with those of the last call, after the VMM has done what it was left for
 */
export function* kvmArchVcpuIoctlRun(vcpu: Vcpu, instructions: readonly GuestInstruction[] | null): Steps<RunResult> {
  const { guest } = vcpu;
  const { faultsMax } = vcpu.vm.kvm.variants;
  if (instructions !== null) guest.loadInstructions(instructions);
  yield* srcuReadLock(vcpu.vm.kvm.srcu);
  let result: RunResult | null = vcpu.mmio === null ? null : yield* completeEmulatedMmio(vcpu, vcpu.mmio);
  let faults = 0;
  for (let at = guest.next; result === null; ) {
    const exit = yield* vcpuEnterGuest(vcpu);
    if (exit === null) continue;
    if (exit === "dirty-ring-full") {
      result = exit;
      break;
    }
    if (guest.next !== at) faults = 0;
    at = guest.next;
    result = exit.kind === "npf" && faults++ === faultsMax ? "gave-up" : yield* handleExit(vcpu, exit);
  }
  yield* srcuReadUnlock(vcpu.vm.kvm.srcu);
  return result;
}

/** The requests of vcpu_enter_guest(), in Linux's order; true when the vCPU has to leave to the VMM instead. */
function* handleRequests(vcpu: Vcpu): Steps<boolean> {
  if (vcpu.dirtyRing !== null && (yield* kvmDirtyRingCheckRequest(vcpu.dirtyRing))) return true;
  if (yield* kvmCheckRequest(vcpu, KVM_REQ_MMU_FREE_OBSOLETE_ROOTS)) yield* kvmMmuFreeObsoleteRoots(vcpu);
  if (yield* kvmCheckRequest(vcpu, KVM_REQ_CLOCK_UPDATE)) yield* kvmGuestTimeUpdate(vcpu);
  if (yield* kvmCheckRequest(vcpu, KVM_REQ_TLB_FLUSH)) {
    vcpu.count("tlb_flush");
    vcpu.guest.tlb.flushAll();
  }
  return false;
}

/** vcpu_enter_guest(), up to the exit; null when a request kept it from entering. */
function* vcpuEnterGuest(vcpu: Vcpu): Steps<VmExit | "dirty-ring-full" | null> {
  const { guest } = vcpu;
  const { kvm, interrupts } = vcpu.vm;
  if ((yield* load(vcpu.requests)) !== 0 && (yield* handleRequests(vcpu))) return "dirty-ring-full";
  if (vcpu.rootHpa.value === INVALID_ROOT) {
    yield* kvmMmuLoad(vcpu);
    guest.tlb.flushAll();
  }
  guest.nestedRoot = vcpu.rootHpa.value as Hpa;
  yield* maskInterrupts(interrupts, vcpu.cpu);
  yield* store(vcpu.mode, IN_GUEST_MODE);
  // Leaving SRCU is a full barrier: the mode is visible before the requests are read.
  yield* srcuReadUnlock(kvm.srcu);
  const requested = (yield* load(vcpu.requests)) !== 0 || (yield* load(vcpu.mode)) !== IN_GUEST_MODE;
  if (!requested) traceEntry(vcpu);
  const exit = requested ? null : yield* vmrun(guest);
  if (exit !== null) {
    vcpu.count("exits");
    traceExit(vcpu, exit);
  }
  yield* store(vcpu.mode, OUTSIDE_GUEST_MODE);
  yield* unmaskInterrupts(interrupts, vcpu.cpu);
  yield* srcuReadLock(kvm.srcu);
  if (guest.pml.length > 0) yield* vmxFlushPmlBuffer(vcpu);
  return exit;
}

/** vmx_flush_pml_buffer(), first of all at every exit: a vCPU that is outside the guest has nothing in its log. */
function* vmxFlushPmlBuffer(vcpu: Vcpu): Steps<void> {
  for (const addr of vcpu.guest.pml.splice(0)) yield* kvmVcpuMarkPageDirty(vcpu, gpaToGfn(addr));
}

function traceEntry(vcpu: Vcpu): void {
  if (!vcpu.vm.tracesExits) return;
  const rip = vcpu.guest.instructions[vcpu.guest.next]?.rip ?? 0;
  vcpu.vm.emit({ name: "kvm_entry", vcpu: vcpu.id, rip });
}

function traceExit(vcpu: Vcpu, exit: VmExit): void {
  if (!vcpu.vm.tracesExits || exit.kind === "done" || exit.kind === "guest-fault") return;
  const rip = vcpu.guest.instructions[vcpu.guest.next - (exit.kind === "io" ? 1 : 0)]?.rip ?? 0;
  const requests = vcpu.requests.peek();
  vcpu.vm.emit({ name: "kvm_exit", vcpu: vcpu.id, rip, requests, ...exitDetails(exit, rip) });
}

/** As SVM reports an exit: for a nested fault the error code and the address, for OUT the port and where the guest goes on. */
function exitDetails(
  exit: Exclude<VmExit, { readonly kind: "done" | "guest-fault" }>,
  rip: number,
): { readonly reason: string; readonly info1: number; readonly info2: number } {
  switch (exit.kind) {
    case "npf":
      return { reason: "npf", info1: exit.errorCode, info2: exit.gpa };
    case "io":
      return { reason: "io", info1: OUT_INFO, info2: rip + OUT_BYTES };
    case "msr":
      return { reason: "msr", info1: 1, info2: 0 };
    case "interrupt":
      return { reason: "interrupt", info1: 0, info2: 0 };
  }
}

/** Of the guest's OUT: one byte to port 0x10. */
const OUT_INFO = 0x100010;
const OUT_BYTES = 2;

function* handleExit(vcpu: Vcpu, exit: VmExit): Steps<RunResult | null> {
  switch (exit.kind) {
    case "interrupt":
      return null;
    case "npf": {
      const { gpa, errorCode, rip, reported } = exit;
      // Of an EPT violation the exit qualification is traced, of a misconfiguration nothing.
      if (reported !== null)
        vcpu.vm.emit({ name: "kvm_page_fault", vcpu: vcpu.id, rip, address: gpa, errorCode: reported });
      vcpu.world.clock?.enter("page fault");
      vcpu.world.clock?.spend("handle a page fault");
      const outcome = yield* kvmMmuPageFault(vcpu, gpa, errorCode);
      vcpu.world.clock?.leave("page fault");
      if (outcome === "emulate") return yield* x86EmulateInstruction(vcpu, gpa);
      if (outcome === "resume") return null;
      vcpu.vm.emit({ name: "kvm_userspace_exit", reason: "error", code: EFAULT });
      return "efault";
    }
    case "msr":
      if (exit.msr === MSR_KVM_SYSTEM_TIME_NEW) yield* kvmWriteSystemTime(vcpu, exit.value);
      // kvm_skip_emulated_instruction(): the processor does not say where the next one is.
      yield* x86DecodeEmulatedInstruction(vcpu);
      vcpu.guest.next++;
      return null;
    case "io":
      vcpu.vm.emit({ name: "kvm_userspace_exit", reason: "KVM_EXIT_IO", code: 2 });
      return "io";
    default:
      return exit.kind;
  }
}

const EFAULT = 14;
