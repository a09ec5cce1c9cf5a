/**
 * Events of a compiled kernel as data: what TP_fast_assign() has filled in, read by the names of its fields.
 *
 * The same data as the TypeScript MMU emits (kvm/trace.ts), so that both are printed by the same code. An event that is not in the table is of no
 * interest to the MMU.
 */
import { type U64, u64 } from "../engine/index.ts";
import type { KvmEvent, SpText } from "../kvm/trace.ts";
import type { CompiledKernel } from "./machine.ts";

/** Values of enum ret_pf, for fast_page_fault. */
interface RetPfValues {
  readonly fixed: number;
  readonly spurious: number;
}

type Decoder = (entry: Entry) => KvmEvent;

const EXIT_REASONS: Readonly<Record<number, string>> = {
  2: "KVM_EXIT_IO",
  6: "KVM_EXIT_MMIO",
  17: "KVM_EXIT_INTERNAL_ERROR",
  31: "KVM_EXIT_DIRTY_RING_FULL",
};

const MMIO_KINDS = ["unsatisfied-read", "read", "write"] as const;
/** KVM_EMUL_INSN_F_CS_L */
const CS_LONG = 8;

const REMOVED_SPTE = 0x5a0;
/** Bit 63. */
const SUPPRESS_VE_HIGH = 0x8000_0000;

/**
 * Until 6.9 an entry that maps nothing is 0, from 6.10 on (SHADOW_NONPRESENT_VALUE) it has bit 63, and so has a frozen one. Recordings and racewalk's MMU
 * are of later kernels; what is shown of an older one is put in their words. @param version `6.1.158`
 */
function mapsNothingByZero(version: string): boolean {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  return major < 6 || (major === 6 && minor < 10);
}

/** The fields of one event. */
class Entry {
  private readonly kernel: CompiledKernel;
  private readonly structure: string;
  private readonly at: number;
  private readonly hasZeroEntries: boolean;

  constructor(kernel: CompiledKernel, structure: string, at: number) {
    this.kernel = kernel;
    this.hasZeroEntries = mapsNothingByZero(kernel.image.description.kernel);
    this.structure = structure;
    this.at = at;
  }

  private place(field: string): readonly [number, number] {
    const found = this.kernel.image.description.structs[this.structure]?.fields.find(([, , name]) => name === field);
    if (found === undefined) throw new Error(`${this.structure} has no field ${field}`);
    return [this.at + found[0], found[1]];
  }

  /** An unsigned value below 2^53. */
  number(field: string): number {
    const [at, bytes] = this.place(field);
    return this.kernel.peek(at, bytes as 1 | 2 | 4 | 8);
  }

  int(field: string): number {
    return this.number(field) | 0;
  }

  flag(field: string): boolean {
    return this.number(field) !== 0;
  }

  wide(field: string): U64 {
    const [at] = this.place(field);
    return u64(this.kernel.peekHigh(at), this.kernel.peek(at, 4));
  }

  /** An entry of a table, as later kernels would write it. */
  spte(field: string): U64 {
    const value = this.wide(field);
    return this.hasZeroEntries && value.hi === 0 && (value.lo === 0 || value.lo === REMOVED_SPTE)
      ? u64(SUPPRESS_VE_HIGH, value.lo)
      : value;
  }

  bytes(field: string, count: number): number[] {
    const [at] = this.place(field);
    return Array.from({ length: count }, (_, i) => this.kernel.peek(at + i, 1));
  }
}

function spOf(entry: Entry): SpText {
  return {
    gen: entry.number("mmu_valid_gen"),
    gfn: entry.number("gfn"),
    role: entry.number("role"),
    rootCount: entry.number("root_count"),
    unsync: entry.flag("unsync"),
  };
}

function ringOf(entry: Entry): { ring: number; dirty: number; reset: number; used: number } {
  const dirty = entry.number("dirty_index");
  const reset = entry.number("reset_index");
  return { ring: entry.number("index"), dirty, reset, used: (dirty - reset) >>> 0 };
}

const hexByte = (byte: number): string => byte.toString(16).padStart(2, "0");

function decoders(retPf: RetPfValues): Readonly<Record<string, Decoder>> {
  const withSp =
    (name: "kvm_mmu_prepare_zap_page" | "kvm_mmu_sync_page" | "kvm_mmu_unsync_page"): Decoder =>
    (entry) => ({ name, sp: spOf(entry) });
  const bit =
    (name: "kvm_mmu_set_accessed_bit" | "kvm_mmu_set_dirty_bit"): Decoder =>
    (entry) => ({ name, gpa: entry.number("gpa") });
  return {
    kvm_page_fault: (entry) => ({
      name: "kvm_page_fault",
      vcpu: entry.number("vcpu_id"),
      rip: entry.number("guest_rip"),
      address: entry.number("fault_address"),
      errorCode: entry.number("error_code"),
    }),
    kvm_userspace_exit: (entry) => {
      const errno = entry.int("errno");
      const reason = entry.number("reason");
      if (errno < 0) return { name: "kvm_userspace_exit", reason: "error", code: -errno };
      return { name: "kvm_userspace_exit", reason: EXIT_REASONS[reason] ?? String(reason), code: reason };
    },
    kvm_mmu_zap_all_fast: (entry) => ({
      name: "kvm_mmu_zap_all_fast",
      validGen: entry.number("mmu_valid_gen"),
      usedPages: entry.number("mmu_used_pages"),
    }),
    mark_mmio_spte: (entry) => ({
      name: "mark_mmio_spte",
      sptep: entry.number("sptep"),
      gfn: entry.number("gfn"),
      access: entry.number("access"),
      gen: entry.number("gen"),
    }),
    check_mmio_spte: (entry) => ({
      name: "check_mmio_spte",
      spte: entry.wide("spte"),
      kvmGen: entry.number("kvm_gen"),
      spteGen: entry.number("spte_gen"),
      valid: entry.number("kvm_gen") === entry.number("spte_gen"),
    }),
    handle_mmio_page_fault: (entry) => ({
      name: "handle_mmio_page_fault",
      addr: entry.number("addr"),
      gfn: entry.number("gfn"),
      access: entry.number("access"),
    }),
    vcpu_match_mmio: (entry) => ({
      name: "vcpu_match_mmio",
      gva: entry.number("gva"),
      gpa: entry.number("gpa"),
      isWrite: entry.flag("write"),
      byGpa: entry.flag("gpa_match"),
    }),
    kvm_mmio: (entry) => ({
      name: "kvm_mmio",
      kind: MMIO_KINDS[entry.number("type")] ?? "write",
      len: entry.number("len"),
      gpa: entry.number("gpa"),
      value: entry.wide("val"),
    }),
    kvm_emulate_insn: (entry) => ({
      name: "kvm_emulate_insn",
      rip: entry.number("rip"),
      bytes: entry.bytes("insn", entry.number("len")).map(hexByte).join(" "),
      mode: (entry.number("flags") & CS_LONG) !== 0 ? "prot64" : "prot32",
    }),
    kvm_mmu_pagetable_walk: (entry) => ({
      name: "kvm_mmu_pagetable_walk",
      addr: entry.number("addr"),
      pferr: entry.number("pferr"),
    }),
    kvm_mmu_paging_element: (entry) => ({
      name: "kvm_mmu_paging_element",
      pte: entry.wide("pte"),
      level: entry.number("level"),
    }),
    kvm_mmu_set_accessed_bit: bit("kvm_mmu_set_accessed_bit"),
    kvm_mmu_set_dirty_bit: bit("kvm_mmu_set_dirty_bit"),
    kvm_mmu_walker_error: (entry) => ({ name: "kvm_mmu_walker_error", errorCode: entry.number("pferr") }),
    kvm_inj_exception: (entry) => ({
      name: "kvm_inj_exception",
      errorCode: entry.number("error_code"),
      reinjected: entry.flag("reinjected"),
    }),
    kvm_unmap_hva_range: (entry) => ({
      name: "kvm_unmap_hva_range",
      start: entry.number("start"),
      end: entry.number("end"),
    }),
    kvm_age_hva: (entry) => ({ name: "kvm_age_hva", start: entry.number("start"), end: entry.number("end") }),
    kvm_test_age_hva: (entry) => ({ name: "kvm_test_age_hva", addr: entry.number("hva") }),
    kvm_dirty_ring_push: (entry) => ({
      name: "kvm_dirty_ring_push",
      ...ringOf(entry),
      slot: entry.number("slot"),
      offset: entry.number("offset"),
    }),
    kvm_dirty_ring_reset: (entry) => ({ name: "kvm_dirty_ring_reset", ...ringOf(entry) }),
    kvm_dirty_ring_exit: (entry) => ({ name: "kvm_dirty_ring_exit", vcpu: entry.number("vcpu_id") }),
    kvm_mmu_get_page: (entry) => ({ name: "kvm_mmu_get_page", sp: spOf(entry), created: entry.flag("created") }),
    kvm_mmu_prepare_zap_page: withSp("kvm_mmu_prepare_zap_page"),
    kvm_mmu_sync_page: withSp("kvm_mmu_sync_page"),
    kvm_mmu_unsync_page: withSp("kvm_mmu_unsync_page"),
    kvm_mmu_spte_requested: (entry) => ({
      name: "kvm_mmu_spte_requested",
      gfn: entry.number("gfn"),
      pfn: entry.number("pfn"),
      level: entry.number("level"),
      // Printed from 7.2 on only.
      access: 0,
    }),
    kvm_tdp_mmu_spte_changed: (entry) => ({
      name: "kvm_tdp_mmu_spte_changed",
      asId: entry.number("as_id"),
      gfn: entry.number("gfn"),
      level: entry.number("level"),
      oldSpte: entry.spte("old_spte"),
      newSpte: entry.spte("new_spte"),
    }),
    kvm_mmu_set_spte: (entry) => ({
      name: "kvm_mmu_set_spte",
      gfn: entry.number("gfn"),
      spte: entry.wide("spte"),
      level: entry.number("level"),
      at: entry.number("sptep"),
    }),
    fast_page_fault: (entry) => ({
      name: "fast_page_fault",
      vcpu: entry.number("vcpu_id"),
      address: entry.number("cr2_or_gpa"),
      errorCode: entry.number("error_code"),
      sptep: entry.number("sptep"),
      oldSpte: entry.spte("old_spte"),
      newSpte: entry.spte("new_spte"),
      spurious: entry.number("ret") === retPf.spurious,
      fixed: entry.number("ret") === retPf.fixed,
    }),
    kvm_mmu_split_huge_page: (entry) => ({
      name: "kvm_mmu_split_huge_page",
      gfn: entry.number("gfn"),
      spte: entry.wide("spte"),
      level: entry.number("level"),
      errno: entry.int("errno"),
    }),
  };
}

/** From here on events of the kernel are events of its world. */
export function emitEvents(kernel: CompiledKernel): void {
  const value = (name: string): number => kernel.peek(kernel.addressOf(name), 4);
  const table = decoders({ fixed: value("rw_kept_ret_pf_fixed"), spurious: value("rw_kept_ret_pf_spurious") });
  kernel.traceEvents((name, structure, at) => {
    const decode = table[name];
    if (decode !== undefined) kernel.world.emit(decode(new Entry(kernel, `rw_event_${structure}`, at)));
  });
}
