/**
 * shadow-fault: does the shadow MMU's fault path stand up to the host taking the page away?
 *
 * A fault walks the guest's tables, snapshots mmu_invalidate_seq and looks the host's page up without mmu_lock; under mmu_lock for write it is stale if
 * an invalidation has come between. The notifier finds what is mapped through the frame's reverse map, zaps it, and flushes every TLB before it
 * returns.
 *
 * Tasks: vcpu0's guest has paging of four levels and touches a page, munmap takes that away, irq0 is its CPU's interrupt handler.
 */
import { munmap } from "../kernel/index.ts";
import {
  DATA_PAGE,
  OLD,
  readPage,
  type ShadowScene,
  type ShadowSceneOptions,
  shadowHostPage,
  shadowScenes,
  writePage,
} from "./shadow-guest-scene.ts";
import { cellsOf, study } from "./study.ts";

const unmapData = ({ mm }: ShadowScene) => munmap(mm, shadowHostPage(OLD), shadowHostPage(OLD + 1));

const SCENES: Readonly<Record<string, ShadowSceneOptions>> = {
  unmap: {
    guests: [{ warm: [readPage(0)], runs: [[writePage(DATA_PAGE), readPage(DATA_PAGE)]] }],
    unmapped: [OLD],
    threads: { munmap: unmapData },
  },
};

export default study({
  id: "shadow-fault",
  title: "Does the shadow MMU's fault path stand up to the host's unmapping?",
  source: "arch/x86/kvm/mmu/mmu.c and paging_tmpl.h of Linux 7.2: FNAME(page_fault), kvm_unmap_gfn_range()",
  variants: { "7.2": "Linux 7.2: mmu_invalidate_seq, reverse maps, flush before the notifier returns" },
  cells: cellsOf({ variant: "7.2", program: shadowScenes(SCENES) }, [
    [
      "unmap",
      "isolation",
      "a fetch that was under way is stale under mmu_lock; a mapping is found in its reverse map, zapped and flushed before start() returns",
    ],
  ]),
});
