/**
 * bugs-lifetime: tables, list entries and counts that outlive what they are of, or the other way round.
 *
 * Tasks: vcpu0 runs a guest, ager asks for pages' ages, vmm ends dirty logging, nx is a round of NX recovery, host unmaps, zap invalidates the roots;
 * irq0 is an interrupt handler.
 */
import type { Steps } from "../engine/index.ts";
import { invalidateRange, munmap } from "../kernel/index.ts";
import { kvmMmuFreeRoots } from "../kvm/mmu-roots.ts";
import { kvmRecoverNxHugePages } from "../kvm/nx-huge.ts";
import { kvmVcpuPreFaultMemory } from "../kvm/pre-fault.ts";
import { gfn, gpa, PAGE_SIZE, touch } from "../machine/index.ts";
import { clearYoung } from "./aging.ts";
import { type BugScenario, bugStudy, onTdp } from "./bug-cells.ts";
import { applyLogging, checkMappings, execute, FRAMES_USED, HUGE, run } from "./huge-pages.ts";
import { zapAllFast } from "./root-invalidate.ts";
import { hostPage, type TdpScene } from "./tdp-scene.ts";

const FRAMES = 2;
/** The first frame below the root's second entry. */
const FAR = 2 ** 27;

/** The vCPU has touched a frame below each of the root's two entries, and uses the root no more. */
function* touchFar({ vm }: TdpScene): Steps<void> {
  vm.kvm.memslots.addDuringSetup({ id: 1, baseGfn: gfn(FAR), npages: 1, userspaceAddr: hostPage(1), flags: 0 });
  yield* run(vm, [touch(FAR, "read")]);
  yield* kvmMmuFreeRoots(vm.vcpus[0] as (typeof vm.vcpus)[number]);
}

const SCENARIOS: readonly BugScenario[] = [
  {
    ...onTdp("age", {
      ...HUGE,
      variants: { gfnEnd: FRAMES_USED },
      guests: [[]],
      params: { nxHugePages: true, nxHugePagesRecoveryRatio: 1 },
      prepare: ({ vm }) => run(vm, [execute(0)]),
      threads: {
        ager: (scene) => clearYoung(scene, false),
        nx: ({ vm }) => kvmRecoverNxHugePages(vm.tdp),
        prefault: ({ vm }) => kvmVcpuPreFaultMemory(vm.vcpus[0] as (typeof vm.vcpus)[number], gpa(0), PAGE_SIZE),
      },
    }),
    property: "final",
    models: ["sc"],
    because: "aging changes only what it has read; an entry that is frozen by then stays so",
    without: {
      "aging-clobbers-frozen-spte": {
        because:
          "the mark of a frozen entry has A's bit: without it the entry looks empty, and is filled in a dead table",
      },
    },
  },
  {
    ...onTdp("nx-list", {
      ...HUGE,
      variants: { gfnEnd: FRAMES_USED },
      guests: [[execute(0)]],
      params: { nxHugePages: true, nxHugePagesRecoveryRatio: 1 },
      threads: { vmm: applyLogging, nx: ({ vm }) => kvmRecoverNxHugePages(vm.tdp) },
    }),
    property: "final",
    models: ["sc"],
    because: "whoever unlinks a table takes its mark away under the list's lock, and who lists it looks there",
    without: {
      "nx-list-add-after-zap": {
        because: "the table is listed when it was unlinked before: the list leads to a freed one",
      },
    },
  },
  {
    // Of a root with two entries, one pass zaps each with all that is below.
    ...onTdp("yield", {
      frames: FRAMES,
      variants: { gfnEnd: FAR + 1, yields: true, rootZap: "one-pass" },
      guests: [[]],
      warm: [0],
      prepare: touchFar,
      threads: { zap: zapAllFast, host: ({ mm }) => invalidateRange(mm, hostPage(0), hostPage(1)) },
    }),
    property: "final",
    models: ["sc"],
    because: "the walk goes on with the very entry at which it dropped the lock",
    without: {
      "tdp-iter-skips-after-yield": { because: "it goes on with the next one: all that is below the entry is lost" },
    },
  },
  {
    ...onTdp("statistics", {
      frames: FRAMES,
      variants: { gfnEnd: FRAMES },
      guests: [[]],
      warm: [0],
      threads: { zap: zapAllFast, host: ({ mm }) => munmap(mm, hostPage(1), hostPage(FRAMES)) },
      check: checkMappings,
    }),
    property: "final",
    models: ["sc"],
    because: "only what is present is counted",
    without: {
      "frozen-counted-as-large": { because: "each frozen entry of a removed table counts as a huge page" },
    },
  },
];

export default bugStudy({
  id: "bugs-lifetime",
  title: "Tables and counts that outlive what they are of: found without the fixes, absent with them?",
  scenarios: SCENARIOS,
});
