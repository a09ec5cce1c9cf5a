/**
 * root-invalidate: all roots of the TDP MMU are invalidated while vCPUs fault in them. Is anything mapped where nobody finds it, or freed too early?
 *
 * kvm_mmu_zap_all_fast() marks the roots invalid under mmu_lock for write, tells every vCPU to drop its root, and zaps them under mmu_lock for read,
 * beside faults in new roots. A root is freed with the last of its references: the vCPUs', the walk's that zaps it, and the TDP MMU's own.
 *
 * Tasks: vcpu0 (and vcpu1) run guests that fault, or only enter and leave the guest; zap invalidates the roots and zaps them, irq0 and irq1 are the CPUs' interrupt handlers, rcu frees.
 */
import type { Steps } from "../engine/index.ts";
import { mutexLock, mutexUnlock } from "../kernel/index.ts";
import { kvmMmuZapAllFast } from "../kvm/mmu-zap.ts";
import { type GuestInstruction, touch } from "../machine/index.ts";
import { tdpRootsProblem } from "../oracle/tdp-roots.ts";
import { cell, type StudyCell, study } from "./study.ts";
import { type TdpScene, tdpScene } from "./tdp-scene.ts";

const FRAMES = 2;

export function* zapAllFast({ vm }: TdpScene): Steps<void> {
  const { slotsLock } = vm.kvm.memslots;
  yield* mutexLock(slotsLock);
  yield* kvmMmuZapAllFast(vm);
  yield* mutexUnlock(slotsLock);
}

const write0 = touch(0, "write");
const write1 = touch(1, "write");
/** Enters the guest and leaves it. */
const idle: GuestInstruction = { rip: null, cpl: 0, action: { kind: "nothing" } };

interface Scenario {
  readonly guests: readonly (readonly GuestInstruction[])[];
  readonly warm: readonly number[];
  readonly faultsMax: number;
  readonly yields: boolean;
  /** Tables are freed when their grace period is over; otherwise they wait for it, and can be looked at in the end. */
  readonly frees: boolean;
  readonly because: string;
}

const SCENARIOS: Readonly<Record<string, Scenario>> = {
  map: {
    guests: [[write0]],
    warm: [1],
    faultsMax: 1,
    yields: false,
    frees: false,
    because: "a fault that waits for mmu_lock finds its root invalid, and tries again in the next one",
  },
  drop: {
    guests: [[idle]],
    warm: [1],
    faultsMax: 1,
    yields: false,
    frees: true,
    because: "the walk holds the root while it is zapped, however many vCPUs drop it meanwhile",
  },
  yield: {
    guests: [[write1]],
    warm: [1],
    faultsMax: 1,
    yields: true,
    frees: false,
    because: "the walk holds the root while it does not hold mmu_lock",
  },
  "two-vcpus": {
    guests: [[idle], [idle]],
    warm: [1],
    faultsMax: 1,
    yields: false,
    frees: false,
    because: "both drop the old root, and find the same new one",
  },
};

function cells(): StudyCell[] {
  return Object.entries(SCENARIOS).flatMap(([scenario, { guests, warm, faultsMax, yields, frees, because }]) =>
    (guests.length === 1 ? (["sc", "tso"] as const) : (["sc"] as const)).map((model) =>
      cell({
        variant: "7.2",
        scenario,
        property: "final",
        model,
        expected: "holds",
        because,
        program: () =>
          tdpScene(`root-invalidate ${scenario}`, {
            frames: FRAMES,
            variants: { gfnEnd: FRAMES, faultsMax, yields },
            guests,
            warm,
            threads: { zap: zapAllFast },
            check: ({ vm }) => tdpRootsProblem(vm),
            rcu: frees,
          }),
      }),
    ),
  );
}

export default study({
  id: "root-invalidate",
  title: "Do faults stand up to the invalidation of all roots?",
  source:
    "arch/x86/kvm/mmu/mmu.c, kvm_mmu_zap_all_fast(), and tdp_mmu.c, kvm_tdp_mmu_zap_invalidated_roots(), of Linux 7.2",
  variants: { "7.2": "Linux 7.2: invalid under mmu_lock for write, zapped under mmu_lock for read" },
  cells: cells(),
});
