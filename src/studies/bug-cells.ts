/**
 * Studies of bugs that Linux has fixed: each scenario is run on the MMU as it is, where it must hold, and without a fix, where it must fail.
 *
 *     variant fixed              nothing is undone
 *     variant T07-unfixed        without the fix of bug T07 (kvm/fixes.ts)
 *
 * The same scenario, the same property: what the fix is for is the only difference.
 */
import { type MemoryModel, type Program, type Strategy, UsageError } from "../engine/index.ts";
import { FIXES, type FixName } from "../kvm/fixes.ts";
import type { KvmVariants } from "../kvm/variants.ts";
import { type ShadowSceneOptions, shadowScenes } from "./shadow-guest-scene.ts";
import { cell, type Study, type StudyCell, study } from "./study.ts";
import { type TdpSceneOptions, tdpScene } from "./tdp-scene.ts";

/** What comes of a scenario without a fix. */
export interface Without {
  /** Models under which it fails; under the scenario's others it must hold all the same. */
  readonly fails?: readonly MemoryModel[];
  readonly because: string;
  /** The property that fails, if it is not the scenario's. */
  readonly property?: string;
  /** Why it holds under the others. */
  readonly otherwise?: string;
}

export interface BugScenario {
  readonly scenario: string;
  readonly property: string;
  readonly strategy?: Strategy;
  readonly models: readonly MemoryModel[];
  /** Why it holds with every fix made. */
  readonly because: string;
  /** @param variants what the scene has to hand on to the VM */
  readonly program: (variants: Pick<KvmVariants, "undone">) => Program;
  readonly without: Partial<Readonly<Record<FixName, Without>>>;
}

/** A scenario of the TDP MMU. */
export function onTdp(
  scenario: string,
  options: TdpSceneOptions,
): Pick<BugScenario, "scenario"> & Pick<BugScenario, "program"> {
  return {
    scenario,
    program: ({ undone }) => tdpScene(`bugs ${scenario}`, { ...options, variants: { ...options.variants, undone } }),
  };
}

/** A scenario of the shadow MMU. */
export function onShadow(
  scenario: string,
  options: ShadowSceneOptions,
): Pick<BugScenario, "scenario"> & Pick<BugScenario, "program"> {
  return {
    scenario,
    program: ({ undone }) => shadowScenes({ [scenario]: options }, { ...options.variants, undone })(scenario),
  };
}

const FIXED = "fixed";
/** The variant without a fix. */
export const unfixed = (fix: FixName): string => `${FIXES[fix].bug}-unfixed`;

export function bugStudy(
  description: Pick<Study, "id" | "title"> & { readonly scenarios: readonly BugScenario[] },
): Study {
  const { id, title, scenarios } = description;
  const names = scenarios.flatMap(({ without }) => Object.keys(without) as FixName[]);
  const commits = [...new Set(names.map((name) => FIXES[name].commit))];
  const told = Object.fromEntries(
    names.map((name) => [unfixed(name), `without ${FIXES[name].commit}: ${FIXES[name].without}`]),
  );
  return study({
    id,
    title,
    source: `commits of Linux: ${commits.join(", ")}`,
    variants: { [FIXED]: "Linux 7.2, every fix made", ...told },
    cells: scenarios.flatMap(cellsOf),
  });
}

function cellsOf(each: BugScenario): StudyCell[] {
  const { scenario, property, models, because, program, without } = each;
  const strategy: Strategy = each.strategy ?? "dpor";
  const common = { scenario, strategy };
  const fixed = models.map((model) =>
    cell({
      ...common,
      variant: FIXED,
      property,
      model,
      expected: "holds",
      because,
      program: () => program({ undone: new Set() }),
    }),
  );
  const broken = (Object.entries(without) as [FixName, Without][]).flatMap(([fix, result]) =>
    models.map((model) => {
      const fails = (result.fails ?? models).includes(model);
      if (!fails && result.otherwise === undefined)
        throw new UsageError(`${fix}: why does ${scenario} hold under ${model}?`);
      return cell({
        ...common,
        variant: unfixed(fix),
        property: result.property ?? property,
        model,
        expected: fails ? "fails" : "holds",
        because: fails ? result.because : (result.otherwise as string),
        program: () => program({ undone: new Set([fix]) }),
      });
    }),
  );
  return [...fixed, ...broken];
}
