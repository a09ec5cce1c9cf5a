/**
 * bugs-progress: faults, walks and ioctls that never came to an end, although nothing that they wait for is missing.
 *
 * Tasks: vcpu0 runs a guest that faults; reaper takes a range away without sleeping; wrprot write-protects a slot, and is asked for mmu_lock at any
 * moment; prefault and vmm are ioctls; irq0 is the CPU's interrupt handler.
 */
import type { Steps } from "../engine/index.ts";
import { MMU_NOTIFY_CLEAR, type MmuNotifierOps, oomReapRange } from "../kernel/index.ts";
import { kvmVcpuPreFaultMemory } from "../kvm/pre-fault.ts";
import { gpa, PAGE_SIZE, touch } from "../machine/index.ts";
import { type BugScenario, bugStudy, onShadow, onTdp } from "./bug-cells.ts";
import { deleteSlot } from "./memslot-delete.ts";
import { zapAllFast } from "./root-invalidate.ts";
import { DATA_PAGE, readFault, touchAll, zapAllFast as zapAllShadowPages } from "./shadow-guest-scene.ts";
import { hostPage, type TdpScene } from "./tdp-scene.ts";

const FRAMES = 2;
const SCENE = { frames: FRAMES, variants: { gfnEnd: FRAMES, faultsMax: Number.POSITIVE_INFINITY } } as const;
const read0 = touch(0, "read");

/** Another user of the VMM's memory, which cannot do anything without sleeping. */
const SLEEPER: MmuNotifierOps = {
  wouldSleep: () => true,
  *invalidateRangeStart() {},
  *invalidateRangeEnd() {},
  *clearFlushYoung() {
    return false;
  },
  *clearYoung() {
    return false;
  },
  *testYoung() {
    return false;
  },
};

function slotOf({ vm }: TdpScene): NonNullable<ReturnType<typeof vm.kvm.memslots.byId>> {
  const slot = vm.kvm.memslots.byId(0);
  if (slot === null) throw new Error("unreachable");
  return slot;
}

function* wrprot(scene: TdpScene): Steps<void> {
  yield* scene.vm.ops.wrprotSlot(slotOf(scene));
}

export function* prefault({ vm }: TdpScene): Steps<number> {
  return yield* kvmVcpuPreFaultMemory(vm.vcpus[0] as (typeof vm.vcpus)[number], gpa(0), PAGE_SIZE);
}

function* zapThenPrefault(scene: TdpScene): Steps<number> {
  yield* zapAllFast(scene);
  return yield* prefault(scene);
}

const LIVELOCK = { property: "progress", strategy: "graph", models: ["sc"] } as const;

const SCENARIOS: readonly BugScenario[] = [
  {
    ...onTdp("reaper", {
      ...SCENE,
      guests: [[read0]],
      warm: [1],
      *prepare({ mm, vm }) {
        mm.notifiers.push(SLEEPER);
        mm.endsFailedStarts = !vm.kvm.lacks("notifier-start-without-end");
      },
      threads: {
        reaper: ({ mm }) => oomReapRange(mm, { start: hostPage(0), end: hostPage(1), event: MMU_NOTIFY_CLEAR }),
      },
    }),
    ...LIVELOCK,
    because: "KVM is told that the invalidation which it was told of is over",
    without: {
      "notifier-start-without-end": {
        because: "an invalidation is in progress for ever: every fault in its range retries",
      },
    },
  },
  {
    ...onTdp("walk", {
      frames: 1,
      variants: { gfnEnd: 1, yields: true },
      guests: [[]],
      warm: [0],
      threads: { wrprot },
    }),
    ...LIVELOCK,
    because: "a walk drops the lock once at each entry, and goes on there",
    without: {
      "two-wrprot-walkers-livelock": {
        because:
          "each time that it gets the lock back the walk is where it was before; two such walks keep each other there",
      },
    },
  },
  {
    ...onTdp("prefault", {
      ...SCENE,
      variants: { ...SCENE.variants, slotZapAll: false },
      guests: [[]],
      warm: [1],
      threads: { vmm: deleteSlot, prefault },
    }),
    ...LIVELOCK,
    because: "the ioctl gives up, and so leaves the section that the update waits for",
    without: {
      "prefault-deadlocks-memslot-update": {
        because: "the update waits for the section to end, and the section for the update to go on",
      },
    },
  },
  {
    ...onTdp("old-root", { ...SCENE, guests: [[]], warm: [1], threads: { prefault: zapThenPrefault } }),
    ...LIVELOCK,
    because: "the ioctl drops an obsolete root before it begins",
    without: {
      "prefault-on-obsolete-root": {
        because: "each attempt finds the root obsolete, and nobody looks at the request to drop it",
      },
    },
  },
  {
    ...onTdp("sequence", {
      ...SCENE,
      guests: [[read0]],
      warm: [1],
      *prepare({ vm }) {
        vm.kvm.mmuInvalidateSeq.value = 0x8002_dc25;
      },
    }),
    ...LIVELOCK,
    because: "the numbers are compared as they are",
    without: {
      "mmu-seq-sign-extension": { because: "after 2^31 invalidations the two numbers are never equal again" },
    },
  },
  {
    ...onShadow("batch", {
      guests: [{ warm: touchAll, handles: readFault(DATA_PAGE) }],
      variants: { yields: true, zapBatch: 2 },
      threads: { zap: zapAllShadowPages },
    }),
    property: "lock-hold",
    models: ["sc"],
    because: "every page that is zapped counts",
    without: {
      "zap-batch-not-counted": {
        because:
          "a page without unsync ones below it goes alone, so the batch stays empty, however many there are; a fault waits for all of them",
      },
    },
  },
];

export default bugStudy({
  id: "bugs-progress",
  title: "What never came to an end: found without the fixes, absent with them?",
  scenarios: SCENARIOS,
});
