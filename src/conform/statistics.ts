/** KVM's statistics of a run, by the names of the binary statistics. */
import type { Stats } from "./run.ts";

const VM = [
  "remote_tlb_flush",
  "remote_tlb_flush_requests",
  "mmu_shadow_zapped",
  "mmu_pte_write",
  "mmu_pde_zapped",
  "mmu_flooded",
  "mmu_recycled",
  "mmu_cache_miss",
  "mmu_unsync",
  "mmu_shadow_pages",
  "pages_4k",
  "pages_2m",
  "pages_1g",
  "nx_lpage_splits",
  "max_mmu_rmap_size",
  "max_mmu_page_hash_collisions",
] as const;

/** Those that a kernel does not have. */
const MISSING: Readonly<Record<string, readonly string[]>> = { "v6.12": ["mmu_shadow_pages"] };

const VCPU = [
  "pf_taken",
  "pf_fixed",
  "pf_emulate",
  "pf_spurious",
  "pf_fast",
  "pf_mmio_spte_created",
  "pf_guest",
  "tlb_flush",
  "invlpg",
  "exits",
  "mmio_exits",
  "insn_emulation",
  "insn_emulation_fail",
  "guest_mode",
] as const;

/** Counters at zero. */
export function newCounters(kernel: string, vcpus: number): Stats {
  const zero = (names: readonly string[]): Record<string, number> => Object.fromEntries(names.map((name) => [name, 0]));
  const missing = MISSING[kernel] ?? [];
  return {
    vm: zero(VM.filter((name) => !missing.includes(name))),
    vcpu: Array.from({ length: vcpus }, () => zero(VCPU)),
  };
}

/** The counters as they are now. */
export function statsOf(counters: Stats): Stats {
  return { vm: { ...counters.vm }, vcpu: counters.vcpu.map((values) => ({ ...values })) };
}
