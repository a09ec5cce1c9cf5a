/**
 * Which kernel function each of ours stands for.
 *
 * A function whose comment begins with the kernel's name, as `tdp_mmu_zap_root()`, is found by that (kernel-names.ts); here are the others.
 * docs/kernel-map.md says what is left out of each, and a test keeps the two equal. Race diagrams take their headings from here, so that a
 * reader finds the names of the kernel's source and not those of helpers that only the model has: a step is headed by the innermost function
 * on its stack that is listed. Several of ours may stand for parts of one kernel function.
 *
 * Nothing that is modelled imports this.
 */
import { kernelName, type SourcePlace } from "../engine/index.ts";
import { KERNEL_NAMES } from "./kernel-names.ts";

type Names = Readonly<Record<string, string>>;

const RANGE_START = "kvm_mmu_notifier_invalidate_range_start";
const RANGE_END = "kvm_mmu_notifier_invalidate_range_end";

/** Functions that stand for a part of a kernel function, or whose comment begins otherwise than with its name. */
const PARTS: Names = {
  GfnToPfnCache: "kvm_gpc_init",
  resolveUhva: "__kvm_gpc_refresh",
  gpcCommit: "hva_to_pfn_retry",
  hvaToPfnRetry: "hva_to_pfn_retry",
  retryLoop: "hva_to_pfn_retry",
  lookUp: "hva_to_pfn_retry",
  mayMatch: "gfn_to_pfn_cache_invalidate_start",
  clearIfMatching: "gfn_to_pfn_cache_invalidate_start",
  invalidateStart: RANGE_START,
  invalidateEnd: RANGE_END,
  kvmMmuNotifierInvalidateRangeStart: RANGE_START,
  kvmMmuNotifierInvalidateRangeEnd: RANGE_END,
  overlapping: "__kvm_handle_hva_range",
  kvmMmuInvalidateRangeAdd: "kvm_mmu_invalidate_range_add",
  gfnRangeOf: "hva_to_gfn_memslot",
  waitForInvalidations: "kvm_swap_active_memslots",
  kvmArchVcpuIoctlRun: "kvm_arch_vcpu_ioctl_run",
  handleExit: "npf_interception",
  walkOnce: "FNAME(walk_addr_generic)",
  walkAndMap: "kvm_tdp_mmu_map",
  tryFastPageFault: "fast_page_fault",
  findRoot: "kvm_tdp_mmu_try_get_root",
  tdpMmuSetSpte: "tdp_mmu_set_spte",
  tryStepDown: "try_step_down",
  tryStepSide: "try_step_side",
  tryStepUp: "try_step_up",
  spinLock: "spin_lock",
  spinUnlock: "spin_unlock",
  readLock: "read_lock",
  readUnlock: "read_unlock",
  writeLock: "write_lock",
  writeUnlock: "write_unlock",
  mutexLock: "mutex_lock",
  mutexUnlock: "mutex_unlock",
  assertHeldRead: "lockdep_assert_held_read",
  assertHeldWrite: "lockdep_assert_held_write",
  rcuReadLock: "rcu_read_lock",
  rcuReadUnlock: "rcu_read_unlock",
  synchronizeRcu: "synchronize_rcu",
  srcuReadUnlock: "srcu_read_unlock",
  synchronizeSrcu: "synchronize_srcu",
  madviseDontneed: "madvise_dontneed_free",
  mmapFixed: "mmap_region",
  mprotect: "mprotect_fixup",
  changeProtection: "change_protection",
  protectPage: "change_pte_range",
  mremap: "move_vma",
  moveEntry: "move_page_tables",
  fillEntry: "handle_mm_fault",
  doFault: "do_fault",
  doHugeWpPage: "do_huge_pmd_wp_page",
  madviseFree: "madvise_free_single_vma",
  madviseCold: "madvise_cold",
  madvisePageout: "madvise_pageout",
  madvisePopulate: "madvise_populate",
  punchHole: "shmem_fallocate",
};

/** Our functions below src/kvm, src/kernel and src/machine, and the kernel's. */
export const KERNEL_MAP: Names = { ...KERNEL_NAMES, ...PARTS };

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
    ...Object.entries(functions).map(([ours, name]): [string, string] => [kernelName(ours), kernelText(name)]),
    ...Object.entries(agents).map(([ours, text]): [string, string] => [kernelName(ours), text]),
  ]);
}

/** As kernel developers write it: `make_spte()`, `FNAME(fetch)` of a function that is compiled once for each kind of guest paging. */
export function kernelText(name: string): string {
  return name.endsWith(")") ? name : `${name}()`;
}

/** A source of the modelled system, and its name; as it was written or as it was built. */
const MODELLED = /[\\/](?:kvm|kernel|machine)[\\/](?:\w+[\\/])?([\w-]+)\.[jt]s$/;

/** What a diagram writes above the steps of a function; null for the model's own helpers, and for functions of a study. */
export function headingOf({ file, function: name }: SourcePlace): string | null {
  // The kernel's own source; what is inline in a header stands under the function around it.
  if (file.endsWith(".c")) return `${name}() ${file.slice(file.lastIndexOf("/") + 1)}`;
  const module = MODELLED.exec(file)?.[1];
  if (module === undefined) return null;
  return HEADINGS_OF_FILE.get(module)?.get(name) ?? HEADINGS.get(name) ?? null;
}
