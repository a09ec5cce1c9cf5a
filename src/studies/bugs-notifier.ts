/**
 * bugs-notifier: races of faults with the MMU notifier and with memslot updates that Linux once had.
 *
 * Tasks: vcpu0 runs a guest; munmap, vmm, host and zap are threads of the VMM's process; irq0 is the CPU's interrupt handler.
 */
import { join, type Steps, type Task } from "../engine/index.ts";
import { invalidateRange, migratePage, mprotect, munmap, PROT_READ } from "../kernel/index.ts";
import { kvmAllocApicAccessPage, kvmSetApicvInhibit } from "../kvm/apic-access.ts";
import { kvmSetMemoryRegion } from "../kvm/memory-region.ts";
import { KVM_REQ_APIC_PAGE_RELOAD } from "../kvm/requests.ts";
import { kvmArchVcpuIoctlRun, type RunResult } from "../kvm/vcpu.ts";
import { type GuestInstruction, gfn, touch } from "../machine/index.ts";
import { tdpRootsProblem } from "../oracle/tdp-roots.ts";
import { type BugScenario, bugStudy, onTdp } from "./bug-cells.ts";
import { deleteAndUnmap, deleteSlot } from "./memslot-delete.ts";
import { zapAllFast } from "./root-invalidate.ts";
import { hostPage, runGuest, type TdpScene } from "./tdp-scene.ts";

const write0 = touch(0, "write");
const read0 = touch(0, "read");

const FRAMES = 2;
/** Guest frame of the slot that is added. */
const NEW = 2;

/** Runs the guest as a VMM does: what it is left for is done, and it goes on. */
function* runThroughMmio({ vm }: TdpScene, instructions: readonly GuestInstruction[]): Steps<RunResult> {
  const vcpu = vm.vcpus[0] as (typeof vm.vcpus)[number];
  vcpu.reset();
  let result = yield* kvmArchVcpuIoctlRun(vcpu, instructions);
  while (result === "mmio") result = yield* kvmArchVcpuIoctlRun(vcpu, null);
  return result;
}

/** Guest frame 2 gets memory. */
function* addSlot({ vm }: TdpScene): Steps<void> {
  yield* kvmSetMemoryRegion(vm.kvm, {
    id: 1,
    baseGfn: gfn(NEW),
    npages: 1,
    userspaceAddr: hostPage(1),
    flags: 0,
  });
}

/** Guest frame 2 is the APIC's page. */
function* giveApic({ vm }: TdpScene): Steps<void> {
  kvmAllocApicAccessPage(vm, gfn(NEW), hostPage(1));
}

/** What it touches while the other thread is at it, and once more when that has ended. */
function* beforeAndAfter(scene: TdpScene, other: string): Steps<RunResult> {
  const { vm, world } = scene;
  yield* runThroughMmio(scene, [touch(NEW, "read")]);
  yield* join(world, world.tasks.find(({ name }) => name === other) as Task);
  const vcpu = vm.vcpus[0] as (typeof vm.vcpus)[number];
  return yield* kvmArchVcpuIoctlRun(vcpu, [touch(NEW, "read")]);
}

/** What the vCPU's controls point to is what the process has there, or is about to be looked up. */
function apicIsLoaded({ vm, mm }: TdpScene): string | null {
  const frame = mm.frameAt(hostPage(1));
  for (const [id, loaded] of (vm.kvm.apicAccess?.loaded ?? []).entries()) {
    const isPending = ((vm.vcpus[id]?.requests.peek() ?? 0) & KVM_REQ_APIC_PAGE_RELOAD) !== 0;
    if (!isPending && loaded.peek() !== frame)
      return `vcpu${id} has the APIC's page at frame ${loaded.peek()}, the host has moved it to ${frame}`;
  }
  return null;
}

const SCENARIOS: readonly BugScenario[] = [
  {
    ...onTdp("apic-moved", {
      frames: FRAMES,
      variants: { gfnEnd: NEW + 1, faultsMax: Number.POSITIVE_INFINITY },
      guests: [[read0]],
      warm: [0],
      prepare: giveApic,
      threads: { host: ({ mm }) => migratePage(mm, hostPage(1)) },
      check: apicIsLoaded,
    }),
    property: "final",
    models: ["sc"],
    strategy: "graph",
    because: "a vCPU that is asked before the page is gone sees the invalidation, and asks itself once more",
    without: {
      "apic-page-reloaded-before-unmap": {
        because:
          "the page is looked up when start() has returned, and the host has not moved it yet: it is the old one",
      },
    },
  },
  {
    ...onTdp("apic", {
      frames: FRAMES,
      variants: { gfnEnd: NEW + 1 },
      guests: [[touch(NEW, "read")]],
      warm: [0],
      prepare: giveApic,
      vcpuThread: (scene) => beforeAndAfter(scene, "vmm"),
      threads: { vmm: ({ vm }) => kvmSetApicvInhibit(vm, 1) },
      check: (_scene, { vcpu0 }) => (vcpu0 === "mmio" ? null : "the APIC is read as memory, though that is inhibited"),
    }),
    property: "final",
    models: ["sc", "tso"],
    because: "the zap is an invalidation: a fault that has found nothing inhibited sees the sequence moved",
    without: {
      "zap-gfn-range-does-not-block-faults": {
        because: "a fault finds nothing inhibited, the zap finds nothing mapped, and then the fault maps the page",
      },
    },
  },
  {
    ...onTdp("unmap", {
      frames: FRAMES,
      variants: { gfnEnd: FRAMES },
      guests: [[write0, read0]],
      warm: [1],
      threads: { munmap: ({ mm }) => munmap(mm, hostPage(0), hostPage(1)) },
    }),
    property: "isolation",
    models: ["sc", "tso"],
    because: "an invalidation that a fault's look-up does not see is in progress, or has moved the sequence",
    without: {
      "fault-retry-sample-order/a": {
        because: "the page is looked up, unmapped and freed; the sequence read then is that of after",
      },
      "fault-retry-sample-order/d": {
        because: "start() has zapped what there was, and the sequence moves only at the end",
      },
    },
  },
  {
    ...onTdp("root", {
      frames: FRAMES,
      variants: { gfnEnd: FRAMES },
      guests: [[write0]],
      warm: [1],
      threads: { zap: zapAllFast },
      check: ({ vm }) => tdpRootsProblem(vm),
    }),
    property: "final",
    models: ["sc", "tso"],
    because: "a fault whose root was invalidated while it waited for mmu_lock tries again in the next one",
    without: {
      "fault-on-root-invalidated-by-memslot": {
        because: "it builds tables in a root that was zapped before, where nobody will ever look",
      },
    },
  },
  {
    ...onTdp("invalid-slot", {
      frames: FRAMES,
      variants: { gfnEnd: FRAMES, slotZapAll: false },
      guests: [[read0]],
      warm: [],
      vcpuThread: (scene) => runThroughMmio(scene, [read0, write0, read0]),
      *prepare({ vm, mm }) {
        yield* mprotect(mm, hostPage(0), hostPage(1), PROT_READ);
        yield* runGuest(vm, 0, [read0]);
      },
      threads: { vmm: deleteAndUnmap },
    }),
    property: "isolation",
    models: ["sc"],
    because: "a fault that finds the slot invalid leaves the entry alone, and tries again",
    without: {
      "invalid-slot-treated-as-mmio": {
        because:
          "a write to a read-only page puts an MMIO entry over it without a flush; the zap finds nothing to flush for",
      },
    },
  },
  {
    ...onTdp("swap", {
      frames: FRAMES,
      variants: { gfnEnd: FRAMES, slotZapAll: false },
      guests: [[]],
      warm: [0],
      threads: { vmm: deleteSlot, host: ({ mm }) => invalidateRange(mm, hostPage(0), hostPage(1)) },
      check: ({ vm }) => (vm.kvm.mmuInvalidateInProgress.peek() === 0 ? null : "invalidations in progress: not 0"),
    }),
    property: "final",
    models: ["sc", "tso"],
    because: "an invalidation sees the same memslots at its start and at its end",
    without: {
      "memslot-swap-unbalances-notifier": {
        because: "it counts up for a slot that is gone when it would count down: every fault retries for ever",
      },
    },
  },
  {
    ...onTdp("new-slot", {
      frames: FRAMES,
      variants: { gfnEnd: NEW + 1 },
      guests: [[read0]],
      warm: [0],
      vcpuThread: (scene) => beforeAndAfter(scene, "vmm"),
      threads: { vmm: addSlot },
      check: (_scene, { vcpu0 }) => (vcpu0 === "mmio" ? "a frame that has memory is taken for MMIO" : null),
    }),
    property: "final",
    models: ["sc", "tso"],
    because: "while the slots are changed nothing is remembered under a generation that will be believed",
    without: {
      "mmio-cached-under-new-generation": {
        because: "who has looked in the old slots remembers the answer under the generation of the new ones",
      },
    },
  },
];

export default bugStudy({
  id: "bugs-notifier",
  title: "Races of faults with the notifier and memslot updates: found without their fixes, absent with them?",
  scenarios: SCENARIOS,
});
