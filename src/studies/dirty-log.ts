/**
 * dirty-log: does every write of the guest reach the dirty log?
 *
 * What live migration takes for granted. The VMM fetches the log, copies the pages that it names, and in the end, with the guest stopped, the pages of
 * the last log. The log is fetched while vCPUs write: by old translations in their TLBs, by fast page faults that give W back without mmu_lock,
 * and by ordinary faults.
 *
 * Tasks: vcpu0 writes page 0, in some scenarios twice; `vmm` fetches the log, or begins logging, and copies; irq0 is vcpu0's CPU's interrupt handler.
 */
import type { MemoryModel, Results, Steps } from "../engine/index.ts";
import { framesOf, kvmClearDirtyLog, kvmGetDirtyLog } from "../kvm/dirty-log.ts";
import { collectDirtyRing, kvmResetDirtyRings } from "../kvm/dirty-ring.ts";
import { kvmSetMemoryRegion } from "../kvm/memory-region.ts";
import { KVM_MEM_LOG_DIRTY_PAGES, type KvmMemorySlot } from "../kvm/memslots.ts";
import type { KvmVariants } from "../kvm/variants.ts";
import { type GuestInstruction, gfn, touch } from "../machine/index.ts";
import { type Copies, copyFrames, dirtyLogProblem } from "../oracle/dirty-log.ts";
import { tdpMappingsProblem } from "../oracle/tdp-mappings.ts";
import { cell, type StudyCell, study } from "./study.ts";
import { hostPage, runGuest, type TdpScene, type TdpSceneOptions, tdpScene } from "./tdp-scene.ts";

/** A write of a value to the first word of a frame. */
export function write(frame: number, value: number): GuestInstruction {
  const instruction = touch(frame, "write");
  if (instruction.action.kind !== "access") return instruction;
  return { ...instruction, action: { ...instruction.action, value: { hi: 0, lo: value } } };
}

function slotOf({ vm }: TdpScene): KvmMemorySlot {
  const slot = vm.kvm.memslots.byId(0);
  if (slot === null) throw new Error("unreachable");
  return slot;
}

/** The log is fetched, and what it names is copied. */
export function* fetchAndCopy(scene: TdpScene): Steps<Copies> {
  const log = yield* kvmGetDirtyLog(scene.vm, 0);
  if (typeof log === "number") return {};
  return yield* copyFrames(scene.vm, slotOf(scene), framesOf(log));
}

/** With manual protection: the log is fetched, and what it names is cleared, and only then copied. */
function* fetchClearAndCopy(scene: TdpScene): Steps<Copies> {
  const log = yield* kvmGetDirtyLog(scene.vm, 0);
  if (typeof log === "number") return {};
  yield* kvmClearDirtyLog(scene.vm, 0, 0, FRAMES, log);
  return yield* copyFrames(scene.vm, slotOf(scene), framesOf(log));
}

/** Likewise from the rings: collected, protected again, and only then copied. */
function* collectAndCopy(scene: TdpScene): Steps<Copies> {
  const frames: number[] = [];
  for (const { dirtyRing } of scene.vm.vcpus) {
    if (dirtyRing === null) continue;
    for (const { offset } of yield* collectDirtyRing(dirtyRing)) frames.push(offset);
  }
  yield* kvmResetDirtyRings(scene.vm);
  return yield* copyFrames(scene.vm, slotOf(scene), frames);
}

/** Logging begins; then everything is copied. */
export function* beginAndCopy(scene: TdpScene): Steps<Copies> {
  const region = { id: 0, baseGfn: gfn(0), npages: FRAMES, userspaceAddr: hostPage(0), flags: KVM_MEM_LOG_DIRTY_PAGES };
  yield* kvmSetMemoryRegion(scene.vm.kvm, region);
  return yield* copyFrames(scene.vm, slotOf(scene), [0]);
}

/** Everything was copied before; what is copied later replaces it. */
export function check(scene: TdpScene, results: Results): string | null {
  const later = results["vmm"] as Copies;
  return dirtyLogProblem(scene.vm, slotOf(scene), { 0: 1, ...later }) ?? tdpMappingsProblem(scene.vm.tdp);
}

const FRAMES = 2;
const LOGGED = { frames: FRAMES, flags: KVM_MEM_LOG_DIRTY_PAGES, check } as const;

/** Page 0 has the value 1 during set-up; `prepare` then fetches the log that names it, so the page is write-protected. */
const SCENES: Readonly<Record<string, TdpSceneOptions>> = {
  writable: { ...LOGGED, guests: [[write(0, 2), write(0, 3)]], warm: [0], threads: { vmm: fetchAndCopy } },
  protected: {
    ...LOGGED,
    guests: [[write(0, 2)]],
    warm: [0],
    prepare: fetchAndCopy,
    threads: { vmm: fetchAndCopy },
  },
  "first-touch": {
    ...LOGGED,
    guests: [[write(0, 2)]],
    warm: [1],
    prepare: fetchAndCopy,
    threads: { vmm: fetchAndCopy },
    check: (scene, results) => {
      const copies = { 0: 0, ...(results["vmm"] as Copies) };
      return dirtyLogProblem(scene.vm, slotOf(scene), copies) ?? tdpMappingsProblem(scene.vm.tdp);
    },
  },
  ring: {
    ...LOGGED,
    dirtyRingSize: 4096,
    guests: [[write(0, 2), write(0, 3)]],
    warm: [0],
    threads: { vmm: collectAndCopy },
  },
  clear: {
    ...LOGGED,
    manualDirtyLogProtect: 1,
    guests: [[write(0, 2), write(0, 3)]],
    warm: [0],
    threads: { vmm: fetchClearAndCopy },
  },
  // The log names page 1 all the while, and page 0 once it is written again.
  "clear-protected": {
    ...LOGGED,
    manualDirtyLogProtect: 1,
    guests: [[write(0, 2), write(0, 3)]],
    warm: [0],
    prepare: function* (scene) {
      yield* fetchClearAndCopy(scene);
      yield* runGuest(scene.vm, 0, [write(1, 5)]);
    },
    threads: { vmm: fetchClearAndCopy },
  },
  begin: { ...LOGGED, flags: 0, guests: [[write(0, 2), write(0, 3)]], warm: [0], threads: { vmm: beginAndCopy } },
};

const BECAUSE: Readonly<Record<string, string>> = {
  writable: "the bit is cleared, W is taken, the TLBs are flushed, and only then is the page copied",
  protected: "a fast page fault marks the page after it has given W back: in the log of before or in the next one",
  "first-touch": "the page is marked under mmu_lock, in the same section as it is mapped",
  ring: "an entry is pushed after W was given back; resetting takes W and flushes before the page is copied",
  clear: "the bits that were fetched are cleared, W is taken, the TLBs are flushed, and only then are the pages copied",
  "clear-protected":
    "a bit that a fast page fault sets after the log was fetched stays: only what the log named is cleared",
  begin: "the slot logs before W is taken from what was mapped; a fault that has seen the old slot is waited for",
};

const VARIANTS: Readonly<Record<string, Partial<KvmVariants>>> = {
  "7.2": {},
  "6.12": { kernel: "6.12" },
  "7.2-no-ad": { paging: "ept-no-ad" },
  "7.2-pml": { paging: "ept", pml: true },
};

const PML_BECAUSE: Readonly<Record<string, string>> = {
  clear: "the same where the log is cleared by a call of its own",
  writable: "the bit is cleared, D is cleared, the TLBs are flushed: the next write sets D and is logged by the CPU",
  protected: "the same, for an entry whose D is clear already",
};

/** Scenes that are made smaller for one variant, to be explored in seconds. */
const CHANGED: Readonly<Record<string, Partial<TdpSceneOptions>>> = {
  // Two kicks and a flush, all of which interrupt the guest.
  "7.2-pml/clear": { guests: [[write(0, 2)]] },
};

function cells(variant: string, scenario: string, models: readonly MemoryModel[]): StudyCell[] {
  const options = SCENES[scenario] as TdpSceneOptions;
  const key = `${variant}/${scenario}`;
  return models.map((model) =>
    cell({
      variant,
      scenario,
      property: "final",
      model,
      expected: "holds",
      because: (variant === "7.2-pml" ? PML_BECAUSE[scenario] : undefined) ?? (BECAUSE[scenario] as string),
      program: () => tdpScene(scenario, { ...options, ...CHANGED[key], variants: { ...VARIANTS[variant] } }),
    }),
  );
}

export default study({
  id: "dirty-log",
  title: "Does every write of the guest reach the dirty log?",
  source: "virt/kvm/kvm_main.c, dirty_ring.c and arch/x86/kvm/mmu of Linux 6.12 and 7.2",
  variants: {
    "7.2": "Linux 7.2, write protection, hardware with A/D bits",
    "6.12": "Linux 6.12, the same",
    "7.2-no-ad": "Linux 7.2, EPT without accessed and dirty flags",
    "7.2-pml": "Linux 7.2, the CPU logs what it sets dirty flags for; D is cleared, not W",
  },
  cells: [
    ...Object.keys(SCENES).flatMap((scenario) => cells("7.2", scenario, ["sc", "tso"])),
    ...["writable", "protected"].flatMap((scenario) => cells("6.12", scenario, ["sc"])),
    ...["writable", "protected"].flatMap((scenario) => cells("7.2-no-ad", scenario, ["sc"])),
    ...["writable", "protected", "clear", "begin"].flatMap((scenario) => cells("7.2-pml", scenario, ["sc", "tso"])),
    ...cells("7.2-pml", "first-touch", ["sc"]),
  ],
});
