/** The tracepoints kvm_entry and kvm_exit, with an exit's details as SVM has them. */
import type { GuestCpu, VmExit } from "../machine/index.ts";
import type { KvmEvent } from "./trace.ts";
import type { Vcpu } from "./vcpu.ts";

/** A vCPU, as far as these events look at it. */
interface TracedVcpu {
  readonly id: number;
  readonly guest: GuestCpu;
}

export function traceEntry(vcpu: Vcpu): void {
  if (vcpu.vm.tracesExits) vcpu.vm.emit(entryEvent(vcpu));
}

export function traceExit(vcpu: Vcpu, exit: VmExit): void {
  if (!vcpu.vm.tracesExits) return;
  const event = exitEvent(vcpu, vcpu.requests.peek(), exit);
  if (event !== null) vcpu.vm.emit(event);
}

/** kvm_entry, of a vCPU that is about to enter the guest. */
export function entryEvent({ id, guest }: TracedVcpu): KvmEvent {
  return { name: "kvm_entry", vcpu: id, rip: guest.rip, injected: guest.eventInjection?.errorCode ?? null };
}

type TracedExit = Exclude<VmExit, { readonly kind: "done" | "guest-fault" }>;

/** kvm_exit; null for what is no exit of a real CPU. */
export function exitEvent({ id, guest }: TracedVcpu, requests: number, exit: VmExit): KvmEvent | null {
  if (exit.kind === "done" || exit.kind === "guest-fault") return null;
  const interrupted = guest.exitEvent?.errorCode ?? null;
  return { name: "kvm_exit", vcpu: id, rip: exit.rip, requests, interrupted, ...detailsOf(exit) };
}

/** Of the guest's OUT: one byte to port 0x10. */
const OUT_INFO = 0x100010;
const OUT_BYTES = 2;

/** For a fault the error code and the address, for OUT the port and where the guest goes on. */
function detailsOf(exit: TracedExit): { readonly reason: string; readonly info1: number; readonly info2: number } {
  switch (exit.kind) {
    case "npf":
      return { reason: "npf", info1: exit.errorCode, info2: exit.gpa };
    case "page-fault":
      return { reason: "PF excp", info1: exit.errorCode, info2: exit.gva };
    case "io":
      return { reason: "io", info1: OUT_INFO, info2: exit.rip + OUT_BYTES };
    case "pml-full":
      return { reason: "PML_FULL", info1: 0, info2: 0 };
    case "interrupt":
      return { reason: "interrupt", info1: 0, info2: 0 };
    case "intercept":
      return { reason: reasonOf(exit), info1: exit.instruction.action.kind === "wrmsr" ? 1 : 0, info2: 0 };
  }
}

function reasonOf({ instruction: { action } }: TracedExit & { readonly kind: "intercept" }): string {
  switch (action.kind) {
    case "wrmsr":
      return "msr";
    case "invlpg":
      return "invlpg";
    case "mov-to-cr":
      return `write_cr${action.register}`;
    default:
      return "";
  }
}
