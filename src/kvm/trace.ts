/**
 * KVM's tracepoints, as data and as the text that tracefs prints.
 *
 * An event holds what the kernel's tracepoint records when it fires; formatting it is for whoever prints. Texts are those of 6.12 and 7.2
 * (kvmmmu:* and kvm:*). Statistics are reported the same way, as increments, so that an execution's are undone with it.
 */
import { hexU64, type TraceEvent, testU64, type U64 } from "../engine/index.ts";
import { PFERR_FETCH, PFERR_PRESENT, PFERR_RSVD, PFERR_USER, PFERR_WRITE } from "../machine/index.ts";
import { formatRole, roleLayout } from "./role.ts";
import { isShadowPresentPte, type SpteLayout } from "./spte.ts";
import type { KernelVersion } from "./variants.ts";

/** What the tracepoints print of a shadow page. */
export interface SpText {
  readonly gfn: number;
  readonly role: number;
  readonly rootCount: number;
  readonly unsync: boolean;
}

export type KvmEvent =
  | {
      readonly name: "kvm_page_fault";
      readonly vcpu: number;
      readonly rip: number;
      readonly address: number;
      readonly errorCode: number;
    }
  | { readonly name: "kvm_userspace_exit"; readonly reason: string; readonly code: number }
  | { readonly name: "kvm_unmap_hva_range"; readonly start: number; readonly end: number }
  | { readonly name: "kvm_mmu_get_page"; readonly sp: SpText; readonly created: boolean }
  | { readonly name: "kvm_mmu_prepare_zap_page"; readonly sp: SpText }
  | {
      readonly name: "kvm_mmu_spte_requested";
      readonly gfn: number;
      readonly pfn: number;
      readonly level: number;
      readonly access: number;
    }
  | {
      readonly name: "kvm_tdp_mmu_spte_changed";
      readonly asId: number;
      readonly gfn: number;
      readonly level: number;
      readonly oldSpte: U64;
      readonly newSpte: U64;
    }
  | {
      readonly name: "kvm_mmu_set_spte";
      readonly gfn: number;
      readonly spte: U64;
      readonly level: number;
      readonly at: number;
    }
  | {
      readonly name: "fast_page_fault";
      readonly vcpu: number;
      readonly address: number;
      readonly errorCode: number;
      readonly sptep: number;
      readonly oldSpte: U64;
      readonly newSpte: U64;
      readonly spurious: boolean;
      readonly fixed: boolean;
    }
  | {
      readonly name: "kvm_mmu_split_huge_page";
      readonly gfn: number;
      readonly spte: U64;
      readonly level: number;
      readonly errno: number;
    };

/** A statistic went up: of the VM, or of one vCPU. Names as in the binary statistics. */
export interface StatEvent extends TraceEvent {
  readonly name: "stat";
  readonly stat: string;
  /** Null: the VM's own. */
  readonly vcpu: number | null;
  readonly delta: number;
}

export function isKvmEvent(event: TraceEvent): event is KvmEvent {
  return event.name !== "stat";
}

export function isStatEvent(event: TraceEvent): event is StatEvent {
  return event.name === "stat";
}

const hex = (value: number): string => value.toString(16);
/** `%#016lx`: sixteen characters, the prefix included. */
const padded14 = (value: number): string => `0x${hex(value).padStart(14, "0")}`;

/** What follows `event_name: ` in the trace. */
export function formatEvent(event: KvmEvent, kernel: KernelVersion, layout: SpteLayout): string {
  switch (event.name) {
    case "kvm_page_fault":
      return `vcpu ${event.vcpu} rip 0x${hex(event.rip)} address 0x${hex(event.address).padStart(16, "0")} error_code 0x${hex(event.errorCode)}`;
    case "kvm_userspace_exit":
      return `reason ${event.reason} (${event.code})`;
    case "kvm_unmap_hva_range":
      return `mmu notifier unmap range: ${padded14(event.start)} -- ${padded14(event.end)}`;
    case "kvm_mmu_get_page":
      return `${formatSp(event.sp, kernel)} ${event.created ? "new" : "existing"}`;
    case "kvm_mmu_prepare_zap_page":
      return formatSp(event.sp, kernel);
    case "kvm_mmu_spte_requested": {
      const access = kernel === "7.2" ? ` access ${hex(event.access)}` : "";
      return `gfn ${hex(event.gfn)} pfn ${hex(event.pfn)} level ${event.level}${access}`;
    }
    case "kvm_tdp_mmu_spte_changed":
      return `as id ${event.asId} gfn ${hex(event.gfn)} level ${event.level} old_spte ${hexU64(event.oldSpte)} new_spte ${hexU64(event.newSpte)}`;
    case "kvm_mmu_set_spte":
      return `gfn ${hex(event.gfn)} spte ${hexU64(event.spte)} (${formatAccess(event.spte, layout)}) level ${event.level} at ${hex(event.at)}`;
    case "fast_page_fault":
      return (
        `vcpu ${event.vcpu} gva ${hex(event.address)} error_code ${formatErrorCode(event.errorCode)} ` +
        `sptep ${hex(event.sptep).padStart(16, "0")} old ${hashHex(event.oldSpte)} new ${hexU64(event.newSpte)} ` +
        `spurious ${event.spurious ? 1 : 0} fixed ${event.fixed ? 1 : 0}`
      );
    case "kvm_mmu_split_huge_page":
      return `gfn ${hex(event.gfn)} spte ${hexU64(event.spte)} level ${event.level} errno ${event.errno}`;
  }
}

/** `%#llx`, which the kernel prints as 0x0 for zero. */
function hashHex(value: U64): string {
  return `0x${hexU64(value)}`;
}

function formatSp(sp: SpText, kernel: KernelVersion): string {
  const role = formatRole(roleLayout(kernel), sp.role);
  return `sp gen 0 gfn ${hex(sp.gfn)} ${role} root ${sp.rootCount} ${sp.unsync ? "unsync" : "sync"}`;
}

/** The four letters of kvm_mmu_set_spte. */
function formatAccess(spte: U64, layout: SpteLayout): string {
  const read = testU64(spte, layout.present) || !isShadowPresentPte(spte) ? "r" : "-";
  const write = (spte.lo & 2) !== 0 ? "w" : "-";
  const exec = testU64(spte, layout.nx) ? "-" : "x";
  const user = testU64(spte, layout.user) ? "u" : "-";
  return read + write + exec + user;
}

const ERROR_FLAGS: readonly (readonly [number, string])[] = [
  [PFERR_PRESENT, "P"],
  [PFERR_WRITE, "W"],
  [PFERR_USER, "U"],
  [PFERR_RSVD, "RSVD"],
  [PFERR_FETCH, "F"],
];

/** Names joined by bars, what is left over as a number. */
function formatErrorCode(code: number): string {
  const names: string[] = [];
  let rest = code;
  for (const [bit, name] of ERROR_FLAGS) {
    if (Math.floor(code / bit) % 2 === 0) continue;
    names.push(name);
    rest -= bit;
  }
  if (rest !== 0) names.push(`0x${hex(rest)}`);
  return names.join("|");
}
