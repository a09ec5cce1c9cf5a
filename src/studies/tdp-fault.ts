/**
 * tdp-fault: does the TDP fault path stand up to other faults and to the host taking pages away?
 *
 * Not a thread of its own: it is what every design question about the TDP MMU takes for granted. A fault snapshots mmu_invalidate_seq, looks
 * the frame up, and maps it under mmu_lock for read if no invalidation has come between; tables are linked by compare-exchange; the notifier
 * zaps under mmu_lock for write and flushes every TLB before it returns.
 *
 * Tasks: vcpu0 and vcpu1 run a guest that touches pages, munmap takes page 0 away, irq0 and irq1 are their CPUs' interrupt handlers.
 */
import type { Program } from "../engine/index.ts";
import { munmap } from "../kernel/index.ts";
import { type GuestInstruction, touch } from "../machine/index.ts";
import { cellsOf, study } from "./study.ts";
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

const SCENARIOS: Readonly<Record<string, Scenario>> = {
  "two-maps": { guests: [[write0], [write1]], warm: false, unmap: false },
  "same-page": { guests: [[write0], [write0]], warm: true, unmap: false },
  unmap: { guests: [[write0, read0]], warm: true, unmap: true },
  "cold-unmap": { guests: [[write0, read0]], warm: false, unmap: true },
  reenter: { guests: [[write0, write1, read0]], warm: true, unmap: true },
  "two-vcpus-unmap": { guests: [[write0], [write1]], warm: true, unmap: true },
};

function programOf(scenario: string): Program {
  const { guests, warm, unmap } = SCENARIOS[scenario] as Scenario;
  return tdpScene(scenario, {
    frames: FRAMES,
    guests,
    warm: warm ? [FRAMES - 1] : [],
    ...(unmap ? { threads: { munmap: munmapPage0 } } : {}),
  });
}

const LIKE = { variant: "7.2", program: programOf } as const;

export default study({
  id: "tdp-fault",
  title: "Does the TDP fault path stand up to other faults and to the host's unmapping?",
  source: "virt/kvm/kvm_main.c and arch/x86/kvm/mmu/tdp_mmu.c of Linux 7.2",
  variants: { "7.2": "Linux 7.2: mmu_invalidate_seq, atomic SPTE changes, flush before the notifier returns" },
  cells: [
    ...cellsOf(LIKE, [
      [
        "two-maps",
        "final",
        "one of two faults that need the same tables links each, the other uses it or gives its own back",
      ],
      ["same-page", "final", "who loses the compare-exchange of the leaf finds it set"],
      [
        "unmap",
        "isolation",
        "a fault that was under way is stale under mmu_lock; a mapping is zapped and flushed before start() returns",
      ],
      ["cold-unmap", "isolation", "the same while the tables are being built"],
      [
        "reenter",
        "isolation",
        "a vCPU that is outside the guest is not interrupted: it sees the request before it enters again",
      ],
    ]),
    ...cellsOf({ ...LIKE, models: ["sc"] }, [
      ["two-vcpus-unmap", "isolation", "the same while another vCPU faults on a neighbour"],
    ]),
  ],
});
