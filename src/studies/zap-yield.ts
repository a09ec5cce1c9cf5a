/**
 * zap-yield: a walk that zaps drops mmu_lock on the way. May it, with faults waiting for the lock?
 *
 * The notifier's zap of a range looks at each entry whether somebody waits for the CPU or for mmu_lock. If so it flushes what it has zapped, drops the
 * lock, and starts again at the root towards where it was. Faults get in meanwhile. They may not map anything of the range, since the host is told
 * that it may free the pages when the walk is over; what was zapped before may not be in any TLB by then.
 *
 * Tasks: vcpu0 runs a guest that touches the range, host unmaps it (or KVM zaps it for reasons of its own), irq0 is the CPU's interrupt handler.
 */
import type { Steps } from "../engine/index.ts";
import { MMU_NOTIFY_CLEAR, notifyStart, revokeFrame } from "../kernel/index.ts";
import { kvmZapGfnRange } from "../kvm/mmu-zap.ts";
import { type GuestInstruction, gfn, touch } from "../machine/index.ts";
import { cell, type StudyCell, study } from "./study.ts";
import { hostPage, type TdpScene, tdpScene } from "./tdp-scene.ts";

const FRAMES = 2;

const write0 = touch(0, "write");
const read0 = touch(0, "read");
const write1 = touch(1, "write");
const read1 = touch(1, "read");

/** The host's unmapping, as far as to where it frees the pages: the invalidation does not end here. */
function* unmap({ mm }: TdpScene): Steps<void> {
  yield* notifyStart(mm, { start: hostPage(0), end: hostPage(FRAMES), event: MMU_NOTIFY_CLEAR });
  for (let n = 0; n < FRAMES; n++) {
    const frame = mm.frameAt(hostPage(n));
    if (frame !== null) yield* revokeFrame(mm.frames, frame, "unmapping");
  }
}

function* zapRange({ vm }: TdpScene): Steps<void> {
  yield* kvmZapGfnRange(vm, gfn(0), gfn(FRAMES));
}

interface Scenario {
  readonly guest: readonly GuestInstruction[];
  /** Frames that are mapped. */
  readonly warm: readonly number[];
  /** Faults on one instruction before the vCPU gives up. */
  readonly faultsMax: number;
  readonly property: string;
  readonly host: (scene: TdpScene) => Steps<void>;
  readonly because: string;
}

const SCENARIOS: Readonly<Record<string, Scenario>> = {
  cached: {
    guest: [write0, read0],
    warm: [0],
    faultsMax: 1,
    property: "isolation",
    host: unmap,
    because: "what is zapped is flushed before the lock is dropped, if nothing else is zapped after that",
  },
  last: {
    guest: [write1, read1],
    warm: [0, 1],
    faultsMax: 1,
    property: "isolation",
    host: unmap,
    because: "the walk goes on with the entry at which it dropped the lock",
  },
  fault: {
    guest: [write0],
    warm: [0, 1],
    faultsMax: 1,
    property: "isolation",
    host: unmap,
    because: "a fault in the range finds the invalidation in progress",
  },
  "zap-gfn-range": {
    guest: [write0, write1],
    warm: [0, 1],
    faultsMax: 1,
    property: "final",
    host: zapRange,
    because: "the tables and what is counted of them agree, whoever gets in",
  },
};

function cells(): StudyCell[] {
  return Object.entries(SCENARIOS).flatMap(([scenario, { guest, warm, faultsMax, property, host, because }]) =>
    (["sc", "tso"] as const).map((model) =>
      cell({
        variant: "7.2",
        scenario,
        property,
        model,
        expected: "holds",
        because,
        program: () =>
          tdpScene(`zap-yield ${scenario}`, {
            frames: FRAMES,
            variants: { gfnEnd: FRAMES, yields: true, faultsMax },
            guests: [guest],
            warm,
            threads: { host },
          }),
      }),
    ),
  );
}

export default study({
  id: "zap-yield",
  title: "May a zap drop mmu_lock on its way?",
  source: "arch/x86/kvm/mmu/tdp_mmu.c, tdp_mmu_iter_cond_resched(), of Linux 7.2",
  variants: { "7.2": "Linux 7.2: flush, drop the lock, start again at the root" },
  cells: cells(),
});
