/**
 * Parameters of the kvm module that the MMU looks at when it acts, as it does: writing one changes what happens from then on.
 */
export interface ModuleParams {
  /** npt of kvm_amd: nested paging; without it the guest's tables are shadowed. */
  npt: boolean;
  /** tdp_mmu: nested tables are the TDP MMU's; else they are made of direct shadow pages. */
  tdpMmu: boolean;
  /** eager_page_split: huge pages are split when dirty logging begins, not by the first write to each. */
  eagerPageSplit: boolean;
  /** nx_huge_pages: a huge page is not executable, and is split when it is executed. */
  nxHugePages: boolean;
  /** nx_huge_pages_recovery_ratio: each round of recovery takes one in so many of the split pages; 0: none. */
  nxHugePagesRecoveryRatio: number;
  /** nx_huge_pages_recovery_period_ms; 0: an hour, divided by the ratio. */
  nxHugePagesRecoveryPeriodMs: number;
}

/** What a module has that is loaded on a CPU without the iTLB multihit erratum. */
export function defaultModuleParams(): ModuleParams {
  return {
    npt: true,
    tdpMmu: true,
    eagerPageSplit: true,
    nxHugePages: false,
    nxHugePagesRecoveryRatio: 60,
    nxHugePagesRecoveryPeriodMs: 0,
  };
}
