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
 *
 * The guest is a list of instructions. Each fetches its own code and makes at most one data access, through the TLB or by a walk; one that
 * faults is left without effect and is run again after the exit. An interrupt is noticed between instructions.
 */
import { Cell, type Cell as CellType, cell, load, type Steps, store, type World } from "../engine/index.ts";
import { srcuReadLock, srcuReadUnlock } from "../kernel/index.ts";
import {
  type AccessKind,
  type Gpa,
  type Gva,
  guestWalk,
  type Hpa,
  isInterrupted,
  maskInterrupts,
  type PagingMode,
  Tlb,
  unmaskInterrupts,
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

  constructor(vm: Vm, id: number, cpu: number) {
    this.vm = vm;
    this.id = id;
    this.cpu = cpu;
    this.requests = cell(vm.world, `vcpu${id}->requests`);
    this.mode = cell(vm.world, `vcpu${id}->mode`);
    this.rootHpa = cell(vm.world, `vcpu${id}->mmu->root.hpa`);
  }

  get world(): World {
    return this.vm.world;
  }

  count(stat: string): void {
    const event: StatEvent = { name: "stat", stat, vcpu: this.id, delta: 1 };
    this.world.emit(event);
  }
}

/** One data access of an instruction. */
export interface GuestAccess {
  readonly gva: Gva;
  readonly kind: AccessKind;
  readonly size: 1 | 4 | 8;
  /** What a write stores. */
  readonly value: number;
}

/** One instruction. */
export interface GuestInstruction {
  /** Guest-virtual address that it is fetched from; null for a guest whose code is not modelled. */
  readonly rip: Gva | null;
  /** Reported as the RIP of faults when the code itself is not modelled. */
  readonly reportedRip: number;
  readonly user: boolean;
  readonly access: GuestAccess | null;
  /** An OUT: leaves to the VMM. */
  readonly exits: boolean;
}

/** What the guest has cached and how far it is: its thread's own state. */
export class GuestContext {
  readonly vcpu: Vcpu;
  readonly tlb = new Tlb();
  mode: PagingMode;
  instructions: readonly GuestInstruction[] = [];
  next = 0;
  /** Value of the last read. */
  lastRead = 0;
  /** Faults taken on the instruction at hand. */
  faults = 0;

  constructor(vcpu: Vcpu, mode: PagingMode) {
    this.vcpu = vcpu;
    this.mode = mode;
  }
}

type Exit =
  | { readonly kind: "io" }
  | { readonly kind: "interrupt" }
  | { readonly kind: "done" }
  | { readonly kind: "npf"; readonly gpa: Gpa; readonly errorCode: number; readonly rip: number }
  | { readonly kind: "guest-fault"; readonly gva: Gva; readonly errorCode: number };

/** How KVM_RUN ended. */
export type RunResult = "io" | "done" | "guest-fault" | "efault" | "gave-up";

/** KVM_RUN: runs the instructions to the next OUT, or to their end. */
export function* kvmArchVcpuIoctlRun(guest: GuestContext): Steps<RunResult> {
  const { vcpu } = guest;
  yield* srcuReadLock(vcpu.vm.kvm.srcu);
  let result: RunResult | null = null;
  while (result === null) {
    const exit = yield* vcpuEnterGuest(guest);
    if (exit !== null) result = yield* handleExit(guest, exit);
  }
  yield* srcuReadUnlock(vcpu.vm.kvm.srcu);
  return result;
}

/** vcpu_enter_guest(), up to the exit; null when a request kept it from entering. */
function* vcpuEnterGuest(guest: GuestContext): Steps<Exit | null> {
  const { vcpu } = guest;
  const { kvm, interrupts } = vcpu.vm;
  if (yield* kvmCheckRequest(vcpu, KVM_REQ_TLB_FLUSH)) {
    vcpu.count("tlb_flush");
    guest.tlb.flushAll();
  }
  if (vcpu.rootHpa.value === INVALID_ROOT) {
    yield* kvmMmuLoad(vcpu);
    guest.tlb.flushAll();
  }
  yield* maskInterrupts(interrupts, vcpu.cpu);
  yield* store(vcpu.mode, IN_GUEST_MODE);
  // Leaving SRCU is a full barrier: the mode is visible before the requests are read.
  yield* srcuReadUnlock(kvm.srcu);
  const requested = (yield* load(vcpu.requests)) !== 0 || (yield* load(vcpu.mode)) !== IN_GUEST_MODE;
  const exit = requested ? null : yield* runGuest(guest);
  if (exit !== null) vcpu.count("exits");
  yield* store(vcpu.mode, OUTSIDE_GUEST_MODE);
  yield* unmaskInterrupts(interrupts, vcpu.cpu);
  yield* srcuReadLock(kvm.srcu);
  return exit;
}

function* handleExit(guest: GuestContext, exit: Exit): Steps<RunResult | null> {
  switch (exit.kind) {
    case "interrupt":
      return null;
    case "npf": {
      const { gpa, errorCode, rip } = exit;
      guest.vcpu.vm.emit({ name: "kvm_page_fault", vcpu: guest.vcpu.id, rip, address: gpa, errorCode });
      if (guest.faults++ === guest.vcpu.vm.kvm.variants.faultsMax) return "gave-up";
      return (yield* kvmMmuPageFault(guest.vcpu, gpa, errorCode)) ? null : "efault";
    }
    case "io":
      guest.vcpu.vm.emit({ name: "kvm_userspace_exit", reason: "KVM_EXIT_IO", code: 2 });
      return "io";
    default:
      return exit.kind;
  }
}

// --- the guest -------------------------------------------------------------------------------------------------------

/** Runs the guest to an exit. */
function* runGuest(guest: GuestContext): Steps<Exit> {
  const { vcpu } = guest;
  for (;;) {
    if (yield* isInterrupted(vcpu.vm.interrupts, vcpu.cpu)) return { kind: "interrupt" };
    const instruction = guest.instructions[guest.next];
    if (instruction === undefined) return { kind: "done" };
    const exit = yield* execute(guest, instruction);
    if (exit !== null) return exit;
    guest.next++;
    guest.faults = 0;
    if (instruction.exits) return { kind: "io" };
  }
}

/** One instruction; an exit leaves it to be run again. */
function* execute(guest: GuestContext, instruction: GuestInstruction): Steps<Exit | null> {
  const { rip, reportedRip, access, user } = instruction;
  if (rip !== null) {
    const fetched = yield* translate(guest, rip, "exec", user, reportedRip);
    if (typeof fetched !== "number") return fetched;
  }
  if (access === null) return null;
  const place = yield* translate(guest, access.gva, access.kind, user, reportedRip);
  if (typeof place !== "number") return place;
  // The translation may be stale by now: whether the page may still be touched is what the isolation oracle checks.
  const data = new Cell<number>(guest.vcpu.world, place - (place % access.size), access.size, false);
  if (access.kind === "write")
    yield* store(data, access.value, `guest: write gfn 0x${Math.floor(access.gva / 4096).toString(16)}`);
  else guest.lastRead = yield* load(data, `guest: read gfn 0x${Math.floor(access.gva / 4096).toString(16)}`);
  return null;
}

function* translate(guest: GuestContext, addr: Gva, kind: AccessKind, user: boolean, rip: number): Steps<Hpa | Exit> {
  const cached = guest.tlb.lookup(addr, kind);
  if (cached !== null) return cached;
  const root = guest.vcpu.rootHpa.value as Hpa;
  const found = yield* guestWalk(guest.vcpu.world, root, guest.mode, addr, kind, user);
  if (found.kind === "nested-fault") return { kind: "npf", gpa: found.gpa, errorCode: found.errorCode, rip };
  if (found.kind === "guest-fault") return { kind: "guest-fault", gva: found.gva, errorCode: found.errorCode };
  guest.tlb.fill(addr, kind, found);
  return found.hpa;
}

/** A guest without paging whose code is not modelled: what a scenario runs. */
export function flatGuest(vcpu: Vcpu): GuestContext {
  return new GuestContext(vcpu, { paging: false, cr3: 0 as Gpa, wp: true, nx: true });
}

/** An instruction of a flat guest that accesses the first bytes of a guest frame. */
export function touch(frame: number, kind: "read" | "write"): GuestInstruction {
  const access: GuestAccess = { gva: (frame * 4096) as Gva, kind, size: 8, value: 1 };
  return { rip: null, reportedRip: 0, user: false, access, exits: false };
}
