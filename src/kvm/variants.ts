/**
 * Designs that exist more than once, in Linux's history or in a thread: which one this VM runs.
 *
 * A kernel version is a named set of variants. The default is Linux 7.2.
 */
import { UsageError } from "../engine/index.ts";
import { type FixName, NOTHING_UNDONE } from "./fixes.ts";

/** The recorded kernels. */
export type KernelVersion = "6.12" | "7.2";

/** How the CPU translates guest-physical addresses; `ept-no-ad` has no accessed and dirty bits. */
export type Paging = "npt" | "ept" | "ept-no-ad";

/** Protocols of gfn_to_pfn_cache against invalidation (kvm/gpc-protocols.ts). */
export type GpcDesign = "D0" | "D1" | "D2" | "D3" | "D3'" | "D3s" | "D4" | "D4-nomb" | "D5";

/**
 * In which steps a whole root is zapped: level by level from the bottom (6.9 and later), at 1G and then the rest (5.18 to 6.8), or
 * all at once at the root's level (before).
 */
export type RootZap = "per-level" | "two-passes" | "one-pass";

/** How unlinked shadow pages are freed (kvm/shadow/free-designs.ts); Linux: sync. */
export type ShadowFree = "sync" | "flagged" | "rcu" | "ipi-all" | "capped-sync" | "capped-spin" | "capped-parked";

/**
 * How aging walks the reverse maps of 7.2, which does not hold mmu_lock (kvm/shadow/age-designs.ts); Linux: bit-lock. Not for 6.12, which holds it.
 */
export type RmapAging = "bit-lock" | "bare" | "recheck" | "preemptible" | "early-unlock" | "ad-only" | "plain-mark";

/**
 * What becomes of a store to a shadowed frame that the emulator cannot carry out (kvm/emulate.ts).
 *
 *     report                  Linux 6.12 and later: the frame's shadow pages go and the guest tries again, but not where the walk itself needs the
 *                             frame's table (EMULTYPE_WRITE_PF_TO_SP), nor twice at one place: that is the VMM's to know
 *     unprotect-then-report   93c05d3ef252 (3.9) to 6.11: the same look at the walk, after the shadow pages are gone; none at the place
 *     retry-once              only the look at the place
 *     retry                   before: the shadow pages go and the guest tries again, always
 */
export type FailedEmulation = "report" | "unprotect-then-report" | "retry-once" | "retry";

/**
 * When the size of a guest's page is chosen, as against the making of shadow pages for the tables on the way to it, which may forbid a large one.
 *
 *     after-tables     Linux 6.12 and later
 *     self-map-first   7751babd3c6d (3.9): before, and 4K when a table on the way lies in the page
 *     before-tables    earlier: before; a page that turns out to be too large is handled as {@link KvmVariants.largeProtected} says
 */
export type PageSizing = "after-tables" | "self-map-first" | "before-tables";

export interface KvmVariants {
  readonly kernel: KernelVersion;
  readonly paging: Paging;
  /** The CPU logs what it writes (PML), so that dirty logging takes D from the entries of 4K pages, not W; with `ept` paging only. */
  readonly pml: boolean;
  /** NPT: levels of the host's own tables (5: LA57), which it follows. EPT: the most that the CPU walks. */
  readonly maxTdpLevel: 4 | 5;
  /** Bits of the guest's physical addresses (CPUID 0x80000008); with EPT a fifth level is used only for more than 48. */
  readonly maxPhyAddr: number;
  readonly gpc: GpcDesign;
  readonly rootZap: RootZap;
  readonly shadowFree: ShadowFree;
  /** Of the capped designs: how many shadow pages may wait for a grace period. */
  readonly shadowFreeCap: number;
  readonly rmapAging: RmapAging;
  /** Whether pte_list_add() takes the lock bit of a reverse map that is not empty (Linux 7.2). */
  readonly rmapAddLocks: boolean;
  /**
   * Shadow MMU of 7.2: whoever changes an entry without A/D bits exchanges it, always (Linux), or only where 6.12 would: while it is access-tracked, or
   * MMU-writable and not writable.
   */
  readonly adDisabledVolatile: boolean;
  /** Whether the TDP MMU's reference of an invalidated root is given back when the root has been zapped (Linux), or before. */
  readonly rootPut: "after-zap" | "before-zap";
  /** Who zaps invalidated roots: the memslot ioctl itself (Linux 6.6 and later), or a worker, after the ioctl has gone on (5.18 to 6.5). */
  readonly rootZapper: "caller" | "worker";
  /** Entries of a table that is unlinked under mmu_lock held for read are frozen (Linux), or only zapped. */
  readonly freezesEntries: boolean;
  /** Zapping a leaf marks the page accessed in struct page: up to 6.12. */
  readonly writesBack: boolean;
  /**
   * How often a refresh may start over before it gives up; Infinity in Linux. A bounded exploration needs a bound, and loses nothing by it: an
   * attempt that is thrown away leaves no trace, so a later attempt is the same as a first one made later.
   */
  readonly gpcRetriesMax: number;
  /**
   * How often a vCPU may fault on one instruction before its thread gives up; Infinity in Linux, where a guest that touches a range under
   * invalidation faults again and again. The same holds as for gpcRetriesMax.
   */
  readonly faultsMax: number;
  /**
   * Whether need_resched() may say so: a walk under mmu_lock then drops the lock at any entry where Linux looks. Where it never does, such walks
   * are one piece, as they are when nobody else runs.
   */
  readonly yields: boolean;
  /** Shadow pages that kvm_zap_obsolete_pages() zaps before it looks whether somebody waits for mmu_lock (BATCH_ZAP_PAGES, 10). */
  readonly zapBatch: number;
  /** KVM_X86_QUIRK_SLOT_ZAP_ALL: deleting or moving a memslot drops the whole MMU's roots, not only what the slot has mapped. */
  readonly slotZapAll: boolean;
  /**
   * Guest frames from here on do not exist, as if the guest had so narrow physical addresses; Infinity: what the tables can map. A bounded
   * exploration is spared the entries that nothing of its scenario can ever use.
   */
  readonly gfnEnd: number;
  /**
   * Entries of shadow pages from here on are never used, and need not be looked at when a page is zapped or brought in step; Infinity: all may be. A bounded
   * exploration is spared the entries that nothing of its scenario can ever use; using one all the same is an error of the scenario.
   */
  readonly tableEntriesEnd: number;
  readonly failedEmulation: FailedEmulation;
  readonly pageSizing: PageSizing;
  /** A large SPTE over a frame that has to be write-protected: becomes read-only (c126d94f2c90, 3.11), or is dropped. */
  readonly largeProtected: "read-only" | "dropped";
  /** A large SPTE that stands where a table is needed is dropped. Without it the walk of a direct fault ends there (404381c5839d). */
  readonly largeMakesWay: boolean;
  /** fast_page_fault() gives W back to a large SPTE, too, while writes are logged by the 4K page: caf6900f2d8a, reverted by 6b73a9606. */
  readonly fastFixesLarge: boolean;
  /** Last-level tables may become unsync, so that the guest can write them. */
  readonly unsync: boolean;
  /** Whether a table is marked unsync before the guest can write it (Linux: smp_wmb()), or after, as a compiler could have it without the barrier. */
  readonly unsyncMark: "before-writable" | "after-writable";
  /** A fault in the delivery of an event zaps the shadow pages of its frame before anything else is asked (up to 6.11), or only if it must. */
  readonly unprotectsAtEntry: boolean;
  /**
   * Shadow pages that there are, to be used again once they are freed; 0: each has an address of its own, so that no stale pointer goes unnoticed. With
   * addresses that come back a loop that zaps and makes pages leads back to a known state.
   */
  readonly shadowPagePool: number;
  /** Fixes of Linux's history that this VM does without (kvm/fixes.ts). */
  readonly undone: ReadonlySet<FixName>;
}

export const LINUX_7_2: KvmVariants = {
  kernel: "7.2",
  paging: "npt",
  pml: false,
  maxTdpLevel: 4,
  maxPhyAddr: 48,
  gpc: "D0",
  rootZap: "per-level",
  shadowFree: "sync",
  shadowFreeCap: Number.POSITIVE_INFINITY,
  rmapAging: "bit-lock",
  rmapAddLocks: true,
  adDisabledVolatile: true,
  rootPut: "after-zap",
  rootZapper: "caller",
  freezesEntries: true,
  writesBack: false,
  gpcRetriesMax: Number.POSITIVE_INFINITY,
  faultsMax: Number.POSITIVE_INFINITY,
  yields: false,
  zapBatch: 10,
  slotZapAll: true,
  gfnEnd: Number.POSITIVE_INFINITY,
  tableEntriesEnd: Number.POSITIVE_INFINITY,
  failedEmulation: "report",
  pageSizing: "after-tables",
  largeProtected: "read-only",
  largeMakesWay: true,
  fastFixesLarge: false,
  unsync: true,
  unsyncMark: "before-writable",
  unprotectsAtEntry: false,
  shadowPagePool: 0,
  undone: NOTHING_UNDONE,
};
export const LINUX_6_12: KvmVariants = { ...LINUX_7_2, kernel: "6.12" };

/** @throws UsageError for an unknown version */
export function variantsOfKernel(version: string): KvmVariants {
  const bare = version.replace(/^v/, "");
  if (bare === "7.2") return LINUX_7_2;
  if (bare === "6.12") return LINUX_6_12;
  throw new UsageError(`kernel ${version}: not modelled; use 6.12 or 7.2`);
}
