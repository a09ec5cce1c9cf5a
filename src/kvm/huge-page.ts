/**
 * Which level a page may be mapped at: what the memslot's place allows, what the host's own mapping has, and what dirty logging and the
 * mitigation of NX huge pages forbid.
 *
 * Stands for kvm_mmu_hugepage_adjust(), kvm_mmu_max_mapping_level(), disallowed_hugepage_adjust() of 6.12 and 7.2.
 */
import { load, type Steps, type U64 } from "../engine/index.ts";
import { hostMappingLevel } from "../kernel/index.ts";
import { alignToLevel, type Gfn, type Pfn, PG_LEVEL_1G, PG_LEVEL_4K, pagesPerLevel } from "../machine/index.ts";
import type { Kvm } from "./kvm.ts";
import { isLpageDisallowed } from "./lpage-info.ts";
import { gfnToHva, KVM_MEM_LOG_DIRTY_PAGES, type KvmMemorySlot } from "./memslots.ts";
import type { KvmPageFault } from "./page-fault.ts";
import { isLargePte, isShadowPresentPte, spteToPfn } from "./spte.ts";
import type { TdpMmu } from "./tdp-mmu.ts";

/** kvm_slot_dirty_track_enabled() */
export function kvmSlotDirtyTrackEnabled(slot: KvmMemorySlot): boolean {
  return (slot.flags.value & KVM_MEM_LOG_DIRTY_PAGES) !== 0;
}

/** kvm_mmu_hugepage_adjust(): sets the goal level, and the frame to the first one of the page of that level. */
export function* kvmMmuHugepageAdjust(kvm: Kvm, fault: KvmPageFault, slot: KvmMemorySlot): Steps<void> {
  fault.hugePageDisallowed = fault.exec && kvm.params.nxHugePages;
  // Writes are logged by the 4K page.
  if (kvmSlotDirtyTrackEnabled(slot)) return;
  if (fault.maxLevel === PG_LEVEL_4K) return;
  fault.reqLevel = yield* kvmMmuMaxMappingLevel(kvm, slot, fault.gfn, fault.maxLevel);
  if (fault.reqLevel === PG_LEVEL_4K || fault.hugePageDisallowed) return;
  fault.goalLevel = fault.reqLevel;
  fault.pfn = alignToLevel(fault.pfn, fault.goalLevel);
}

/** kvm_mmu_max_mapping_level() */
export function* kvmMmuMaxMappingLevel(
  kvm: Kvm,
  slot: KvmMemorySlot,
  frame: Gfn,
  maxLevel: number = PG_LEVEL_1G,
): Steps<number> {
  let level = Math.min(maxLevel, PG_LEVEL_1G);
  while (level > PG_LEVEL_4K && isLpageDisallowed(kvm.world, slot, frame, level)) level--;
  if (level === PG_LEVEL_4K) return level;
  return Math.min(level, yield* hostMappingLevel(kvm.mm, gfnToHva(slot, frame)));
}

/**
 * disallowed_hugepage_adjust(): a table stands where a huge page would go, because its page was split to be executed. Goes one level down instead:
 * the huge page would not be executable, and the next fetch would split it again.
 */
export function* disallowedHugepageAdjust(tdp: TdpMmu, fault: KvmPageFault, spte: U64, level: number): Steps<void> {
  if (level === PG_LEVEL_4K || level !== fault.goalLevel || !isShadowPresentPte(spte) || isLargePte(spte)) return;
  const child = tdp.pages.ofFrame(spteToPfn(spte));
  if ((yield* load(child.nx_huge_page_disallowed)) === 0) return;
  const inPage = fault.gfn % pagesPerLevel(level);
  fault.pfn = (fault.pfn + inPage - (inPage % pagesPerLevel(level - 1))) as Pfn;
  fault.goalLevel--;
}
