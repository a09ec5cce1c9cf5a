/**
 * Which kernel function each of ours stands for.
 *
 * docs/kernel-map.md says what is left out of each, and a test keeps the two equal. Race diagrams take their headings from here, so that a
 * reader finds the names of the kernel's source and not those of helpers that only the model has: a step is headed by the innermost function
 * on its stack that is listed. Several of ours may stand for parts of one kernel function.
 *
 * Nothing that is modelled imports this.
 */
import { kernelName, type SourcePlace } from "../engine/index.ts";

type Names = Readonly<Record<string, string>>;

const RANGE_START = "kvm_mmu_notifier_invalidate_range_start";
const RANGE_END = "kvm_mmu_notifier_invalidate_range_end";

/** Our functions below src/kvm, src/kernel and src/machine, and the kernel's. */
export const KERNEL_MAP: Names = {
  // --- virt/kvm ------------------------------------------------------------------------------------------------------
  GfnToPfnCache: "kvm_gpc_init",
  kvmGpcActivate: "kvm_gpc_activate",
  kvmGpcCheck: "kvm_gpc_check",
  kvmGpcRefresh: "kvm_gpc_refresh",
  kvmGpcDeactivate: "kvm_gpc_deactivate",
  refreshLocked: "__kvm_gpc_refresh",
  resolveUhva: "__kvm_gpc_refresh",
  gpcCommit: "hva_to_pfn_retry",
  hvaToPfnRetry: "hva_to_pfn_retry",
  retryLoop: "hva_to_pfn_retry",
  lookUp: "hva_to_pfn_retry",
  mmuNotifierRetryCache: "mmu_notifier_retry_cache",
  clearMatching: "gfn_to_pfn_cache_invalidate_start",
  mayMatch: "gfn_to_pfn_cache_invalidate_start",
  clearIfMatching: "gfn_to_pfn_cache_invalidate_start",
  isPending: "gpc_invalidations_pending",
  invalidateStart: RANGE_START,
  invalidateEnd: RANGE_END,
  kvmMmuNotifierInvalidateRangeStart: RANGE_START,
  kvmMmuNotifierInvalidateRangeEnd: RANGE_END,
  overlapping: "__kvm_handle_hva_range",
  kvmMmuInvalidateBegin: "kvm_mmu_invalidate_begin",
  kvmMmuInvalidateRangeAdd: "kvm_mmu_invalidate_range_add",
  kvmMmuInvalidateEnd: "kvm_mmu_invalidate_end",
  mmuInvalidateRetryGfn: "mmu_invalidate_retry_gfn",
  mmuInvalidateRetryGfnUnsafe: "mmu_invalidate_retry_gfn_unsafe",
  kvmMemslots: "kvm_memslots",
  gfnToMemslot: "gfn_to_memslot",
  gfnToHva: "__gfn_to_hva_memslot",
  gfnRangeOf: "hva_to_gfn_memslot",
  kvmCreateMemslot: "kvm_create_memslot",
  kvmDeleteMemslot: "kvm_delete_memslot",
  replaceSlots: "kvm_swap_active_memslots",
  waitForInvalidations: "kvm_swap_active_memslots",
  fill: "kvm_replace_memslot",
  kvmCheckRequest: "kvm_check_request",
  kvmMakeAllCpusRequest: "kvm_make_all_cpus_request",
  kvmFlushRemoteTlbs: "kvm_flush_remote_tlbs",
  // --- arch/x86/kvm --------------------------------------------------------------------------------------------------
  kvmArchVcpuIoctlRun: "kvm_arch_vcpu_ioctl_run",
  vcpuEnterGuest: "vcpu_enter_guest",
  handleExit: "npf_interception",
  kvmMmuPageFault: "kvm_mmu_page_fault",
  kvmTdpMmuPageFault: "kvm_tdp_mmu_page_fault",
  kvmMmuFaultinPfn: "kvm_mmu_faultin_pfn",
  isPageFaultStale: "is_page_fault_stale",
  kvmMmuHugepageAdjust: "kvm_mmu_hugepage_adjust",
  kvmMmuMaxMappingLevel: "kvm_mmu_max_mapping_level",
  kvmTdpMmuMap: "kvm_tdp_mmu_map",
  walkAndMap: "kvm_tdp_mmu_map",
  tdpMmuMapHandleTargetLevel: "tdp_mmu_map_handle_target_level",
  pageFaultCanBeFast: "page_fault_can_be_fast",
  fastPageFault: "fast_page_fault",
  tryFastPageFault: "fast_page_fault",
  kvmMmuLoad: "kvm_mmu_load",
  kvmTdpMmuAllocRoot: "kvm_tdp_mmu_alloc_root",
  findRoot: "kvm_tdp_mmu_try_get_root",
  getRoot: "kvm_tdp_mmu_get_root",
  tdpMmuSetSpteAtomic: "tdp_mmu_set_spte_atomic",
  tdpMmuIterSetSpte: "tdp_mmu_iter_set_spte",
  tdpMmuSetSpte: "tdp_mmu_set_spte",
  kvmTdpMmuWriteSpte: "kvm_tdp_mmu_write_spte",
  handleChangedSpte: "handle_changed_spte",
  handleRemovedPt: "handle_removed_pt",
  tdpMmuAllocChildSp: "tdp_mmu_init_child_sp",
  tdpMmuLinkSp: "tdp_mmu_link_sp",
  kvmTdpMmuUnmapGfnRange: "kvm_tdp_mmu_unmap_gfn_range",
  tdpMmuZapLeafs: "tdp_mmu_zap_leafs",
  kvmTdpMmuZapAll: "kvm_tdp_mmu_zap_all",
  tdpMmuZapRoot: "tdp_mmu_zap_root",
  tdpIterStart: "tdp_iter_start",
  tdpIterRestart: "tdp_iter_restart",
  tdpIterNext: "tdp_iter_next",
  tryStepDown: "try_step_down",
  tryStepSide: "try_step_side",
  tryStepUp: "try_step_up",
  makeSpte: "make_spte",
  makeNonleafSpte: "make_nonleaf_spte",
  makeSmallSpte: "make_small_spte",
  spteHasVolatileBits: "spte_has_volatile_bits",
  checkSpteWritableInvariants: "check_spte_writable_invariants",
  isAccessAllowed: "is_access_allowed",
  tdpRootRole: "kvm_calc_tdp_mmu_root_page_role",
  // --- kernel/, lib/, include/linux ----------------------------------------------------------------------------------
  spinLock: "spin_lock",
  spinUnlock: "spin_unlock",
  readLock: "read_lock",
  readUnlock: "read_unlock",
  writeLock: "write_lock",
  writeUnlock: "write_unlock",
  mutexLock: "mutex_lock",
  mutexUnlock: "mutex_unlock",
  assertHeld: "lockdep_assert_held",
  assertHeldRead: "lockdep_assert_held_read",
  assertHeldWrite: "lockdep_assert_held_write",
  rcuReadLock: "rcu_read_lock",
  rcuReadUnlock: "rcu_read_unlock",
  rcuDereference: "rcu_dereference",
  synchronizeRcu: "synchronize_rcu",
  callRcu: "call_rcu",
  srcuReadLock: "srcu_read_lock",
  srcuReadUnlock: "srcu_read_unlock",
  synchronizeSrcu: "synchronize_srcu",
  prepareToWait: "prepare_to_wait",
  schedule: "schedule",
  finishWait: "finish_wait",
  wakeUp: "wake_up_all",
  // --- mm ------------------------------------------------------------------------------------------------------------
  getUserPageFast: "get_user_pages_fast_only",
  getUserPage: "hva_to_pfn",
  followOrFault: "get_user_pages_unlocked",
  hostMappingLevel: "host_pfn_mapping_level",
  notifyStart: "mmu_notifier_invalidate_range_start",
  notifyEnd: "mmu_notifier_invalidate_range_end",
  zapRange: "zap_page_range_single",
  madviseDontneed: "madvise_dontneed_free",
  unmapRange: "do_munmap",
  munmap: "do_munmap",
  mmapFixed: "mmap_region",
  mprotect: "mprotect_fixup",
  changeProtection: "change_protection",
  protectPage: "change_pte_range",
  mremap: "move_vma",
  moveEntry: "move_page_tables",
  vmaAt: "vma_lookup",
  splitVma: "split_vma",
  modifyVma: "vma_modify",
  mergeNeighbours: "vma_merge",
  vmaAdjustTransHuge: "vma_adjust_trans_huge",
  splitHugePmd: "__split_huge_pmd",
  fillEntry: "handle_mm_fault",
  doAnonymousPage: "do_anonymous_page",
  doHugePmdAnonymousPage: "do_huge_pmd_anonymous_page",
  isThpPossible: "thp_vma_suitable_order",
  doSwapPage: "do_swap_page",
  doFault: "do_fault",
  hugetlbNoPage: "hugetlb_no_page",
  mayReuse: "wp_can_reuse_anon_folio",
  wpPageCopy: "wp_page_copy",
  doHugeWpPage: "do_huge_pmd_wp_page",
  replaceHugePage: "do_huge_zero_wp_pmd",
  collapseHugePage: "collapse_huge_page",
  fork: "dup_mmap",
  shareEntry: "copy_present_pte",
  exitChild: "exit_mmap",
  writeProtectPage: "write_protect_page",
  replacePage: "replace_page",
  unmergePages: "unmerge_ksm_pages",
  madviseFree: "madvise_free_single_vma",
  madviseCold: "madvise_cold",
  madvisePageout: "madvise_pageout",
  reclaimPage: "shrink_folio_list",
  madvisePopulate: "madvise_populate",
  punchHole: "shmem_fallocate",
  truncate: "shmem_truncate_range",
  tryGetPage: "try_get_page",
  putPage: "put_page",
};

/** Where two of our functions have the same name: by file, without its folder. */
export const KERNEL_MAP_OF_FILE: Readonly<Record<string, Names>> = {
  "gpc-protocols": { waitForInvalidations: "gpc_wait_for_invalidations" },
};

/** What is no function of the kernel's, and yet says more to a reader than the kernel function that it runs under. */
const AGENTS: Names = {
  vmrun: "the guest runs",
  nptWalk: "the CPU walks NPT",
  guestWalk: "the CPU walks the guest's tables",
};

const HEADINGS = headings(KERNEL_MAP, AGENTS);
const HEADINGS_OF_FILE = new Map(Object.entries(KERNEL_MAP_OF_FILE).map(([file, map]) => [file, headings(map, {})]));

function headings(functions: Names, agents: Names): ReadonlyMap<string, string> {
  return new Map([
    ...Object.entries(functions).map(([ours, name]): [string, string] => [kernelName(ours), `${name}()`]),
    ...Object.entries(agents).map(([ours, text]): [string, string] => [kernelName(ours), text]),
  ]);
}

/** A source of the modelled system, and its name; as it was written or as it was built. */
const MODELLED = /[\\/](?:kvm|kernel|machine)[\\/](?:\w+[\\/])?([\w-]+)\.[jt]s$/;

/** What a diagram writes above the steps of a function; null for the model's own helpers, and for functions of a study. */
export function headingOf({ file, function: name }: SourcePlace): string | null {
  const module = MODELLED.exec(file)?.[1];
  if (module === undefined) return null;
  return HEADINGS_OF_FILE.get(module)?.get(name) ?? HEADINGS.get(name) ?? null;
}
