/** The kernel's own source under the checker, where compilers and a kernel source are installed (scripts/ci-packages.sh). */
import { expect, test } from "vitest";
import { changed, kernelSource, verdictsOn } from "./kernel.ts";

const { source, missing } = kernelSource();
if (missing !== null) console.warn(`test/source: skipped: ${missing}`);

/** hva_to_pfn_retry() without the look back after gpc->lock was taken again. */
const NO_RETRY = `--- a/virt/kvm/pfncache.c
+++ b/virt/kvm/pfncache.c
@@ -217,7 +217,7 @@
 		 * attempting to refresh.
 		 */
 		WARN_ON_ONCE(gpc->valid);
-	} while (mmu_notifier_retry_cache(kvm, mmu_seq));
+	} while (0);
 
 	gpc->valid = true;
 	gpc->pfn = new_pfn;
`;

/** The atomic change of an SPTE as a plain store. */
const NO_CMPXCHG = `--- a/arch/x86/kvm/mmu/tdp_mmu.c
+++ b/arch/x86/kvm/mmu/tdp_mmu.c
@@ -584,8 +584,7 @@
 	 * Note, fast_pf_fix_direct_spte() can also modify TDP MMU SPTEs and
 	 * does not hold the mmu_lock.
 	 */
-	if (!try_cmpxchg64(sptep, &iter->old_spte, new_spte))
-		return -EBUSY;
+	WRITE_ONCE(*sptep, new_spte);
 
 	__handle_changed_spte(kvm, iter->as_id, iter->gfn, iter->old_spte,
 			      new_spte, iter->level, true);
`;

/** walk_shadow_page_lockless_begin() without the barrier after the store of the mode. */
const NO_BARRIER = changed(
  "arch/x86/kvm/mmu/mmu.c",
  646,
  "\t\tsmp_store_mb(vcpu->mode, READING_SHADOW_PAGE_TABLES);",
  "\t\tWRITE_ONCE(vcpu->mode, READING_SHADOW_PAGE_TABLES);",
);

/** Whoever asks for the age of pages takes no mmu_lock: of the notifier's handlers the one that may block takes it. */
const AGES_WITHOUT_LOCK = `${changed(
  "virt/kvm/kvm_main.c",
  629,
  "\t\t\t\tKVM_MMU_LOCK(kvm);",
  "\t\t\t\tif (range->may_block) KVM_MMU_LOCK(kvm);",
)}${changed("virt/kvm/kvm_main.c", 643, "\t\tKVM_MMU_UNLOCK(kvm);", "\t\tif (range->may_block) KVM_MMU_UNLOCK(kvm);")}`;

/** The notifier passes over roots that are invalid already: without d62007edf01f. */
const VALID_ROOTS_ONLY = changed(
  "arch/x86/kvm/mmu/tdp_mmu.c",
  1203,
  "\t__for_each_tdp_mmu_root_yield_safe(kvm, root, range->slot->as_id, false, false)",
  "\t__for_each_tdp_mmu_root_yield_safe(kvm, root, range->slot->as_id, false, true)",
);

/** A fault does not look whether its root became obsolete. */
const MAPS_IN_OBSOLETE = changed(
  "arch/x86/kvm/mmu/mmu.c",
  4229,
  "\tif (sp && is_obsolete_sp(vcpu->kvm, sp))",
  "\tif (0)",
);

/** fast_page_fault() gives W back to a page of any size. */
const FIXES_LARGE = changed(
  "arch/x86/kvm/mmu/mmu.c",
  3402,
  "\t\t\t    kvm_slot_dirty_track_enabled(fault->slot))",
  "\t\t\t    0)",
);

test.skipIf(missing !== null)(
  "gpc-refresh on Linux 6.1: isolation holds and a storm starves; without the retry isolation fails",
  { timeout: 900_000 },
  async () => {
    const rows = await verdictsOn(source, "gpc-refresh", NO_RETRY, ["use", "readers", "storm"]);
    expect(rows.map(({ text }) => text)).toEqual([
      "D0 use isolation holds",
      "D0 readers isolation holds",
      "D0 storm progress fails",
      "patched use isolation fails",
      "patched readers isolation fails",
      "patched storm progress holds",
    ]);
    expect(rows[2]?.diagram).toContain("pfncache.c");
    expect(rows[3]?.diagram).toContain("213: write_lock(&gpc->lock)");
  },
);

test.skipIf(missing !== null)(
  "TDP faults on Linux 6.1: they hold; with a plain store for the compare-exchange they do not",
  { timeout: 900_000 },
  async () => {
    const rows = await verdictsOn(source, "tdp-fault", NO_CMPXCHG, ["two-faults", "fault-unmap"]);
    expect(rows.map(({ text }) => text)).toEqual([
      "linux two-faults final holds",
      "linux fault-unmap isolation holds",
      "patched two-faults final fails",
      "patched fault-unmap isolation holds",
    ]);
    expect(rows[2]?.diagram).toContain("tdp_mmu_set_spte_atomic() tdp_mmu.c");
  },
);

test.skipIf(missing !== null)(
  "lockless-walk on Linux 6.1: the zap waits for the walk; without the barrier after the mode it does not, under TSO",
  { timeout: 900_000 },
  async () => {
    const rows = await verdictsOn(source, "lockless-walk", NO_BARRIER, ["vcpu-walk"], "tso");
    expect(rows.map(({ text }) => text)).toEqual([
      "V0 vcpu-walk use-after-free holds",
      "patched vcpu-walk use-after-free fails",
    ]);
    expect(rows[1]?.diagram).toContain("cmpxchg(kvm_vcpu->mode, 1, 2)");
  },
);

test.skipIf(missing !== null)(
  "lockless-aging on Linux 6.1: who asks waits for the zap; without mmu_lock it reads a freed page, and loses its mark",
  { timeout: 900_000 },
  async () => {
    const rows = await verdictsOn(source, "lockless-aging", AGES_WITHOUT_LOCK, ["zap", "fast-fault", "logging-no-ad"]);
    expect(rows.map(({ text }) => text)).toEqual([
      "A0 zap use-after-free holds",
      "A0 fast-fault final holds",
      "A0 logging-no-ad final holds",
      "patched zap use-after-free fails",
      "patched fast-fault final holds",
      "patched logging-no-ad final fails",
    ]);
    expect(rows[3]?.diagram).toContain("kvm_mmu_free_shadow_page() mmu.c");
  },
);

test.skipIf(missing !== null)(
  "lazy-large-spte on Linux 6.1: no write is lost; with W for 512 pages one is",
  { timeout: 900_000 },
  async () => {
    const rows = await verdictsOn(source, "lazy-large-spte", FIXES_LARGE, ["reads", "writes-alone", "one-write"]);
    expect(rows.map(({ text }) => text)).toEqual([
      "linux reads final holds",
      "linux writes-alone final holds",
      "linux one-write progress holds",
      "patched reads final holds",
      "patched writes-alone final fails",
      "patched one-write progress holds",
    ]);
  },
);

test.skipIf(missing !== null)(
  "root-zap on Linux 6.1: the notifier finds an invalid root; with valid ones only a mapping outlives its page",
  { timeout: 900_000 },
  async () => {
    const rows = await verdictsOn(source, "root-zap", VALID_ROOTS_ONLY, ["unmap"]);
    expect(rows.map(({ text }) => text)).toEqual(["linux unmap isolation holds", "patched unmap isolation fails"]);
    expect(rows[1]?.diagram).toContain("tdp_mmu_iter_cond_resched()");
  },
);

test.skipIf(missing !== null)(
  "root-zap on Linux 6.1: nothing is mapped in a root that was zapped; without the look at its age something is",
  { timeout: 900_000 },
  async () => {
    const rows = await verdictsOn(source, "root-zap", MAPS_IN_OBSOLETE, ["fault"]);
    expect(rows.map(({ text }) => text)).toEqual(["linux fault final holds", "patched fault final fails"]);
    expect(rows[1]?.diagram).toContain("kvm_tdp_mmu_invalidate_all_roots()");
  },
);
