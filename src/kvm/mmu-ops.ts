/**
 * What the rest of KVM asks of the MMU, and the three MMUs that answer.
 *
 *     npt=1, tdp_mmu=1     the TDP MMU            (tdp-ops.ts)
 *     npt=1, tdp_mmu=0     direct shadow pages    (shadow/ops.ts)
 *     npt=0                shadow pages           (shadow/ops.ts)
 *
 * Linux asks "are there reverse maps?" and "is the TDP MMU on?" at every such place, since nested guests may need both at once. There are none
 * here, so a VM has one of the three for good, chosen when it is made.
 */
import type { Steps, U64 } from "../engine/index.ts";
import type { Gfn } from "../machine/index.ts";
import type { KvmMemorySlot } from "./memslots.ts";
import type { KvmPageFault, RetPf } from "./page-fault.ts";
import type { Vcpu } from "./vcpu.ts";

export interface GfnRange {
  readonly start: Gfn;
  readonly end: Gfn;
}

export interface MmuOps {
  /** kvm_mmu_load(): gives the vCPU its root; false when there is no room for it. */
  load(vcpu: Vcpu): Steps<boolean>;
  /** kvm_mmu_unload(): the vCPU lets all of its roots go. */
  unload(vcpu: Vcpu): Steps<void>;
  /** kvm_mmu_free_obsolete_roots() */
  freeObsoleteRoots(vcpu: Vcpu): Steps<void>;
  /** mmu->page_fault() */
  pageFault(vcpu: Vcpu, fault: KvmPageFault): Steps<RetPf>;
  /** get_mmio_spte(): the last entry on the way to an address, without mmu_lock. */
  lastSpte(vcpu: Vcpu, addr: number): Steps<U64 | null>;
  /** kvm_unmap_gfn_range(): mmu_lock held for write; true when TLBs must be flushed. */
  unmapGfnRange(range: GfnRange): Steps<boolean>;
  /** kvm_age_gfn(), kvm_test_age_gfn() */
  ageGfnRange(range: GfnRange, test: boolean): Steps<boolean>;
  /** kvm_mmu_zap_all_fast(), under mmu_lock: how many pages it reports, its roots are invalid from here on. */
  invalidateRoots(): Steps<void>;
  usedPages(): number;
  /** The same: obsolete pages go, before mmu_lock is dropped, and after. */
  zapObsoleteLocked(): Steps<void>;
  zapInvalidatedRoots(): Steps<void>;
  /** kvm_mmu_zap_all(): the VM goes away. mmu_lock held for write. */
  zapAll(): Steps<void>;
  /** kvm_recover_nx_huge_pages(): one round. */
  recoverNxHugePages(): Steps<void>;
  /** A slot that is new, before anybody sees it. */
  prepareSlot(slot: KvmMemorySlot): void;
  /** Dirty logging of a whole slot begins: huge pages are split, W goes; or it ends: huge pages come back. They take mmu_lock themselves. */
  splitSlot(slot: KvmMemorySlot): Steps<void>;
  /** True when an entry has lost W. */
  wrprotSlot(slot: KvmMemorySlot): Steps<boolean>;
  recoverHugePages(slot: KvmMemorySlot): Steps<void>;
  /** Part of a slot, with mmu_lock held for write: frames from `first` on that have a bit in the mask lose W; huge pages are split, or lose it. */
  wrprotMasked(slot: KvmMemorySlot, first: Gfn, mask: U64): Steps<void>;
  splitRange(slot: KvmMemorySlot, range: GfnRange): Steps<void>;
  wrprotHuge(slot: KvmMemorySlot, gfn: Gfn): Steps<void>;
}
