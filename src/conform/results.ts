/** What operations return, in the words of the recordings' stats.json. */
import { hexU64 } from "../engine/index.ts";
import type { RunResult } from "../kvm/vcpu.ts";
import type { GuestCpu } from "../machine/index.ts";
import type { HostResult } from "./own-host.ts";
import type { OperationResult } from "./run.ts";

/** KVM_EXIT_DIRTY_RING_FULL */
const EXIT_DIRTY_RING_FULL = 31;

/** How a guest operation ended, and the last value that it read. */
export function guestResult(vcpu: number, guest: GuestCpu, result: RunResult): OperationResult {
  const base = { vcpu };
  switch (result) {
    case "io":
    case "done":
      // The handler of the guest's page faults leaves by an OUT, too.
      if (guest.lastFault !== null) return guestFault(vcpu, guest);
      return { ...base, end: "done", rax: `0x${hexU64(guest.lastRead)}` };
    case "guest-fault":
      return guestFault(vcpu, guest);
    case "efault":
      return { ...base, end: "run_errno_14" };
    case "dirty-ring-full":
      return { ...base, end: `exit_${EXIT_DIRTY_RING_FULL}` };
    default:
      return { ...base, end: result };
  }
}

function guestFault(vcpu: number, guest: GuestCpu): OperationResult {
  const { lastFault } = guest;
  const hex = (value: number): string => `0x${value.toString(16)}`;
  const fault = { cr2: hex(lastFault?.gva ?? 0), error_code: hex(lastFault?.errorCode ?? 0) };
  return { vcpu, end: "guest_pf", ...fault };
}

/** What an operation of the VMM returned; null: it is known to have been done, and no more. */
export function hostResult(host: string, result: HostResult | null): OperationResult {
  if (result === null) return { host };
  const { rc, value } = result;
  return value === undefined ? { host, rc } : { host, rc, value: `0x${hexU64(value)}` };
}
