/**
 * How many levels the TDP MMU's tables have.
 *
 *     NPT    as many as the host's own tables: the CPU walks both alike
 *     EPT    5 where the CPU can and the guest has physical addresses that need them, else 4
 *
 * Stands for kvm_configure_mmu() and kvm_mmu_get_tdp_level() of mmu.c, 6.12 and 7.2.
 */
import type { KvmVariants } from "./variants.ts";

/** Bits of a guest-physical address that 4 levels translate. */
const BITS_OF_4_LEVELS = 48;

/** kvm_mmu_get_tdp_level() */
export function kvmMmuGetTdpLevel({
  paging,
  maxTdpLevel,
  maxPhyAddr,
}: Pick<KvmVariants, "paging" | "maxTdpLevel" | "maxPhyAddr">): 4 | 5 {
  // The level of NPT is forced: it follows the host's CR4.LA57.
  if (paging === "npt") return maxTdpLevel;
  return maxPhyAddr <= BITS_OF_4_LEVELS ? 4 : maxTdpLevel;
}
