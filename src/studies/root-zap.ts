/**
 * root-zap: how may a whole root of the TDP MMU be zapped?
 *
 * A memslot update invalidates the roots under mmu_lock held for write, tells every vCPU to drop its root, and then zaps the old ones under mmu_lock
 * held for read, while vCPUs build new ones and the host goes on taking pages away. What that costs is measured (root-zap.measure.ts);
 * here is what must hold: no mapping outlives its page, no table is lost, and everybody gets on.
 *
 * Z7 is about the one other place that tears a table down in one go: a fault that puts a huge page where a table was, at 2M here.
 *
 * Source: LKML, "KVM: x86/mmu: Zap TDP MMU roots in two passes", December 2021 and January 2022, and what became of it.
 */
import type { MemoryModel, Steps } from "../engine/index.ts";
import { munmap, mutexLock, mutexUnlock } from "../kernel/index.ts";
import { kvmMmuFreeRoots } from "../kvm/mmu-roots.ts";
import { kvmMmuZapAllFast } from "../kvm/mmu-zap.ts";
import { tdpMmuZapRootWork } from "../kvm/tdp-zap.ts";
import type { KvmVariants } from "../kvm/variants.ts";
import { type GuestInstruction, touch } from "../machine/index.ts";
import { invalidRootProblem } from "../oracle/tdp-tables.ts";
import { FRAMES_USED, HUGE, NX_EMPTY, prepareSmall } from "./huge-pages.ts";
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

function* worker({ vm: { tdp } }: TdpScene): Steps<void> {
  if (tdp.zapWork !== null) yield* tdpMmuZapRootWork(tdp, tdp.zapWork);
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
  Z4: { what: "a worker zaps, the ioctl goes on (5.18 to 6.5)", variants: { rootZapper: "worker" } },
  "Z4-put-first": {
    what: "the same, and the references are given back before the worker zaps",
    variants: { rootZapper: "worker", rootPut: "before-zap", writesBack: true },
  },
  Z5: {
    what: "the references are given back before the root is zapped",
    variants: { rootPut: "before-zap", writesBack: true },
  },
  "Z5-put-after": {
    what: "Linux up to 6.12, which writes back too: given back afterwards",
    variants: { writesBack: true },
  },
  Z6: {
    what: "the walk may drop mmu_lock twice at one place",
    variants: { undone: new Set(["two-wrprot-walkers-livelock"]) },
  },
  "Z6-once": { what: "Linux: once, and then it goes on", variants: {} },
  Z7: { what: "a fault puts a huge page in a table's place", variants: {} },
  Z8: {
    what: "entries of unlinked tables are zapped and not frozen",
    variants: { freezesEntries: false, rootZap: "one-pass" },
  },
  "Z8-frozen": { what: "Linux: they are frozen", variants: {} },
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
  const check = ({ vm }: TdpScene): string | null => invalidRootProblem(vm.tdp);
  return { frames: FRAMES, guests: [guest], warm: [0, 1], threads, variants, check };
}

/** What zaps: the ioctl, and where there is one the worker. */
function zappers(design: string): NonNullable<TdpSceneOptions["threads"]> {
  return DESIGNS[design]?.variants.rootZapper === "worker" ? { zap, worker } : { zap };
}

const fault = (design: string): TdpSceneOptions => options(design, [write0], zappers(design), false);
/** No vCPU uses the root any more: only the TDP MMU has a reference. */
function unmapping(design: string, yields = false): TdpSceneOptions {
  const prepare = ({ vm }: TdpScene) => kvmMmuFreeRoots(vm.vcpus[0] as (typeof vm.vcpus)[number]);
  return { ...options(design, [], { ...zappers(design), munmap: unmap }, yields), prepare };
}

/** Whoever is asked for mmu_lock may give it away, at each entry where it looks. */
const contended = (design: string): TdpSceneOptions => ({ ...unmapping(design, true), threads: { zap } });

/** Two faults in a 2M page whose first part is mapped by 4K, and need not be any more: each may put the huge page in the table's place. */
const replacing = (design: string): TdpSceneOptions => ({
  ...HUGE,
  warm: [],
  guests: [[touch(1, "write")], [touch(2, "write")]],
  prepare: prepareSmall,
  variants: { ...DESIGNS[design]?.variants, gfnEnd: FRAMES_USED },
});

/** A table of a valid root is made a huge page again while a fault stands in it. */
const recovering = (design: string): TdpSceneOptions => ({
  ...NX_EMPTY,
  variants: { ...DESIGNS[design]?.variants, gfnEnd: FRAMES_USED },
});

function cells(
  design: string,
  scenario: string,
  property: string,
  expected: "holds" | "fails",
  scene: TdpSceneOptions,
  because: string,
  models: readonly MemoryModel[] = ["sc"],
  strategy: StudyCell["strategy"] = "dpor",
): StudyCell[] {
  return models.map((model) =>
    cell({
      strategy,
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
    ...cells("Z4", "fault", "final", "holds", fault("Z4"), COMPLETE, ["sc", "tso"]),
    ...cells("Z4", "unmap", "isolation", "holds", unmapping("Z4", true), REACHED),
    ...cells(
      "Z4-put-first",
      "unmap",
      "isolation",
      "fails",
      unmapping("Z4-put-first", true),
      "as Z5: who zaps does not matter, only that the root can be found until then",
    ),
    ...cells(
      "Z6",
      "contended",
      "progress",
      "fails",
      contended("Z6"),
      "each time that it gets the lock back the walk is where it was before, and is asked for it again",
      ["sc"],
      "graph",
    ),
    ...cells(
      "Z6-once",
      "contended",
      "progress",
      "holds",
      contended("Z6-once"),
      "the entry at which the lock was dropped is dealt with before it may be dropped again",
      ["sc"],
      "graph",
    ),
    ...cells(
      "Z7",
      "replace",
      "final",
      "holds",
      replacing("Z7"),
      "one fault replaces the table, the other finds the huge page or an entry that is frozen",
      ["sc", "tso"],
    ),
    ...cells(
      "Z8",
      "valid-root",
      "final",
      "fails",
      recovering("Z8"),
      "a fault that stands in the unlinked table maps its page there, where nothing leads any more",
    ),
    ...cells(
      "Z8-frozen",
      "valid-root",
      "final",
      "holds",
      recovering("Z8-frozen"),
      "a fault that stands in the unlinked table finds its entry frozen, and tries again",
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
