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
  type Hpa,
  maskInterrupts,
  NO_PAGING,
  type PagingMode,
  unmaskInterrupts,
  type VmExit,
  vmrun,
} from "../machine/index.ts";
import { kvmMmuLoad, kvmMmuPageFault } from "./mmu.ts";
import { IN_GUEST_MODE, KVM_REQ_TLB_FLUSH, kvmCheckRequest, OUTSIDE_GUEST_MODE } from "./requests.ts";
import type { StatEvent } from "./trace.ts";
import type { Vm } from "./vm.ts";

/** root.hpa of a vCPU without a root. */
export const INVALID_ROOT = 0;

export class Vcpu {
  readonly vm: Vm;
  readonly id: number;
  /** The physical CPU that its thread runs on. */
  readonly cpu: number;
  readonly requests: CellType;
  readonly mode: CellType;
  /** mmu->root.hpa, its own thread's business. */
  readonly rootHpa: CellType;
  /** The CPU that it is on while in guest mode, its own thread's business. */
  guest: GuestCpu;

  constructor(vm: Vm, id: number, cpu: number) {
    this.vm = vm;
    this.id = id;
    this.cpu = cpu;
    this.requests = cell(vm.world, `vcpu${id}->requests`);
    this.mode = cell(vm.world, `vcpu${id}->mode`);
    this.rootHpa = cell(vm.world, `vcpu${id}->mmu->root.hpa`);
    this.guest = new GuestCpu(vm.world, cpu, vm.interrupts, NO_PAGING);
  }

  get world(): World {
    return this.vm.world;
  }

  /** The thread that is to run it begins: nothing is cached. */
  reset(mode: PagingMode = NO_PAGING): void {
    this.guest = new GuestCpu(this.world, this.cpu, this.vm.interrupts, mode);
  }

  count(stat: string): void {
    const event: StatEvent = { name: "stat", stat, vcpu: this.id, delta: 1 };
    this.world.emit(event);
  }
}

/** How KVM_RUN ended. */
export type RunResult = "io" | "done" | "guest-fault" | "efault" | "gave-up";

/** KVM_RUN: runs the instructions to the next OUT, or to their end. */
export function* kvmArchVcpuIoctlRun(vcpu: Vcpu, instructions: readonly GuestInstruction[]): Steps<RunResult> {
  const { guest } = vcpu;
  const { faultsMax } = vcpu.vm.kvm.variants;
  guest.loadInstructions(instructions);
  yield* srcuReadLock(vcpu.vm.kvm.srcu);
  let result: RunResult | null = null;
  let faults = 0;
  for (let at = 0; result === null; ) {
    const exit = yield* vcpuEnterGuest(vcpu);
    if (exit === null) continue;
    if (guest.next !== at) faults = 0;
    at = guest.next;
    result = exit.kind === "npf" && faults++ === faultsMax ? "gave-up" : yield* handleExit(vcpu, exit);
  }
  yield* srcuReadUnlock(vcpu.vm.kvm.srcu);
  return result;
}

/** vcpu_enter_guest(), up to the exit; null when a request kept it from entering. */
function* vcpuEnterGuest(vcpu: Vcpu): Steps<VmExit | null> {
  const { guest } = vcpu;
  const { kvm, interrupts } = vcpu.vm;
  if (yield* kvmCheckRequest(vcpu, KVM_REQ_TLB_FLUSH)) {
    vcpu.count("tlb_flush");
    guest.tlb.flushAll();
  }
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
  const exit = requested ? null : yield* vmrun(guest);
  if (exit !== null) vcpu.count("exits");
  yield* store(vcpu.mode, OUTSIDE_GUEST_MODE);
  yield* unmaskInterrupts(interrupts, vcpu.cpu);
  yield* srcuReadLock(kvm.srcu);
  return exit;
}

function* handleExit(vcpu: Vcpu, exit: VmExit): Steps<RunResult | null> {
  switch (exit.kind) {
    case "interrupt":
      return null;
    case "npf": {
      const { gpa, errorCode, rip } = exit;
      vcpu.vm.emit({ name: "kvm_page_fault", vcpu: vcpu.id, rip, address: gpa, errorCode });
      return (yield* kvmMmuPageFault(vcpu, gpa, errorCode)) ? null : "efault";
    }
    case "io":
      vcpu.vm.emit({ name: "kvm_userspace_exit", reason: "KVM_EXIT_IO", code: 2 });
      return "io";
    default:
      return exit.kind;
  }
}
