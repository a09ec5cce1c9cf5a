/**
 * lockless-aging on a compiled kernel: the host asks which pages of a VM were used, through the shadow MMU's reverse maps (tdp_mmu=0).
 *
 * Up to 6.12 who asks holds mmu_lock for write, as does everybody who changes reverse maps or frees shadow pages. A vCPU's fast page fault holds nothing:
 * it gives back the rights that aging has put away, where entries have no accessed bit, and W, where dirty logging has taken it.
 */
import { join, type Results, type Steps, type Task } from "../engine/index.ts";
import { munmap } from "../kernel/index.ts";
import { touch } from "../machine/index.ts";
import { ageProblem } from "../oracle/age.ts";
import { type KernelScenario, type KernelStudy, kvmScenario } from "./kernel-study.ts";
import { hostPage, type KvmScene, type KvmSceneOptions, type Paging } from "./kvm-scene.ts";
import { directLeaves, rmapProblem } from "./shadow-tables.ts";

const write0 = touch(0, "write");
const read0 = touch(0, "read");

// --- actors ----------------------------------------------------------------------------------------------------------

/** Asks for the age of frame 0 as the host's mm does; true when it was used. */
function* ask({ mm }: KvmScene): Steps<boolean> {
  let young = false;
  for (const ops of mm.notifiers) if (yield* ops.clearYoung(hostPage(0), hostPage(1))) young = true;
  return young;
}

/** Asks, and again when the vCPU is done. */
function* askTwice(scene: KvmScene): Steps<{ cleared: boolean; young: boolean }> {
  const cleared = yield* ask(scene);
  yield* join(scene.world, scene.world.tasks[0] as Task);
  return { cleared, young: yield* ask(scene) };
}

function* zap({ kernel, kvm }: KvmScene): Steps<void> {
  yield* kernel.call("rw_zap_all_fast", BigInt(kvm));
}

/** Dirty logging begins. */
function* writeProtect({ kernel, kvm }: KvmScene): Steps<void> {
  yield* kernel.call("rw_write_protect_slot", BigInt(kvm), 0);
}

const unmap = ({ mm }: KvmScene): Steps<number> => munmap(mm, hostPage(0), hostPage(1));

// --- what must hold --------------------------------------------------------------------------------------------------

type Check = NonNullable<KvmSceneOptions["check"]>;

/** C2, and what a scenario adds. */
function checked(also: Check = () => null): Check {
  return (scene, results) => rmapProblem(scene.kernel, scene.kvm, scene.rmaps) ?? also(scene, results);
}

/** Readable, writable. */
const PRESENT = 1;
const WRITABLE = 2;
/** The bit by which an entry says that its page was used: Accessed, or of EPT; without either, that it can be read. */
const ACCESSED: Readonly<Record<Paging, number>> = { npt: 1 << 5, ept: 1 << 8, "ept-no-ad": PRESENT };

function entryOf0({ kernel, kvm }: KvmScene): number | null {
  const leaf = directLeaves(kernel, kvm).get(0)?.[0];
  return leaf === undefined ? null : kernel.peek(leaf, 4);
}

/** C3, C4: the guest has written, so the entry lets it; without accessed bits aging may have put that away again. */
const keepsWhatTheFaultGave =
  (paging: Paging): Check =>
  (scene, results) => {
    if (results["vcpu0"] !== "done") return null;
    const entry = entryOf0(scene);
    if (entry === null) return "the entry is gone";
    const isAged = paging === "ept-no-ad" && (entry & PRESENT) === 0;
    return isAged || (entry & WRITABLE) !== 0 ? null : "aging has changed more of the entry than its age";
  };

/** C4: whoever asked was told that the page was used, nobody has used it since, and the entry still says so. */
const agedForGood =
  (paging: Paging): Check =>
  (scene, results) => {
    const isYoung = ((entryOf0(scene) ?? 0) & ACCESSED[paging]) !== 0;
    return results["ager"] === true && isYoung ? "the page was aged, and is young again without any access" : null;
  };

const seesTheAccess: Check = (_scene, results) =>
  ageProblem(results["vcpu0"] === "done", results["ager"] as Parameters<typeof ageProblem>[1]);

const isOld: Check = (_scene, results: Results) =>
  results["ager"] === true ? "the page is young, and nobody has used it since it was asked for" : null;

// --- scenarios -------------------------------------------------------------------------------------------------------

/** Frame 0, mapped by direct shadow pages. */
const SCENE: KvmSceneOptions = {
  frames: 1,
  tdpMmu: false,
  guests: [[]],
  warm: [[write0]],
  faultsMax: 1,
  check: checked(),
};
const AGER = { ager: ask };

/** With and without accessed bits. */
function onEntries(paging: Paging, suffix: string): KernelScenario[] {
  const scene: KvmSceneOptions = { ...SCENE, paging };
  return [
    kvmScenario(`fast-fault${suffix}`, "final", "both change the entry by one atomic operation", {
      ...{ ...scene, prepare: writeProtect, guests: [[write0]], threads: AGER },
      check: checked(keepsWhatTheFaultGave(paging)),
    }),
    kvmScenario(`access${suffix}`, "final", "the walk, or the fault, says so in the entry", {
      ...{ ...scene, prepare: ask, guests: [[read0]], threads: { ager: askTwice } },
      check: checked(seesTheAccess),
    }),
    kvmScenario(`sticky${suffix}`, "final", "nothing but an access makes an entry young", {
      ...{ ...scene, prepare: ask, threads: AGER },
      check: checked(isOld),
    }),
    kvmScenario(`logging${suffix}`, "final", "mmu_lock", {
      ...{ ...scene, threads: { ...AGER, protect: writeProtect } },
      check: checked(agedForGood(paging)),
    }),
    kvmScenario(`munmap${suffix}`, "isolation", "mmu_lock; a fast fault changes no entry that was zapped", {
      ...{ ...scene, guests: [[read0]], threads: { ...AGER, munmap: unmap } },
    }),
  ];
}

export const LOCKLESS_AGING: KernelStudy = {
  title: "May the host ask which pages were used without mmu_lock? On the kernel's own source",
  source: "LKML, 2024-09-03: Re: [PATCH 21/22] ***HACK*** KVM: x86: Don't take mmu_lock when aging gfns",
  variant: "A0",
  scenarios: [
    kvmScenario("zap", "use-after-free", "the zap waits for the walk", { ...SCENE, threads: { ...AGER, zap } }),
    kvmScenario("many", "use-after-free", "so does the unmapping", {
      // The second vCPU runs its guest's guest, by other tables: the reverse map has two entries.
      ...{ ...SCENE, guests: [[], []], warm: [[write0], [write0]], nested: [1] },
      threads: { ...AGER, unmap },
    }),
    ...onEntries("npt", ""),
    ...onEntries("ept-no-ad", "-no-ad"),
  ],
};
