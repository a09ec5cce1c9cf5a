/**
 * Studies on a compiled kernel: the cells that a study has there.
 *
 * A kernel has one design, so the variants are the kernel as it is and, where a patch is given, the kernel with the patch. A cell of either is expected
 * to come out as the study says of the design that the kernel has: a patch that breaks it shows.
 */
import type { MemoryModel } from "../engine/index.ts";
import { touch } from "../machine/index.ts";
import { GPC_SCENARIOS } from "../studies/gpc-refresh.ts";
import { cell, type Study, type StudyCell, study } from "../studies/study.ts";
import { gpcSceneOn } from "./gpc-scene.ts";
import type { Image } from "./image.ts";
import type { KernelScenario, KernelStudy } from "./kernel-study.ts";
import { LAZY_LARGE_SPTE } from "./lazy-large-spte.ts";
import { LOCKLESS_AGING } from "./lockless-aging.ts";
import { LOCKLESS_WALK } from "./lockless-walk.ts";
import { ROOT_ZAP } from "./root-zap.ts";
import { type TdpSceneOptions, tdpProgramOn } from "./tdp-scene.ts";

/** By scenario: the places whose plain accesses race there. */
export type RacingPlaces = Readonly<Record<string, readonly number[]>>;

/** A kernel to run on. */
export interface Body {
  readonly variant: string;
  readonly title: string;
  readonly image: Image;
  readonly racing: RacingPlaces;
}

const TOUCH = touch(0, "write");
const BOTH: readonly MemoryModel[] = ["sc", "tso"];

function gpcScenario(name: "use" | "valid" | "readers" | "two", because: string): KernelScenario {
  return {
    ...{ name, property: "isolation", models: BOTH, strategy: "dpor", expected: "holds", because },
    program: (image, racing) => GPC_SCENARIOS[name]({ design: "D0", make: gpcSceneOn(image, racing) }),
  };
}

function tdpScenario(name: string, property: string, options: TdpSceneOptions, because: string): KernelScenario {
  return {
    ...{ name, property, models: BOTH, strategy: "dpor", expected: "holds", because },
    program: (image, racing) => tdpProgramOn(image, racing, name, options),
  };
}

const STUDIES: Readonly<Record<string, KernelStudy>> = {
  "gpc-refresh": {
    title: "gfn_to_pfn_cache against invalidations, on the kernel's own source",
    source: "https://lore.kernel.org/kvm/20240821202814.711673-1-dwmw2@infradead.org/",
    variant: "D0",
    scenarios: [
      gpcScenario("use", "the count is raised before, and the sequence after, whatever the refresh might overlook"),
      gpcScenario("valid", "start() clears `valid` under gpc->lock before it returns"),
      gpcScenario("readers", "as with one user"),
      gpcScenario("two", "each invalidation keeps the count above zero until it has moved the sequence"),
      {
        ...{ name: "storm", property: "progress", models: ["sc"], strategy: "graph", expected: "fails" },
        because: "any invalidation anywhere keeps the count above zero when the refresh looks",
        program: (image, racing) => GPC_SCENARIOS.storm("D0", gpcSceneOn(image, racing)),
      },
    ],
  },
  "lazy-large-spte": LAZY_LARGE_SPTE,
  "lockless-aging": LOCKLESS_AGING,
  "lockless-walk": LOCKLESS_WALK,
  "root-zap": ROOT_ZAP,
  "tdp-fault": {
    title: "TDP faults against each other and against the host, on the kernel's own source",
    source: "https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/arch/x86/kvm/mmu/tdp_mmu.c",
    variant: "linux",
    scenarios: [
      tdpScenario(
        "two-faults",
        "final",
        { guests: [[TOUCH], [TOUCH]], warm: true, unmap: false, faultsMax: 1 },
        "the entry is changed by compare-exchange: one fault sets it, the other sees that it is set",
      ),
      tdpScenario(
        "two-roots",
        "final",
        { guests: [[TOUCH], [TOUCH]], warm: false, unmap: false, faultsMax: 1 },
        "from power-on: the roots and the tables above are made by both as well",
      ),
      tdpScenario(
        "fault-unmap",
        "isolation",
        { guests: [[TOUCH]], warm: true, unmap: true, faultsMax: 1 },
        "the fault sees the invalidation in progress or the sequence moved, under mmu_lock; the notifier flushes before it returns",
      ),
    ],
  },
};

/** The studies that run on a compiled kernel. */
export function kernelStudyIds(): string[] {
  return Object.keys(STUDIES).sort();
}

export function kernelStudy(id: string): KernelStudy | null {
  return STUDIES[id] ?? null;
}

export function studyOn(id: string, definition: KernelStudy, bodies: readonly Body[]): Study {
  const cells = bodies.flatMap((body) => definition.scenarios.flatMap((scenario) => cellsOf(body, scenario)));
  return study({
    id,
    title: definition.title,
    source: definition.source,
    variants: Object.fromEntries(bodies.map(({ variant, title }) => [variant, title])),
    cells,
  });
}

function cellsOf({ variant, image, racing }: Body, scenario: KernelScenario): StudyCell[] {
  const { name, property, strategy, expected, because } = scenario;
  return scenario.models.map((model) =>
    cell({
      ...{ variant, scenario: name, property, model, strategy, expected, because },
      program: () => scenario.program(image, racing[name] ?? []),
    }),
  );
}
