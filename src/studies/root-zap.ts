/**
 * root-zap: how may a whole root of the TDP MMU be zapped?
 *
 * A memslot update invalidates the roots under mmu_lock held for write, tells every vCPU to drop its root, and then zaps the old ones under mmu_lock
 * held for read, while vCPUs build new ones and the host goes on taking pages away. What that costs is measured (root-zap.measure.ts);
 * here is what must hold: no mapping outlives its page, no table is lost, and everybody gets on.
 *
 * Source: LKML, "KVM: x86/mmu: Zap TDP MMU roots in two passes", December 2021 and January 2022, and what became of it.
 */
import type { MemoryModel, Steps } from "../engine/index.ts";
import { munmap, mutexLock, mutexUnlock } from "../kernel/index.ts";
import { kvmMmuFreeRoots } from "../kvm/mmu-roots.ts";
import { kvmMmuZapAllFast } from "../kvm/mmu-zap.ts";
import type { KvmVariants } from "../kvm/variants.ts";
import { type GuestInstruction, touch } from "../machine/index.ts";
import { cell, type StudyCell, study } from "./study.ts";
import { hostPage, type TdpScene, type TdpSceneOptions, tdpScene } from "./tdp-scene.ts";

const write0 = touch(0, "write");

/** What KVM_SET_USER_MEMORY_REGION does to the roots. */
function* zap({ vm }: TdpScene): Steps<void> {
  const { slotsLock } = vm.kvm.memslots;
  yield* mutexLock(slotsLock);
  yield* kvmMmuZapAllFast(vm);
  yield* mutexUnlock(slotsLock);
}

/** Of the second page: a walk may yield only where it has got on. */
const unmap = ({ mm }: TdpScene) => munmap(mm, hostPage(1), hostPage(2));

interface Design {
  readonly what: string;
  readonly variants: Partial<KvmVariants>;
}

const DESIGNS: Readonly<Record<string, Design>> = {
  Z1: { what: "one pass, at the root's level", variants: { rootZap: "one-pass" } },
  Z2: { what: "two passes: 1G, then the root's level (5.18 to 6.8)", variants: { rootZap: "two-passes" } },
  Z3: { what: "level by level from the bottom (6.9 and later)", variants: { rootZap: "per-level" } },
  Z5: {
    what: "the references are given back before the root is zapped",
    variants: { rootPut: "before-zap", writesBack: true },
  },
  "Z5-put-after": {
    what: "Linux up to 6.12, which writes back too: given back afterwards",
    variants: { writesBack: true },
  },
  Z8: {
    what: "entries of unlinked tables are zapped and not frozen",
    variants: { freezesEntries: false, rootZap: "one-pass" },
  },
};

/** Frames of the memslot, beyond which there is no guest memory. */
const FRAMES = 2;

function options(
  design: string,
  guest: readonly GuestInstruction[],
  threads: NonNullable<TdpSceneOptions["threads"]>,
  yields: boolean,
): TdpSceneOptions {
  const variants = { ...DESIGNS[design]?.variants, yields, gfnEnd: FRAMES };
  return { frames: FRAMES, guests: [guest], warm: [0, 1], threads, variants };
}

const fault = (design: string): TdpSceneOptions => options(design, [write0], { zap }, false);
/** No vCPU uses the root any more: only the TDP MMU has a reference. */
function unmapping(design: string, yields = false): TdpSceneOptions {
  const prepare = ({ vm }: TdpScene) => kvmMmuFreeRoots(vm.vcpus[0] as (typeof vm.vcpus)[number]);
  return { ...options(design, [], { zap, munmap: unmap }, yields), prepare };
}

function cells(
  design: string,
  scenario: string,
  property: string,
  expected: "holds" | "fails",
  scene: TdpSceneOptions,
  because: string,
  models: readonly MemoryModel[] = ["sc"],
): StudyCell[] {
  return models.map((model) =>
    cell({
      variant: design,
      scenario,
      property,
      model,
      expected,
      because,
      program: () => tdpScene(`root-zap ${design} ${scenario}`, scene),
    }),
  );
}

const COMPLETE = "no fault maps anything in an invalid root, so what one walk has zapped stays zapped";
const REACHED = "the notifier finds the root as long as it has a mapping";

export default study({
  id: "root-zap",
  title: "How may a whole root of the TDP MMU be zapped, and what does it cost?",
  source: "LKML, December 2021 and January 2022: KVM: x86/mmu: Zap TDP MMU roots in two passes",
  variants: Object.fromEntries(Object.entries(DESIGNS).map(([name, { what }]) => [name, what])),
  cells: [
    ...["Z1", "Z2", "Z3"].flatMap((design) => [
      ...cells(design, "fault", "final", "holds", fault(design), COMPLETE, ["sc", "tso"]),
      ...cells(design, "unmap", "isolation", "holds", unmapping(design, true), REACHED),
    ]),
    ...cells(
      "Z8",
      "fault",
      "final",
      "holds",
      fault("Z8"),
      "the thread's notes expect a lost entry; but an invalidated root gets none, with or without freezing",
      ["sc", "tso"],
    ),
    ...cells("Z5-put-after", "unmap", "isolation", "holds", unmapping("Z5-put-after", true), REACHED),
    ...cells(
      "Z5",
      "unmap",
      "isolation",
      "fails",
      unmapping("Z5", true),
      "the notifier does not find the root, the page is freed, and the zap marks it accessed",
    ),
  ],
});
