/**
 * Emulation, as far as the MMU hands instructions to it: loads, stores and locked increments of addresses that no page may be mapped at.
 *
 *     x86_emulate_instruction
 *       decode      the processor does not say what it was, so the bytes are fetched through the guest's page tables
 *       load        no memslot has it: KVM_EXIT_MMIO; when the VMM comes back with the data the instruction is finished
 *       store       the same, without an answer; to a read-only memslot as well
 *
 * The instruction is the one that the guest was at: what the modelled CPU would do with it, done by KVM. Stands for x86_emulate_instruction(),
 * emulator_read_write(), complete_emulated_mmio() of 6.12 and 7.2, on a processor without decode assists and next-RIP saving.
 */
import { addU64, type Steps, type U64, U64_ZERO } from "../engine/index.ts";
import {
  type Gpa,
  type GuestAction,
  type GuestInstruction,
  PFERR_FETCH,
  PFERR_USER,
  PFERR_WRITE,
} from "../machine/index.ts";
import { kvmMmuGvaToGpa } from "./gva-to-gpa.ts";
import { vcpuMatchMmioGpa } from "./mmio.ts";
import type { Vcpu } from "./vcpu.ts";

type AccessAction = GuestAction & { readonly kind: "access" };

/** What KVM waits for from the VMM: struct kvm_run's mmio, and how the instruction goes on. */
export interface PendingMmio {
  readonly gpa: Gpa;
  readonly action: AccessAction;
  readonly isWrite: boolean;
  /** What the VMM answers to a read, or what is written. */
  data: U64;
}

/** How KVM_RUN goes on after an instruction was emulated: null to enter the guest again. */
export type EmulationResult = "mmio" | "gave-up" | null;

/** x86_decode_emulated_instruction(): fetches the instruction at hand. */
export function* x86DecodeEmulatedInstruction(vcpu: Vcpu): Steps<void> {
  const instruction = vcpu.guest.instructions[vcpu.guest.next] as GuestInstruction;
  const rip = instruction.rip ?? 0;
  const user = instruction.cpl === 3 ? PFERR_USER : 0;
  if (instruction.rip !== null) yield* kvmMmuGvaToGpa(vcpu, instruction.rip, PFERR_FETCH + user);
  const mode = vcpu.guest.longMode ? "prot64" : "prot32";
  vcpu.vm.emit({ name: "kvm_emulate_insn", rip, bytes: instruction.bytes ?? "", mode });
  vcpu.count("insn_emulation");
}

/** x86_emulate_instruction() for a fault at `gpa`. */
export function* x86EmulateInstruction(vcpu: Vcpu, gpa: Gpa): Steps<EmulationResult> {
  yield* x86DecodeEmulatedInstruction(vcpu);
  const { action } = vcpu.guest.instructions[vcpu.guest.next] as GuestInstruction;
  // A fetch from where nothing can be mapped: real KVM gives up with an internal error.
  if (action.kind !== "access") return "gave-up";
  return yield* emulatorReadWrite(vcpu, gpa, action, action.access === "write");
}

/** emulator_read_write_onepage(): nothing is there to be read or written, so the VMM has to do it. */
function* emulatorReadWrite(vcpu: Vcpu, gpa: Gpa, action: AccessAction, isWrite: boolean): Steps<EmulationResult> {
  if (yield* vcpuMatchMmioGpa(vcpu, gpa)) vcpu.vm.emit({ name: "vcpu_match_mmio", gva: action.gva, gpa, isWrite });
  const data = isWrite ? action.value : U64_ZERO;
  vcpu.vm.emit({ name: "kvm_mmio", kind: isWrite ? "write" : "unsatisfied-read", len: action.size, gpa, value: data });
  vcpu.count("mmio_exits");
  vcpu.mmio = { gpa, action, isWrite, data };
  vcpu.vm.emit({ name: "kvm_userspace_exit", reason: "KVM_EXIT_MMIO", code: 6 });
  return "mmio";
}

/** complete_emulated_mmio(): the VMM is back; the instruction ends, or goes on to its write. */
export function* completeEmulatedMmio(vcpu: Vcpu, pending: PendingMmio): Steps<EmulationResult> {
  const { gpa, action, data } = pending;
  vcpu.mmio = null;
  if (!pending.isWrite) {
    vcpu.vm.emit({ name: "kvm_mmio", kind: "read", len: action.size, gpa, value: data });
    vcpu.guest.lastRead = data;
    if (action.access === "rmw") {
      // A locked instruction: emulator_cmpxchg_emulated() looks for the page, and ends as a plain write.
      yield* kvmMmuGvaToGpa(vcpu, action.gva, PFERR_WRITE);
      return yield* emulatorReadWrite(vcpu, gpa, { ...action, value: addU64(data, action.value) }, true);
    }
  }
  vcpu.guest.next++;
  return null;
}
