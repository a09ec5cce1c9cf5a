/**
 * Fixes of Linux's history that can be undone: a VM whose variants name one runs as if it had never been made.
 *
 * Each is asked for at the one place where the fix stands ({@link Kvm.lacks}), so that the code without it is the MMU's own, and what a study finds in
 * it is what the checker would have found at the time. A name with a slash is one of several parts that a fix or a rule has, each of which is needed.
 *
 * Ids are those of Linux's commits, or of a CVE where only that is known. Those in REMEMBERED were not looked up anywhere.
 */

export interface Fix {
  /** Its number in the list of bugs (docs/bugs.md), and a letter for each of several parts. */
  readonly bug: string;
  /** The commit that made it; for a rule that was always there, the one that states it. */
  readonly commit: string;
  /** The code without it, in one clause. */
  readonly without: string;
}

export const FIXES = {
  "gpc-refresh-in-notifier-window": {
    bug: "T03",
    commit: "58cd407ca4c6",
    without: "a refresh asks mmu_invalidate_in_progress, which start() raises after it has been to the caches",
  },
  "enter-guest-mode-without-full-fence/vcpu": {
    bug: "T04a",
    commit: "6b7e2d099148",
    without: "a vCPU leaves SRCU first and then stores its mode: no barrier before it reads its requests",
  },
  "enter-guest-mode-without-full-fence/requester": {
    bug: "T04b",
    commit: "6b7e2d099148",
    without: "a request is stored plainly, and the mode read plainly after it",
  },
  "lockless-walk-vs-free/fence": {
    bug: "T05a",
    commit: "c142786c6291",
    without: "no barrier between the walker's mode and its first entry",
  },
  "lockless-walk-vs-free/mode": {
    bug: "T05b",
    commit: "c142786c6291",
    without: "the walker has interrupts off, and does not say so by its mode",
  },
  "lockless-walk-vs-free/wait": {
    bug: "T05c",
    commit: "c142786c6291",
    without: "who frees sends the interrupt, and does not wait until it is taken",
  },
  "fault-on-root-invalidated-by-memslot": {
    bug: "T07",
    commit: "a955cad84cda",
    without: "a fault looks only at the sequence, not whether its root is still valid",
  },
  "fault-retry-sample-order/a": {
    bug: "T11a",
    commit: "ba6e3fe25543",
    without: "the sequence is read after the page was looked up",
  },
  "fault-retry-sample-order/b": {
    bug: "T11b",
    commit: "ba6e3fe25543",
    without: "end() lowers the count of invalidations in flight before it moves the sequence",
  },
  "fault-retry-sample-order/c": {
    bug: "T11c",
    commit: "ba6e3fe25543",
    without: "who looks without mmu_lock reads the sequence before the count",
  },
  "fault-retry-sample-order/d": {
    bug: "T11d",
    commit: "ba6e3fe25543",
    without: "invalidations in progress are not looked at, only those that have ended",
  },
  "gpc-speculatively-valid": {
    bug: "T18",
    commit: "58cd407ca4c6",
    without: "a refresh sets `valid` before it drops gpc->lock to look the page up",
  },
  "gpc-refresh-while-inactive": {
    bug: "T19",
    commit: "ecbcf030b456",
    without: "check and refresh do not ask whether the cache is active, that is, on the list",
  },
  "invalid-slot-treated-as-mmio": {
    bug: "T13",
    commit: "e0c378684b65",
    without: "a fault that finds an invalid memslot takes the frame for MMIO",
  },
  "memslot-swap-unbalances-notifier": {
    bug: "T14",
    commit: "52ac8b358b0c",
    without: "a memslot update does not wait for invalidations between start and end",
  },
  "mmio-cached-under-new-generation": {
    bug: "T20",
    commit: "ee3d1570b586",
    without: "the memslots have their final generation as soon as they are published",
  },
  "zap-gfn-range-does-not-block-faults": {
    bug: "T30",
    commit: "edb298c663fc",
    without: "a range that is zapped for a reason of KVM's own is no invalidation: faults under way do not see it",
  },
  "apic-page-reloaded-before-unmap": {
    bug: "T12",
    commit: "e649b3f0188f",
    without: "the APIC's page is looked up without a look at invalidations in progress",
  },
  "pv-tlb-flush-flag-lost": {
    bug: "T10",
    commit: "b043138246a4",
    without: "what a vCPU was asked while it had no CPU is read, and then overwritten",
  },
  "tdp-plain-write-loses-dirty": {
    bug: "T02",
    commit: "ba3a6120a4e7",
    without: "an entry of the TDP MMU is stored plainly, and what was read before counts as its old value",
  },
  "dirty-log-flush-after-unlock": {
    bug: "T01",
    commit: "6dbf79e7164e",
    without: "write protection looks at W alone: without it nothing is flushed, though who took it has yet to flush",
  },
  "fast-fault-aba-indirect": {
    bug: "T26",
    commit: "c7ba5b48cc8d",
    without: "fast page faults mend entries of indirect pages, too",
  },
  "sync-drops-spte-without-flush": {
    bug: "T27",
    commit: "a4ee1ca4a36e",
    without: "what is dropped when a page is brought in step is not flushed: the guest does so anyway",
  },
  "shadow-entry-from-stale-gpte": {
    bug: "T28",
    commit: "f7d9c7b7b902",
    without: "a fault reads the guest's entries again only where it makes a shadow page, not where there is one",
  },
  "aging-clobbers-frozen-spte": {
    bug: "T08",
    commit: "3d679b7cb31f",
    without: "aging takes A away by a locked and, whatever stands there by now",
  },
  "nx-list-add-after-zap": {
    bug: "T09",
    commit: "21a36ac6b6c7",
    without: "a table is listed for NX recovery although it may have been unlinked meanwhile",
  },
  "notifier-start-without-end": {
    bug: "T15",
    commit: "c2655835fd8c",
    without: "when one user of a range cannot begin without sleeping, those that have begun are not told",
  },
  "dirty-log-enable-skips-flush": {
    bug: "T21",
    commit: "b64d740ea7dd",
    without: "when logging begins, TLBs are flushed only if an entry has lost W",
  },
  "yield-drops-flush-of-previous-root": {
    bug: "T22",
    commit: "a835429cda91",
    without: "the flush that is due is known for each root by itself",
  },
  "nx-recovery-forgets-tdp-flush": {
    bug: "T23",
    commit: "048f49809c52",
    without: "NX recovery does not flush for tables of the TDP MMU",
  },
  "tdp-iter-skips-after-yield": {
    bug: "T24",
    commit: "3a0f64de479c",
    without: "a walk starts again as soon as it has the lock again, and then steps on",
  },
  "two-wrprot-walkers-livelock": {
    bug: "T25",
    commit: "ed5e484b79e8",
    without: "a walk drops the lock whenever it is asked to, and starts again where the range begins",
  },
  "prefault-deadlocks-memslot-update": {
    bug: "T31",
    commit: "3ccbf6f47098",
    without: "a pre-fault that finds an invalid memslot tries again, inside its SRCU section",
  },
  "prefault-on-obsolete-root": {
    bug: "T55",
    commit: "20a6cff3b283",
    without: "a pre-fault goes on with a root that was invalidated before it began",
  },
  "direct-page-reused-for-other-gfn": {
    bug: "T39",
    commit: "0cb2af2ea66a",
    without: "a table that stands in the entry is used again, whatever frames it maps and whatever its role",
  },
  "mmio-spte-over-present-spte": {
    bug: "T40",
    commit: "aad885e77496",
    without: "an entry for MMIO is written over whatever stands there",
  },
  "inherited-permissions": {
    bug: "T41",
    commit: "b1bd5cba3306",
    without:
      "the page of every table on the way has the rights of the last one (and a table that stands in the entry is used again)",
  },
  "link-before-sync": {
    bug: "T42",
    commit: "65855ed8b034",
    without: "a page is linked although something below it is out of step",
  },
  "mmu-seq-sign-extension": {
    bug: "T47",
    commit: "ba6e3fe25543",
    without: "the sequence goes through an int on its way to the comparison",
  },
  "sync-page-loses-dirty": {
    bug: "T43",
    commit: "9ed5520dd3c9",
    without: "an entry that is made anew is written over, and nobody asks whether it was dirty",
  },
  "emulated-cmpxchg-not-dirty": {
    bug: "T44",
    commit: "910c57dfa4d1",
    without: "the page that a locked instruction of the guest was carried out on is not marked dirty",
  },
  "dirty-ring-offset-wraps": {
    bug: "T50",
    commit: "CVE-2026-52969",
    without:
      "of what the VMM has written into a ring's entry only offset plus highest bit is compared with the slot's size",
  },
  "gpte-cmpxchg-on-guessed-frame": {
    bug: "T51",
    commit: "2a8859f373b0",
    without:
      "A and D of a table in a driver's memory are set in the frame that the VMA would have there if its frames lay in a row",
  },
  "pfn-mapped-page-without-refcount": {
    bug: "T52",
    commit: "f8be156be163",
    without: "a fault takes a reference on a driver's page, and gives it back, whether or not the page is counted",
  },
  "role-lacks-a-mode-bit/cr0_wp": {
    bug: "T53a",
    commit: "3dbe141595fa",
    without: "pages made with CR0.WP clear are used with CR0.WP set",
  },
  "role-lacks-a-mode-bit/smep": {
    bug: "T53b",
    commit: "411c588dfb86",
    without: "with CR0.WP clear, pages made without SMEP are used with SMEP",
  },
  "role-lacks-a-mode-bit/smap": {
    bug: "T53c",
    commit: "0be0226f07d1",
    without: "with CR0.WP clear, pages made without SMAP are used with SMAP",
  },
  "zap-batch-not-counted": {
    bug: "T48",
    commit: "b28cb0cd2c5e",
    without:
      "a zapped page counts towards the batch, after which others may have mmu_lock, only if others went with it",
  },
  "frozen-counted-as-large": {
    bug: "T54",
    commit: "088acd235266",
    without: "the statistics tell large pages by bit 7 alone, which a frozen entry has too",
  },
} as const satisfies Readonly<Record<string, Fix>>;

export type FixName = keyof typeof FIXES;

/** Ids that nobody has looked up. */
export const REMEMBERED: ReadonlySet<string> = new Set([
  "20a6cff3b283",
  "b64d740ea7dd",
  "088acd235266",
  "f8be156be163",
  "3dbe141595fa",
  "411c588dfb86",
  "0be0226f07d1",
  "c7ba5b48cc8d",
]);

export const NOTHING_UNDONE: ReadonlySet<FixName> = new Set();
