/**
 * KVM's tracepoints, as data and as the text that tracefs prints.
 *
 * An event holds what the kernel's tracepoint records when it fires; formatting it is for whoever prints. Texts are those of 6.12 and 7.2
 * (kvmmmu:* and kvm:*). Statistics are reported the same way, as increments, so that an execution's are undone with it.
 */
import { hexU64, sameU64, type TraceEvent, testU64, type U64, U64_ZERO } from "../engine/index.ts";
import { PFERR_FETCH, PFERR_PRESENT, PFERR_RSVD, PFERR_USER, PFERR_WRITE } from "../machine/index.ts";
import { formatRole, roleLayout } from "./role.ts";
import { isExecutablePte, type SpteLayout } from "./spte.ts";
import type { KernelVersion } from "./variants.ts";

/** What the tracepoints print of a shadow page. */
export interface SpText {
  /** mmu_valid_gen of a shadow page; 0 for one of the TDP MMU. */
  readonly gen: number;
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
  | {
      readonly name: "kvm_entry";
      readonly vcpu: number;
      readonly rip: number;
      /** The error code of a page fault that is injected; null: nothing is. */
      readonly injected: number | null;
    }
  | {
      readonly name: "kvm_exit";
      readonly vcpu: number;
      readonly reason: string;
      readonly rip: number;
      readonly info1: number;
      readonly info2: number;
      readonly requests: number;
      /** The error code of a page fault whose delivery was cut short; null: there was none. */
      readonly interrupted: number | null;
    }
  | { readonly name: "kvm_mmu_zap_all_fast"; readonly validGen: number; readonly usedPages: number }
  | {
      readonly name: "mark_mmio_spte";
      readonly sptep: number;
      readonly gfn: number;
      readonly access: number;
      readonly gen: number;
    }
  | {
      readonly name: "check_mmio_spte";
      readonly spte: U64;
      readonly kvmGen: number;
      readonly spteGen: number;
      readonly valid: boolean;
    }
  | { readonly name: "handle_mmio_page_fault"; readonly addr: number; readonly gfn: number; readonly access: number }
  | {
      readonly name: "vcpu_match_mmio";
      readonly gva: number;
      readonly gpa: number;
      readonly isWrite: boolean;
      readonly byGpa: boolean;
    }
  | {
      readonly name: "kvm_mmio";
      readonly kind: "unsatisfied-read" | "read" | "write";
      readonly len: number;
      readonly gpa: number;
      readonly value: U64;
    }
  | { readonly name: "kvm_emulate_insn"; readonly rip: number; readonly bytes: string; readonly mode: string }
  | { readonly name: "kvm_mmu_pagetable_walk"; readonly addr: number; readonly pferr: number }
  | { readonly name: "kvm_mmu_paging_element"; readonly pte: U64; readonly level: number }
  | { readonly name: "kvm_mmu_set_accessed_bit" | "kvm_mmu_set_dirty_bit"; readonly gpa: number }
  | { readonly name: "kvm_unmap_hva_range"; readonly start: number; readonly end: number }
  | { readonly name: "kvm_age_hva"; readonly start: number; readonly end: number }
  | { readonly name: "kvm_test_age_hva"; readonly addr: number }
  | {
      readonly name: "kvm_dirty_ring_push";
      readonly ring: number;
      readonly dirty: number;
      readonly reset: number;
      readonly slot: number;
      readonly offset: number;
      readonly used: number;
    }
  | {
      readonly name: "kvm_dirty_ring_reset";
      readonly ring: number;
      readonly dirty: number;
      readonly reset: number;
      readonly used: number;
    }
  | { readonly name: "kvm_dirty_ring_exit"; readonly vcpu: number }
  | { readonly name: "kvm_mmu_get_page"; readonly sp: SpText; readonly created: boolean }
  | { readonly name: "kvm_mmu_prepare_zap_page" | "kvm_mmu_sync_page" | "kvm_mmu_unsync_page"; readonly sp: SpText }
  | { readonly name: "kvm_mmu_walker_error"; readonly errorCode: number }
  | { readonly name: "kvm_inj_exception"; readonly errorCode: number; readonly reinjected: boolean }
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

const padded16 = (value: number): string => `0x${hex(value).padStart(16, "0")}`;

/** What follows `event_name: ` in the trace. */
export function formatEvent(event: KvmEvent, kernel: KernelVersion, layout: SpteLayout): string {
  switch (event.name) {
    case "kvm_page_fault":
      return `vcpu ${event.vcpu} rip 0x${hex(event.rip)} address 0x${hex(event.address).padStart(16, "0")} error_code 0x${hex(event.errorCode)}`;
    case "kvm_userspace_exit":
      return `reason ${event.reason} (${event.code})`;
    case "kvm_entry": {
      const injected = kernel === "7.2" ? formatEventInfo(event.injected) : "";
      return `vcpu ${event.vcpu}, rip 0x${hex(event.rip)}${injected}`;
    }
    case "kvm_exit": {
      const requests = kernel === "7.2" ? ` requests ${padded16(event.requests)}` : "";
      const infos = `info1 ${padded16(event.info1)} info2 ${padded16(event.info2)}`;
      return `vcpu ${event.vcpu} reason ${event.reason} rip 0x${hex(event.rip)} ${infos}${formatEventInfo(event.interrupted)}${requests}`;
    }
    case "kvm_mmu_zap_all_fast":
      return `kvm-mmu-valid-gen ${event.validGen} used_pages ${hex(event.usedPages)}`;
    case "mark_mmio_spte":
      return `sptep:${hex(event.sptep).padStart(16, "0")} gfn ${hex(event.gfn)} access ${hex(event.access)} gen ${hex(event.gen)}`;
    case "check_mmio_spte":
      return `spte ${hexU64(event.spte)} kvm_gen ${hex(event.kvmGen)} spte-gen ${hex(event.spteGen)} valid ${event.valid ? 1 : 0}`;
    case "handle_mmio_page_fault":
      return `addr:${hex(event.addr)} gfn ${hex(event.gfn)} access ${hex(event.access)}`;
    case "vcpu_match_mmio":
      return `gva 0x${hex(event.gva)} gpa 0x${hex(event.gpa)} ${event.isWrite ? "Write" : "Read"} ${event.byGpa ? "GPA" : "GVA"}`;
    case "kvm_mmio":
      return `mmio ${event.kind} len ${event.len} gpa 0x${hex(event.gpa)} val ${hashHex(event.value)}`;
    case "kvm_emulate_insn":
      return `0:${hex(event.rip)}:${event.bytes} (${event.mode})`;
    case "kvm_mmu_pagetable_walk":
      return `addr ${hex(event.addr)} pferr ${hex(event.pferr)} ${formatErrorCode(event.pferr)}`;
    case "kvm_mmu_walker_error":
      return `pferr ${hex(event.errorCode)} ${formatErrorCode(event.errorCode)}`;
    case "kvm_inj_exception":
      return `#PF (0x${hex(event.errorCode)})${event.reinjected ? " [reinjected]" : ""}`;
    case "kvm_mmu_paging_element":
      return `pte ${hexU64(event.pte)} level ${event.level}`;
    case "kvm_mmu_set_accessed_bit":
    case "kvm_mmu_set_dirty_bit":
      return `gpa ${hex(event.gpa)}`;
    case "kvm_unmap_hva_range":
      return `mmu notifier unmap range: ${padded14(event.start)} -- ${padded14(event.end)}`;
    case "kvm_age_hva":
      return `mmu notifier age hva: ${padded14(event.start)} -- ${padded14(event.end)}`;
    case "kvm_test_age_hva":
      return `mmu notifier test age hva: ${padded14(event.addr)}`;
    case "kvm_dirty_ring_push":
      return `${ringIndices(event)} slot ${event.slot} offset ${zeroHex(event.offset)} (used ${event.used})`;
    case "kvm_dirty_ring_reset":
      return `${ringIndices(event)} (used ${event.used})`;
    case "kvm_dirty_ring_exit":
      return `vcpu ${event.vcpu}`;
    case "kvm_mmu_get_page":
      return `${formatSp(event.sp, kernel)} ${event.created ? "new" : "existing"}`;
    case "kvm_mmu_prepare_zap_page":
    case "kvm_mmu_sync_page":
    case "kvm_mmu_unsync_page":
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

function ringIndices(event: { readonly ring: number; readonly dirty: number; readonly reset: number }): string {
  return `ring ${event.ring}: dirty ${zeroHex(event.dirty)} reset ${zeroHex(event.reset)}`;
}

function zeroHex(value: number): string {
  return `0x${hex(value)}`;
}

/** EVENTINJ or EXITINTINFO of a page fault: valid, with an error code, an exception, vector 14. */
const PF_EVENT = 0x8000_0b0e;

function formatEventInfo(errorCode: number | null): string {
  const word = (value: number): string => `0x${hex(value).padStart(8, "0")}`;
  return ` intr_info ${word(errorCode === null ? 0 : PF_EVENT)} error_code ${word(errorCode ?? 0)}`;
}

/** `%#llx`, which the kernel prints as 0x0 for zero. */
function hashHex(value: U64): string {
  return `0x${hexU64(value)}`;
}

function formatSp(sp: SpText, kernel: KernelVersion): string {
  const role = formatRole(roleLayout(kernel), sp.role);
  return `sp gen ${sp.gen} gfn ${hex(sp.gfn)} ${role} root ${sp.rootCount} ${sp.unsync ? "unsync" : "sync"}`;
}

/** The four letters of kvm_mmu_set_spte. */
function formatAccess(spte: U64, layout: SpteLayout): string {
  const read = sameU64(layout.present, U64_ZERO) && (spte.lo & 1) === 0 ? "-" : "r";
  const write = (spte.lo & 2) !== 0 ? "w" : "-";
  const exec = isExecutablePte(layout, spte) ? "x" : "-";
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
