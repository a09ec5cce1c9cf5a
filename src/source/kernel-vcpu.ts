/**
 * A vCPU of a compiled kernel: KVM_RUN of a workload, between the kernel's code (runtime/workload_x86.h) and the modelled CPU.
 *
 *     rw_enter_workload     requests, an exception for the guest, a root
 *     vmrun                 the guest: its own tables, the nested or shadow ones, its TLB
 *     rw_exit_workload      what was being delivered
 *     the exit              a fault, an instruction to emulate: the kernel's; OUT: the VMM's
 */

import type { DeviceAccess } from "../conform/index.ts";
import type { Steps } from "../engine/index.ts";
import { startLoop } from "../engine/index.ts";
import { entryEvent, exitEvent } from "../kvm/exit-trace.ts";
import type { KvmEvent } from "../kvm/trace.ts";
import type { RunResult } from "../kvm/vcpu.ts";
import {
  type GuestAction,
  type GuestCpu,
  type GuestInstruction,
  type Gva,
  type Hpa,
  PF_VECTOR,
  pagingModeOf,
  type VmExit,
  vmrun,
} from "../machine/index.ts";
import type { CompiledKernel } from "./machine.ts";

/** KVM_EXIT_MMIO, KVM_EXIT_INTERNAL_ERROR */
const EXIT_MMIO = 6;
const EXIT_INTERNAL_ERROR = 17;
/** What rw_enter_workload() returns. */
const AGAIN = 1;
const RING_FULL = 2;

/** MSR_KVM_SYSTEM_TIME_NEW */
const SYSTEM_TIME_NEW = 0x4b564d01;

/** Kinds of struct rw_instruction. */
const KIND = { nothing: 0, read: 1, write: 2, increment: 3, invlpg: 4, control: 5, unknown: 6 } as const;

export class KernelVcpu {
  readonly address: number;
  readonly id: number;
  readonly guest: GuestCpu;
  /** What KVM_RUN was left for. */
  device: DeviceAccess | null = null;
  /** The tracepoints kvm_entry and kvm_exit, which are the vendor module's, are on. */
  tracesExits = false;
  private readonly kernel: CompiledKernel;
  private readonly npt: boolean;
  private readonly pointer: bigint;
  private readonly instructionAt: number;

  constructor(kernel: CompiledKernel, address: number, id: number, guest: GuestCpu, npt: boolean) {
    this.kernel = kernel;
    this.address = address;
    this.id = id;
    this.guest = guest;
    this.npt = npt;
    this.pointer = BigInt(address);
    const bytes = kernel.image.description.structs["rw_instruction"]?.bytes ?? 0;
    this.instructionAt = kernel.addressOf("rw_instructions") + bytes * id;
  }

  /** KVM_RUN. */
  *run(instructions: readonly GuestInstruction[] | null): Steps<RunResult> {
    const { kernel, pointer, guest } = this;
    if (instructions !== null) guest.loadInstructions(instructions);
    yield* kernel.call("rw_run_begin", pointer);
    let result: RunResult | null = null;
    const again = startLoop(kernel.world);
    if (this.device !== null) {
      this.device = null;
      result = yield* this.handled("rw_complete_io");
    }
    while (result === null) {
      if (kernel.world.comparesStates) again(...this.position());
      result = yield* this.stay();
    }
    yield* kernel.call("rw_run_end", pointer);
    return result;
  }

  /** What the rest of a run depends on besides memory: for the search of loops in which a guest gets nowhere. */
  private position(): number[] {
    const { mode, lastRead, lastFault, handler, instructions, next, tlb } = this.guest;
    const fault = lastFault === null ? [0] : [1, lastFault.gva, lastFault.errorCode];
    const registers = [mode.cr0, mode.cr3, mode.cr4, mode.efer, lastRead.hi, lastRead.lo];
    return [next, instructions === handler?.code ? 1 : 0, ...registers, ...fault, ...tlb.contents()];
  }

  /** One stay in the guest. */
  private *stay(): Steps<RunResult | null> {
    const { kernel, pointer, guest } = this;
    this.describe();
    const entered = yield* kernel.call("rw_enter_workload", pointer);
    if (entered === AGAIN) return null;
    if (entered === RING_FULL) {
      yield* kernel.call("rw_userspace_exit", pointer, 0);
      return "dirty-ring-full";
    }
    if (entered !== 0) {
      yield* kernel.call("rw_userspace_exit", pointer, entered);
      return "efault";
    }
    const root = (yield* kernel.call("rw_root", pointer)) as Hpa;
    guest.nestedRoot = root;
    const levels = yield* kernel.call("rw_root_levels", pointer);
    guest.shadow = this.npt ? null : { hpa: root, levels: levels === 5 ? 5 : levels === 4 ? 4 : 3 };
    const injected = yield* kernel.call("rw_injected", pointer);
    const address = (yield* kernel.call("rw_cr2", pointer)) as Gva;
    guest.eventInjection = injected < 0 ? null : { vector: PF_VECTOR, errorCode: injected, address };
    if (this.tracesExits) kernel.world.emit(entryEvent(this));
    const exit = yield* vmrun(guest);
    this.traceExit(exit);
    if (guest.lastFault !== null)
      kernel.write(this.address + kernel.offsetOf("kvm_vcpu", "arch.cr2"), 8, guest.lastFault.gva);
    yield* kernel.call("rw_exit_workload", pointer, BigInt(guest.exitEvent?.errorCode ?? -1));
    return yield* this.handleExit(exit);
  }

  private traceExit(exit: VmExit): void {
    const { kernel, address } = this;
    if (!this.tracesExits) return;
    const requests = kernel.peek(address + kernel.offsetOf("kvm_vcpu", "requests"), 8);
    const event = exitEvent(this, requests, exit);
    if (event !== null) kernel.world.emit(event);
  }

  private *handleExit(exit: VmExit): Steps<RunResult | null> {
    switch (exit.kind) {
      case "interrupt":
      case "pml-full":
        return null;
      case "npf": {
        const { gpa, errorCode, reported } = exit;
        const words = [gpa, errorCode, reported ?? 0].map(BigInt);
        return yield* this.handled("rw_nested_fault", ...words, reported === null ? 0 : 1);
      }
      case "page-fault":
        return yield* this.handled("rw_shadow_fault", BigInt(exit.gva), BigInt(exit.errorCode));
      case "intercept":
        return yield* this.intercepted(exit.instruction.action);
      case "io": {
        const event: KvmEvent = { name: "kvm_userspace_exit", reason: "KVM_EXIT_IO", code: 2 };
        this.kernel.world.emit(event);
        return "io";
      }
      default:
        return exit.kind;
    }
  }

  private *intercepted(action: GuestAction): Steps<RunResult | null> {
    if (action.kind !== "wrmsr") return yield* this.handled("rw_intercept");
    if (action.msr === SYSTEM_TIME_NEW)
      yield* this.kernel.call("rw_write_system_time", this.pointer, BigInt(action.value));
    return yield* this.handled("rw_skip_instruction");
  }

  /** The kernel handles an exit; what became of the instruction is the guest's again. */
  private *handled(name: string, ...args: readonly (number | bigint)[]): Steps<RunResult | null> {
    const { kernel, pointer, guest } = this;
    this.describe();
    const instruction = guest.instructions[guest.next];
    const result = yield* kernel.call(name, pointer, ...args);
    const rip = yield* kernel.call("rw_rip", pointer);
    if (rip !== guest.rip) guest.next++;
    this.takeRegisters(instruction?.action ?? { kind: "nothing" });
    if (result > 0) return null;
    yield* kernel.call("rw_userspace_exit", pointer, result);
    if (result < 0) return "efault";
    const reason = yield* kernel.call("rw_exit_reason", pointer);
    if (reason === EXIT_INTERNAL_ERROR) return "internal-error";
    if (reason !== EXIT_MMIO) return "gave-up";
    const isWrite = (yield* kernel.call("rw_mmio_is_write", pointer)) !== 0;
    this.device = { isWrite, size: yield* kernel.call("rw_mmio_len", pointer) };
    this.mmioData = yield* kernel.call("rw_mmio_data", pointer);
    return "mmio";
  }

  private mmioData = 0;

  answerDevice(lo: number, hi: number): void {
    this.kernel.poke(this.mmioData, 4, lo);
    this.kernel.poke(this.mmioData + 4, 4, hi);
  }

  private takeRegisters(action: GuestAction): void {
    const { kernel, guest, address } = this;
    if (action.kind === "access" && action.access !== "write") {
      const found = this.instructionAt + kernel.offsetOf("rw_instruction", "found");
      if (kernel.read(this.instructionAt + kernel.offsetOf("rw_instruction", "is_found"), 4) !== 0)
        guest.lastRead = kernel.readWide(found);
    }
    if (action.kind !== "mov-to-cr") return;
    const register = (name: string): number => kernel.read(address + kernel.offsetOf("kvm_vcpu", `arch.${name}`), 8);
    guest.mode = pagingModeOf({
      cr0: register("cr0"),
      cr3: register("cr3"),
      cr4: register("cr4"),
      efer: register("efer"),
    });
  }

  /** Tells the emulator what the instruction at hand does, and KVM where it is. */
  private describe(): void {
    const { kernel, guest } = this;
    const instruction = guest.instructions[guest.next];
    const action = instruction?.action ?? { kind: "nothing" };
    const set = (field: string, size: 4 | 8, value: number): void =>
      kernel.write(this.instructionAt + kernel.offsetOf("rw_instruction", field), size, value);
    set("user", 4, guest.cpl === 3 ? 1 : 0);
    set("is_fetched", 4, instruction?.rip == null ? 0 : 1);
    set("is_found", 4, 0);
    const bytes = (instruction?.bytes ?? "").split(" ").filter((byte) => byte !== "");
    const length = Math.max(1, bytes.length);
    set("length", 4, length);
    const at = this.instructionAt + kernel.offsetOf("rw_instruction", "bytes");
    for (let i = 0; i < length; i++) kernel.write(at + i, 1, Number.parseInt(bytes[i] ?? "0", 16));
    this.describeAction(action, set);
    if (instruction?.unemulatable) set("kind", 4, KIND.unknown);
    const regs = this.address + kernel.offsetOf("kvm_vcpu", "arch.regs");
    kernel.write(regs + 8 * RIP, 8, guest.rip);
  }

  private describeAction(action: GuestAction, set: (field: string, size: 4 | 8, value: number) => void): void {
    const { kernel } = this;
    set("kind", 4, KIND.nothing);
    switch (action.kind) {
      case "access": {
        const { access, gva, size, value } = action;
        set("kind", 4, access === "rmw" ? KIND.increment : KIND[access]);
        set("gva", 8, gva);
        set("size", 4, size);
        const word = this.instructionAt + kernel.offsetOf("rw_instruction", "value");
        kernel.write(word, 4, value.lo);
        kernel.write(word + 4, 4, value.hi);
        break;
      }
      case "invlpg":
        set("kind", 4, KIND.invlpg);
        set("gva", 8, action.gva);
        break;
      case "mov-to-cr":
        set("kind", 4, KIND.control);
        set("control", 4, action.register);
        set("value", 8, action.value);
        break;
      default:
    }
  }
}

/** VCPU_REGS_RIP */
const RIP = 16;
