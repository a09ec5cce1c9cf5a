/**
 * huge-pages: may huge pages be split, and tables be made huge pages again, while vCPUs fault on them?
 *
 * Three mechanisms replace one way of mapping a range by another without taking the mapping away: eager splitting when dirty logging begins, recovery
 * when it ends, and the recovery of NX huge pages. All hold mmu_lock for read only (the last one for write in 6.12), so faults go on.
 *
 * Tasks: vcpu0 (and vcpu1) write or execute parts of a 2M page of the host; `vmm` begins or ends logging; `nx` is a round of the recovery thread; irq0
 * ... are interrupt handlers, rcu frees tables.
 */
import type { MemoryModel, Results, Steps } from "../engine/index.ts";
import { framesOf, kvmGetDirtyLog, kvmMmuSlotApplyFlags, kvmPrepareDirtyBitmap } from "../kvm/dirty-log.ts";
import { KVM_MEM_LOG_DIRTY_PAGES, type KvmMemorySlot } from "../kvm/memslots.ts";
import { kvmRecoverNxHugePages } from "../kvm/nx-huge.ts";
import type { KvmVariants } from "../kvm/variants.ts";
import { kvmArchVcpuIoctlRun } from "../kvm/vcpu.ts";
import type { Vm } from "../kvm/vm.ts";
import { type GuestInstruction, gva, PAGE_SIZE, touch } from "../machine/index.ts";
import { type Copies, copyFrames, dirtyLogProblem } from "../oracle/dirty-log.ts";
import { tdpMappingsProblem } from "../oracle/tdp-mappings.ts";
import { cell, type StudyCell, study } from "./study.ts";
import { type TdpScene, type TdpSceneOptions, tdpScene } from "./tdp-scene.ts";

/** A fetch of an instruction in a frame. */
export function execute(frame: number): GuestInstruction {
  return { rip: gva(frame * PAGE_SIZE), cpl: 0, action: { kind: "nothing" } };
}

function slotOf({ vm }: TdpScene): KvmMemorySlot {
  const slot = vm.kvm.memslots.byId(0);
  if (slot === null) throw new Error("unreachable");
  return slot;
}

/** The slot logs from now on, or no longer, for everybody; what is mapped is as before. */
function setLogging(scene: TdpScene, on: boolean): void {
  const slot = slotOf(scene);
  slot.flags.value = on ? KVM_MEM_LOG_DIRTY_PAGES : 0;
  if (on) kvmPrepareDirtyBitmap(scene.vm, { old: null, new: slot, change: "flags-only" });
}

export function* applyLogging(scene: TdpScene): Steps<void> {
  const slot = slotOf(scene);
  yield* kvmMmuSlotApplyFlags(scene.vm, { old: slot, new: slot, change: "flags-only" });
}

/** Logging begins for a slot that was just swapped; then all is copied. */
function* beginAndCopy(scene: TdpScene): Steps<Copies> {
  yield* applyLogging(scene);
  return yield* copyFrames(scene.vm, slotOf(scene), [0, 1]);
}

function* fetchAndCopy(scene: TdpScene): Steps<Copies> {
  const log = yield* kvmGetDirtyLog(scene.vm, 0);
  return typeof log === "number" ? {} : yield* copyFrames(scene.vm, slotOf(scene), framesOf(log));
}

export function* run(vm: Vm, instructions: readonly GuestInstruction[]): Steps<void> {
  const vcpu = vm.vcpus[0] as Vm["vcpus"][number];
  vcpu.reset();
  yield* kvmArchVcpuIoctlRun(vcpu, instructions);
}

/** The page was split because its first part was written under logging, which is over now. */
function* prepareSplit(scene: TdpScene): Steps<void> {
  setLogging(scene, true);
  yield* applyLogging(scene);
  yield* run(scene.vm, [touch(0, "write")]);
  setLogging(scene, false);
}

/** The first page is mapped by 4K, because its slot was logging when it was written; it does no longer. */
export function* prepareSmall(scene: TdpScene): Steps<void> {
  setLogging(scene, true);
  yield* run(scene.vm, [touch(0, "write")]);
  setLogging(scene, false);
}

export function checkMappings({ vm }: TdpScene): string | null {
  return tdpMappingsProblem(vm.tdp);
}

function checkCopies(scene: TdpScene, results: Results): string | null {
  const copies = { 0: 1, 1: 0, ...(results["vmm"] as Copies) };
  return dirtyLogProblem(scene.vm, slotOf(scene), copies) ?? checkMappings(scene);
}

/** Frames beyond the first few do not exist for the guest, so that the tables of a 2M page are short. */
export const FRAMES_USED = 4;
export const HUGE = { frames: 512, hugePage: true, warm: [0], check: checkMappings } as const;

const write = (frame: number): GuestInstruction => touch(frame, "write");

const EAGER_SPLIT: TdpSceneOptions = {
  ...HUGE,
  guests: [[write(1)]],
  params: { eagerPageSplit: true },
  prepare: function* (scene) {
    setLogging(scene, true);
  },
  threads: { vmm: beginAndCopy },
  check: checkCopies,
};

/** What runs in the page needs 4K mappings, which recovery takes away with their table: a fault may stand in it. */
export const NX_EMPTY: TdpSceneOptions = {
  ...HUGE,
  warm: [],
  guests: [[execute(1)]],
  params: { nxHugePages: true, nxHugePagesRecoveryRatio: 1 },
  prepare: ({ vm }) => run(vm, [execute(0)]),
  threads: { vmm: applyLogging },
};

const SCENES: Readonly<Record<string, TdpSceneOptions>> = {
  "eager-split": EAGER_SPLIT,
  // The walks drop mmu_lock wherever Linux may.
  "eager-split-yield": { ...EAGER_SPLIT, variants: { yields: true } },
  "lazy-split": {
    ...HUGE,
    guests: [[write(1)]],
    params: { eagerPageSplit: false },
    prepare: function* (scene) {
      setLogging(scene, true);
    },
    threads: { vmm: beginAndCopy },
    check: checkCopies,
  },
  "split-twice": {
    ...HUGE,
    guests: [[write(0)], [write(1)]],
    params: { eagerPageSplit: false },
    prepare: function* (scene) {
      setLogging(scene, true);
      yield* applyLogging(scene);
    },
    check: (scene) => dirtyLogProblem(scene.vm, slotOf(scene), { 0: 1, 1: 0 }) ?? checkMappings(scene),
  },
  "split-log": {
    ...HUGE,
    guests: [[write(1), write(1)]],
    params: { eagerPageSplit: false },
    prepare: function* (scene) {
      setLogging(scene, true);
      yield* applyLogging(scene);
    },
    threads: { vmm: fetchAndCopy },
    check: checkCopies,
  },
  recover: { ...HUGE, guests: [[write(1), touch(2, "read")]], prepare: prepareSplit, threads: { vmm: applyLogging } },
  "nx-fetch": {
    ...HUGE,
    guests: [[execute(0), touch(1, "read")]],
    params: { nxHugePages: true, nxHugePagesRecoveryRatio: 1 },
    prepare: ({ vm }) => run(vm, [execute(0)]),
    threads: { nx: ({ vm }) => kvmRecoverNxHugePages(vm.tdp) },
  },
  "nx-empty": NX_EMPTY,
  "nx-split": {
    ...HUGE,
    guests: [[execute(0)], [write(1)]],
    params: { nxHugePages: true, nxHugePagesRecoveryRatio: 1 },
  },
  "nx-recover": {
    ...HUGE,
    guests: [[execute(0)]],
    params: { nxHugePages: true, nxHugePagesRecoveryRatio: 1 },
    threads: { vmm: applyLogging, nx: ({ vm }) => kvmRecoverNxHugePages(vm.tdp) },
  },
};

const BECAUSE: Readonly<Record<string, string>> = {
  "eager-split": "the table is filled before it is linked, and linked only over the huge entry that it was filled from",
  "lazy-split": "a huge page that may not be written under logging is split by the fault that writes it",
  "split-twice": "of two faults that split one page, one links its table, and the other uses it",
  "split-log": "what was split is logged by the 4K page",
  "eager-split-yield": "a walk that has dropped mmu_lock starts again from the root",
  recover: "a fault that stands in the table finds it frozen, and tries again",
  "nx-fetch": "the table goes as a whole; the fault that needs it builds another",
  "nx-empty": "the empty entries of a removed table are frozen as well: nobody can map anything there",
  "nx-split": "the split page is executable by the 4K page, and no huge page is",
  "nx-recover": "a table that was unlinked before it is listed is not listed",
};

const VARIANTS: Readonly<Record<string, Partial<KvmVariants>>> = { "7.2": {}, "6.12": { kernel: "6.12" } };

function cells(variant: string, scenario: string, models: readonly MemoryModel[]): StudyCell[] {
  return models.map((model) =>
    cell({
      variant,
      scenario,
      property: "final",
      model,
      expected: "holds",
      because: BECAUSE[scenario] as string,
      program: () =>
        tdpScene(scenario, {
          ...(SCENES[scenario] as TdpSceneOptions),
          variants: { ...VARIANTS[variant], ...SCENES[scenario]?.variants, gfnEnd: FRAMES_USED },
        }),
    }),
  );
}

export default study({
  id: "huge-pages",
  title: "May huge pages be split and recovered while vCPUs fault on them?",
  source: "tdp_mmu.c and mmu.c of Linux 6.12 and 7.2",
  variants: {
    "7.2": "Linux 7.2: recovery puts a huge page in the table's place; NX recovery under mmu_lock for read",
    "6.12": "Linux 6.12: recovery drops the table; NX recovery under mmu_lock for write",
  },
  cells: [
    ...Object.keys(SCENES).flatMap((scenario) => cells("7.2", scenario, ["sc", "tso"])),
    ...["eager-split", "recover", "nx-fetch", "nx-empty"].flatMap((scenario) => cells("6.12", scenario, ["sc", "tso"])),
  ],
});
