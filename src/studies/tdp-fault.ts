/**
 * tdp-fault: does the TDP fault path stand up to other faults and to the host taking pages away?
 *
 * Not a thread of its own: it is what every design question about the TDP MMU takes for granted. A fault snapshots mmu_invalidate_seq, looks
 * the frame up, and maps it under mmu_lock for read if no invalidation has come between; tables are linked by compare-exchange; the notifier
 * zaps under mmu_lock for write and flushes every TLB before it returns.
 *
 * Tasks: vcpu0 and vcpu1 run a guest that touches pages, munmap takes page 0 away, irq0 and irq1 are their CPUs' interrupt handlers.
 */
import type { MemoryModel } from "../engine/index.ts";
import { munmap } from "../kernel/index.ts";
import { type GuestInstruction, touch } from "../machine/index.ts";
import { cell, type StudyCell, study } from "./study.ts";
import { hostPage, type TdpScene, tdpScene } from "./tdp-scene.ts";

/** Frames of the memslot; the last one is touched during set-up only. */
const FRAMES = 4;

interface Scenario {
  /** What each vCPU's guest does. */
  readonly guests: readonly (readonly GuestInstruction[])[];
  /** The vCPUs have a root, and the tables above the leaves are there. */
  readonly warm: boolean;
  /** munmap() of page 0. */
  readonly unmap: boolean;
}

const munmapPage0 = ({ mm }: TdpScene) => munmap(mm, hostPage(0), hostPage(1));

const write0 = touch(0, "write");
const read0 = touch(0, "read");
const write1 = touch(1, "write");

function cells(
  scenario: string,
  property: string,
  { guests, warm, unmap }: Scenario,
  because: string,
  models: readonly MemoryModel[] = ["sc", "tso"],
): StudyCell[] {
  return models.map((model) =>
    cell({
      variant: "7.2",
      scenario,
      property,
      model,
      expected: "holds",
      because,
      program: () =>
        tdpScene(scenario, {
          frames: FRAMES,
          guests,
          warm: warm ? [FRAMES - 1] : [],
          ...(unmap ? { threads: { munmap: munmapPage0 } } : {}),
        }),
    }),
  );
}

export default study({
  id: "tdp-fault",
  title: "Does the TDP fault path stand up to other faults and to the host's unmapping?",
  source: "virt/kvm/kvm_main.c and arch/x86/kvm/mmu/tdp_mmu.c of Linux 7.2",
  variants: { "7.2": "Linux 7.2: mmu_invalidate_seq, atomic SPTE changes, flush before the notifier returns" },
  cells: [
    ...cells(
      "two-maps",
      "final",
      { guests: [[write0], [write1]], warm: false, unmap: false },
      "one of two faults that need the same tables links each, the other uses it or gives its own back",
    ),
    ...cells(
      "same-page",
      "final",
      { guests: [[write0], [write0]], warm: true, unmap: false },
      "who loses the compare-exchange of the leaf finds it set",
    ),
    ...cells(
      "unmap",
      "isolation",
      { guests: [[write0, read0]], warm: true, unmap: true },
      "a fault that was under way is stale under mmu_lock; a mapping is zapped and flushed before start() returns",
    ),
    ...cells(
      "cold-unmap",
      "isolation",
      { guests: [[write0, read0]], warm: false, unmap: true },
      "the same while the tables are being built",
    ),
    ...cells(
      "reenter",
      "isolation",
      { guests: [[write0, write1, read0]], warm: true, unmap: true },
      "a vCPU that is outside the guest is not interrupted: it sees the request before it enters again",
    ),
    ...cells(
      "two-vcpus-unmap",
      "isolation",
      { guests: [[write0], [write1]], warm: true, unmap: true },
      "the same while another vCPU faults on a neighbour",
      ["sc"],
    ),
  ],
});
