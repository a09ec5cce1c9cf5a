/**
 * Emulation, as far as the MMU hands instructions to it: loads, stores and locked increments of addresses that no page may be mapped at, or whose
 * writes KVM must see; and the instructions that change the guest's paging.
 *
 *     x86_emulate_instruction
 *       decode      the processor does not say what it was, so the bytes are fetched through the guest's page tables
 *       retry?      a write to a shadowed table by an instruction that hardly writes page tables: its shadow pages go, the guest tries again
 *       load        guest memory, or no memslot has it: KVM_EXIT_MMIO; when the VMM comes back with the data the instruction is finished
 *       store       the same; a write to guest memory is followed by a look at what is shadowed there (shadow/track-write.ts)
 *
 * The instruction is the one that the guest was at: what the modelled CPU would do with it, done by KVM. Stands for x86_emulate_instruction(),
 * emulator_read_write(), emulator_cmpxchg_emulated(), complete_emulated_mmio() of 6.12 and 7.2, on a processor without decode assists and
 * next-RIP saving.
 */
import { addU64, note, type Steps, sameU64, type U64, U64_ZERO, u64 } from "../engine/index.ts";
import { getUser, putUser, tryCmpxchgUser, type UserAccessSize } from "../kernel/index.ts";
import {
  bytesOf,
  type Gpa,
  type GuestAction,
  type GuestInstruction,
  type Gva,
  gpaToGfn,
  type Hva,
  type ObservedStore,
  PAGE_SIZE,
  PFERR_FETCH,
  PFERR_USER,
  PFERR_WRITE,
} from "../machine/index.ts";
import { kvmMmuInvlpg, kvmSetControlRegister } from "./control-registers.ts";
import { accessBits, permissionFault } from "./cpu-role.ts";
import { kvmVcpuMarkPageDirty } from "./dirty-log.ts";
import { kvmInjectEmulatedPageFault } from "./exception.ts";
import { gvaToGpa, type WalkFault } from "./guest-walk.ts";
import { gfnToHva, gfnToMemslot, isVisibleMemslot, memslotIsReadonly } from "./memslots.ts";
import { vcpuMatchMmioGpa, vcpuMatchMmioGva } from "./mmio.ts";
import { kvmMmuTrackWrite, kvmMmuUnprotectGfnAndRetry } from "./shadow/track-write.ts";
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
export type EmulationResult = "mmio" | "gave-up" | "internal-error" | null;

/** A fault that led here. */
export interface EmulatedFault {
  /** Guest-physical in a direct MMU, else guest-virtual. */
  readonly addr: number;
  /** EMULTYPE_ALLOW_RETRY_PF: the frame is write-protected because it is shadowed; perhaps it need not be. */
  readonly allowRetry: boolean;
  /** EMULTYPE_WRITE_PF_TO_SP: the frame's table is one of those on the way to it. */
  readonly writeToShadowPgtable: boolean;
}

/** x86_decode_emulated_instruction(): fetches the instruction at hand; the guest's own fault when it cannot. */
export function* x86DecodeEmulatedInstruction(vcpu: Vcpu): Steps<WalkFault | null> {
  const { guest } = vcpu;
  const instruction = guest.instructions[guest.next] as GuestInstruction;
  const rip = instruction.rip ?? 0;
  const user = instruction.cpl === 3 ? PFERR_USER : 0;
  if (instruction.rip !== null) {
    const fetched = yield* gvaToGpa(vcpu, instruction.rip, PFERR_FETCH + user);
    if (typeof fetched !== "number") return fetched;
  }
  const mode = guest.mode.longMode ? "prot64" : "prot32";
  vcpu.vm.emit({ name: "kvm_emulate_insn", rip, bytes: instruction.bytes ?? "", mode });
  vcpu.count("insn_emulation");
  return null;
}

/** x86_emulate_instruction(). @param fault null: the instruction itself was intercepted */
export function* x86EmulateInstruction(vcpu: Vcpu, fault: EmulatedFault | null): Steps<EmulationResult> {
  const { guest } = vcpu;
  const { shadow } = vcpu.vm;
  // kvm_clear_exception_queue(): what was being delivered is found again by whoever executes the instruction.
  vcpu.exception = null;
  const failed = yield* x86DecodeEmulatedInstruction(vcpu);
  if (failed !== null) return yield* propagateFault(vcpu, failed);
  const { action, unemulatable = false } = guest.instructions[guest.next] as GuestInstruction;
  if (unemulatable) return yield* emulationFailed(vcpu, fault);
  if (fault?.allowRetry && shadow !== null && !isPageTableWriting(action)) {
    if (yield* kvmMmuUnprotectGfnAndRetry(vcpu, shadow, fault.addr)) return null;
  }
  switch (action.kind) {
    case "access":
      return yield* emulateAccess(vcpu, action, vcpu.isDirectMmu && fault !== null ? (fault.addr as Gpa) : null);
    case "mov-to-cr":
      guest.next++;
      yield* kvmSetControlRegister(vcpu, action.register, action.value);
      guest.observer?.retired(action);
      return null;
    case "invlpg":
      guest.next++;
      yield* kvmMmuInvlpg(vcpu, action.gva);
      guest.observer?.retired(action);
      return null;
    default:
      // A fetch from where nothing can be mapped: real KVM gives up with an internal error.
      return "gave-up";
  }
}

/** KVM_EXIT_INTERNAL_ERROR */
const INTERNAL_ERROR = 17;

/** kvm_unprotect_and_retry_on_failure(), handle_emulation_failure() */
function* emulationFailed(vcpu: Vcpu, fault: EmulatedFault | null): Steps<EmulationResult> {
  yield* note(vcpu.world, "emulation fails");
  if (fault !== null && (yield* unprotectAndRetryOnFailure(vcpu, fault))) return null;
  vcpu.count("insn_emulation_fail");
  vcpu.vm.emit({ name: "kvm_userspace_exit", reason: "KVM_EXIT_INTERNAL_ERROR", code: INTERNAL_ERROR });
  return "internal-error";
}

/** kvm_unprotect_and_retry_on_failure(), reexecute_instruction() in its time: true when the guest runs the instruction once more. */
function* unprotectAndRetryOnFailure(vcpu: Vcpu, fault: EmulatedFault): Steps<boolean> {
  const { kvm, shadow } = vcpu.vm;
  const { failedEmulation } = kvm.variants;
  if (shadow === null || !fault.allowRetry) return false;
  // Its shadow pages would be made again by the walk to it: nothing would have changed.
  if (failedEmulation === "report" && fault.writeToShadowPgtable) return false;
  yield* kvmMmuUnprotectGfnAndRetry(vcpu, shadow, fault.addr, true);
  return failedEmulation !== "unprotect-then-report" || !fault.writeToShadowPgtable;
}

/** x86_page_table_writing_insn(): MOV to memory is; a locked increment is not. */
function isPageTableWriting(action: GuestAction): boolean {
  return action.kind === "access" && action.access === "write";
}

function* propagateFault(vcpu: Vcpu, fault: WalkFault): Steps<null> {
  yield* kvmInjectEmulatedPageFault(vcpu, fault);
  return null;
}

// --- memory ----------------------------------------------------------------------------------------------------------

/** @param gpa where the access that faulted goes, if that is known */
function* emulateAccess(vcpu: Vcpu, action: AccessAction, gpa: Gpa | null): Steps<EmulationResult> {
  const isWrite = action.access === "write";
  for (const piece of isWrite ? piecesOf(action) : [action]) {
    const result = yield* emulatorReadWrite(vcpu, piece, gpa, isWrite);
    if (result === "faulted") return null;
    if (result !== null) return result;
  }
  if (action.access !== "rmw") {
    vcpu.guest.next++;
    return null;
  }
  const old = vcpu.guest.lastRead;
  return yield* emulatorCmpxchg(vcpu, { ...action, value: addU64(old, action.value) }, old);
}

/** A write across pages is made in two. */
function piecesOf(action: AccessAction): AccessAction[] {
  const { gva, size, value } = action;
  const inFirst = PAGE_SIZE - (gva % PAGE_SIZE);
  if (inFirst >= size) return [action];
  const bytes = bytesOf(value, size);
  return bytes.map((byte, i) => ({ ...action, gva: (gva + i) as Gva, size: 1, value: u64(0, byte) }));
}

/** emulator_read_write_onepage(): null when it is done. */
function* emulatorReadWrite(
  vcpu: Vcpu,
  action: AccessAction,
  known: Gpa | null,
  isWrite: boolean,
): Steps<EmulationResult | "faulted"> {
  const place = yield* mmioGvaToGpa(vcpu, action.gva, known, isWrite);
  if ("kind" in place) {
    // x86_emulate_insn(): the read of what will be written counts as a write.
    const write = action.access === "rmw" ? PFERR_WRITE : 0;
    yield* propagateFault(vcpu, { ...place, errorCode: place.errorCode | write });
    return "faulted";
  }
  const { gpa } = place;
  observe(vcpu, action, gpa, isWrite ? { value: action.value, adds: false } : null);
  if (!place.isMmio && (yield* accessGuestMemory(vcpu, gpa, action, isWrite))) return null;
  const data = isWrite ? action.value : U64_ZERO;
  vcpu.vm.emit({ name: "kvm_mmio", kind: isWrite ? "write" : "unsatisfied-read", len: action.size, gpa, value: data });
  vcpu.count("mmio_exits");
  vcpu.mmio = { gpa, action, isWrite, data };
  vcpu.vm.emit({ name: "kvm_userspace_exit", reason: "KVM_EXIT_MMIO", code: 6 });
  return "mmio";
}

/** Tells who watches the guest what is done in its place. */
function observe({ guest }: Vcpu, { gva, size }: AccessAction, gpa: Gpa, store: ObservedStore | null): void {
  const kind = store === null ? "read" : "write";
  guest.observer?.emulated({ gva, kind, user: guest.cpl === 3, size, store }, gpa);
}

/** vcpu_mmio_gva_to_gpa(), vcpu_is_mmio_gpa() */
function* mmioGvaToGpa(
  vcpu: Vcpu,
  gva: Gva,
  known: Gpa | null,
  isWrite: boolean,
): Steps<{ readonly gpa: Gpa; readonly isMmio: boolean } | WalkFault> {
  const { kernel } = vcpu.vm.kvm.variants;
  const { mode } = vcpu.guest;
  const access = (vcpu.guest.cpl === 3 ? PFERR_USER : 0) | (isWrite ? PFERR_WRITE : 0);
  if (known !== null && known % PAGE_SIZE === gva % PAGE_SIZE) return yield* mmioGpa(vcpu, gva, known, isWrite);
  if (yield* vcpuMatchMmioGva(vcpu, gva)) {
    // What is remembered are W and U: 7.2 asks for the right to read as well, and so always walks for a read.
    const denied = mode.paging ? permissionFault(accessBits(kernel), mode, vcpu.mmioAccess.value, access) : 0;
    if (denied === 0) {
      const gpa = (vcpu.mmioGfn.value * PAGE_SIZE + (gva % PAGE_SIZE)) as Gpa;
      vcpu.vm.emit({ name: "vcpu_match_mmio", gva, gpa, isWrite, byGpa: false });
      return { gpa, isMmio: true };
    }
  }
  const gpa = yield* gvaToGpa(vcpu, gva, access);
  return typeof gpa === "number" ? yield* mmioGpa(vcpu, gva, gpa, isWrite) : gpa;
}

function* mmioGpa(vcpu: Vcpu, gva: Gva, gpa: Gpa, isWrite: boolean): Steps<{ gpa: Gpa; isMmio: boolean }> {
  // An access of the APIC's page that comes here was not virtualized.
  if (vcpu.vm.kvm.apicAccess?.gfn === gpaToGfn(gpa)) return { gpa, isMmio: true };
  const isMmio = yield* vcpuMatchMmioGpa(vcpu, gpa);
  if (isMmio) vcpu.vm.emit({ name: "vcpu_match_mmio", gva, gpa, isWrite, byGpa: true });
  return { gpa, isMmio };
}

/** read_emulate(), emulator_write_phys(): false when no memslot has it, or none that may be written. */
function* accessGuestMemory(vcpu: Vcpu, gpa: Gpa, action: AccessAction, isWrite: boolean): Steps<boolean> {
  const { kvm, shadow } = vcpu.vm;
  const frame = gpaToGfn(gpa);
  const slot = yield* gfnToMemslot(kvm.memslots, frame);
  if (!isVisibleMemslot(slot) || (isWrite && memslotIsReadonly(slot))) return false;
  const hva = (gfnToHva(slot, frame) + (gpa % PAGE_SIZE)) as Hva;
  if (!isWrite) {
    if (hva % action.size === 0) {
      const found = yield* getUser(kvm.mm, hva, action.size);
      if (found === null) return false;
      vcpu.guest.lastRead = found;
    }
    return true;
  }
  if (!(yield* writeUser(vcpu, hva, action))) return false;
  yield* kvmVcpuMarkPageDirty(vcpu, frame);
  if (shadow !== null) yield* kvmMmuTrackWrite(vcpu, shadow, gpa, action.size);
  return true;
}

function* writeUser(vcpu: Vcpu, hva: Hva, { size, value }: AccessAction): Steps<boolean> {
  const { mm } = vcpu.vm.kvm;
  if (hva % size === 0) return yield* putUser(mm, hva, value, size as UserAccessSize);
  for (const [i, byte] of bytesOf(value, size).entries()) {
    if (!(yield* putUser(mm, (hva + i) as Hva, u64(0, byte), 1))) return false;
  }
  return true;
}

/**
 * cmpxchg_emulated, its access to guest memory: false when no memslot has it, or none that may be written; "changed" when another has written since
 * the instruction has read, and nothing was written. The page is dirty in either case: hardware writes back what it has found.
 */
function* cmpxchgGuestMemory(vcpu: Vcpu, gpa: Gpa, action: AccessAction, old: U64): Steps<boolean | "changed"> {
  const { kvm, shadow } = vcpu.vm;
  const { size, value } = action;
  const frame = gpaToGfn(gpa);
  const slot = yield* gfnToMemslot(kvm.memslots, frame);
  if (!isVisibleMemslot(slot) || memslotIsReadonly(slot)) return false;
  const hva = (gfnToHva(slot, frame) + (gpa % PAGE_SIZE)) as Hva;
  // The modelled memory has no locked access that is not aligned: such a one is made byte by byte.
  if (hva % size !== 0) return yield* accessGuestMemory(vcpu, gpa, action, true);
  const bytes = size as UserAccessSize;
  const expected = lowBytes(old, bytes);
  const found = yield* tryCmpxchgUser(kvm.mm, hva, bytes, expected, lowBytes(value, bytes));
  if (found === null) return false;
  if (!kvm.lacks("emulated-cmpxchg-not-dirty")) yield* kvmVcpuMarkPageDirty(vcpu, frame);
  if (!sameU64(found, expected)) return "changed";
  if (shadow !== null) yield* kvmMmuTrackWrite(vcpu, shadow, gpa, size);
  return true;
}

function lowBytes(value: U64, size: UserAccessSize): U64 {
  if (size === 8) return value;
  return u64(0, value.lo & (size === 4 ? -1 : 2 ** (8 * size) - 1));
}

/**
 * emulator_cmpxchg_emulated(): the write of a locked instruction; where there is no memory it ends as a plain write. One that finds another value than was
 * read before (X86EMUL_CMPXCHG_FAILED) leaves the instruction for the guest to run again.
 * @param old what the instruction has read
 */
function* emulatorCmpxchg(vcpu: Vcpu, action: AccessAction, old: U64): Steps<EmulationResult> {
  const gpa = yield* gvaToGpa(vcpu, action.gva, PFERR_WRITE | (vcpu.guest.cpl === 3 ? PFERR_USER : 0));
  const known = typeof gpa === "number" ? gpa : null;
  if (known !== null) observe(vcpu, action, known, { value: action.value, adds: false });
  const written = known !== null && (yield* cmpxchgGuestMemory(vcpu, known, action, old));
  if (written === "changed") return null;
  if (written) {
    vcpu.guest.next++;
    return null;
  }
  const result = yield* emulatorReadWrite(vcpu, action, vcpu.isDirectMmu ? known : null, true);
  if (result === null) vcpu.guest.next++;
  return result === "faulted" ? null : result;
}

/** complete_emulated_mmio(): the VMM is back; the instruction ends, or goes on to its write. */
export function* completeEmulatedMmio(vcpu: Vcpu, pending: PendingMmio): Steps<EmulationResult> {
  const { gpa, action, data } = pending;
  vcpu.mmio = null;
  if (!pending.isWrite) {
    vcpu.vm.emit({ name: "kvm_mmio", kind: "read", len: action.size, gpa, value: data });
    vcpu.guest.lastRead = data;
    if (action.access === "rmw") {
      return yield* emulatorCmpxchg(vcpu, { ...action, value: addU64(data, action.value) }, data);
    }
  }
  vcpu.guest.next++;
  return null;
}
