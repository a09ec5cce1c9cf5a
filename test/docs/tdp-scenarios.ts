/** The concurrency scenarios of the TDP MMU: which cells explore each, and what is undone there to see that they would notice. */
import type { StudyCell } from "../../src/studies/study.ts";
import { ALL_MUTATIONS } from "../mutations/all.ts";
import type { Mutation } from "../mutations/mutations.ts";

/** Cells of a study, by variant and scenario; each is explored under SC and under TSO. */
interface CellsOfStudy {
  readonly study: string;
  readonly variant: string;
  readonly scenarios: readonly string[];
}

export interface TdpScenario {
  readonly title: string;
  /** What must hold, and what tells. */
  readonly oracle: string;
  readonly cells: readonly CellsOfStudy[];
}

const tables = "no table is lost or reached twice";
const frames = "no page is touched that the host has taken away";
const writes = "each write is in a copy or in the log";

export const TDP_SCENARIOS: readonly TdpScenario[] = [
  {
    title: "map against map on the same table",
    oracle: tables,
    cells: [{ study: "tdp-fault", variant: "7.2", scenarios: ["two-maps", "same-page"] }],
  },
  {
    title: "map against unmap notifier",
    oracle: frames,
    cells: [{ study: "tdp-fault", variant: "7.2", scenarios: ["unmap", "cold-unmap", "reenter"] }],
  },
  {
    title: "map against root invalidation",
    oracle: `${tables}; no mapping in a root that is gone; counts of references`,
    cells: [{ study: "root-invalidate", variant: "7.2", scenarios: ["map", "drop"] }],
  },
  {
    title: "split against fault",
    oracle: `${writes}; entries map the host's frames`,
    cells: [
      {
        study: "huge-pages",
        variant: "7.2",
        scenarios: ["eager-split", "eager-split-yield", "lazy-split", "split-twice", "split-log"],
      },
    ],
  },
  {
    title: "zap with yields against faults",
    oracle: frames,
    cells: [
      { study: "zap-yield", variant: "7.2", scenarios: ["cached", "last", "fault", "zap-gfn-range"] },
      { study: "root-invalidate", variant: "7.2", scenarios: ["yield"] },
    ],
  },
  {
    title: "recovery of huge pages against faults",
    oracle: `${tables}; entries map the host's frames; nobody changes a frozen entry`,
    cells: [
      { study: "huge-pages", variant: "7.2", scenarios: ["recover", "nx-empty"] },
      { study: "huge-pages", variant: "6.12", scenarios: ["recover", "nx-empty"] },
    ],
  },
  {
    title: "clearing the dirty log against fast page fault and the CPU's D bit",
    oracle: writes,
    cells: [
      { study: "dirty-log", variant: "7.2", scenarios: ["writable", "protected", "clear", "clear-protected", "ring"] },
      { study: "dirty-log", variant: "7.2-pml", scenarios: ["writable", "protected", "clear"] },
    ],
  },
  {
    title: "aging against fast page fault and zap",
    oracle: `${frames}; an access is reported; entries map the host's frames`,
    cells: [
      { study: "aging", variant: "7.2", scenarios: ["access", "zap", "fast-fault", "fetch-log"] },
      { study: "aging", variant: "7.2-no-ad", scenarios: ["access", "zap", "fast-fault", "fetch-log"] },
    ],
  },
  {
    title: "NX recovery against faults",
    oracle: `${tables}; only tables that are linked are on the list`,
    cells: [{ study: "huge-pages", variant: "7.2", scenarios: ["nx-fetch", "nx-split", "nx-recover"] }],
  },
  {
    title: "memslot deletion against faults in flight",
    oracle: frames,
    cells: [
      { study: "memslot-delete", variant: "zap-all", scenarios: ["mapped", "fault"] },
      { study: "memslot-delete", variant: "zap-slot", scenarios: ["mapped", "fault", "notifier"] },
    ],
  },
];

const isAmong = (cells: readonly CellsOfStudy[], { study, variant, scenario }: Mutation): boolean =>
  cells.some((each) => each.study === study && each.variant === variant && each.scenarios.includes(scenario));

/** What is undone in the scenario's cells, each of which test/mutations finds to be noticed. */
export function mutationsOf({ cells }: TdpScenario): readonly Mutation[] {
  return ALL_MUTATIONS.filter((mutation) => isAmong(cells, mutation));
}

/** A cell that is named and is not there, or is not explored completely under both memory models; null: all are. */
export function cellsProblem(
  { title, cells }: TdpScenario,
  cellsOf: ReadonlyMap<string, readonly StudyCell[]>,
): string | null {
  for (const { study, variant, scenarios } of cells) {
    for (const scenario of scenarios) {
      const found = (cellsOf.get(study) ?? []).filter((cell) => cell.variant === variant && cell.scenario === scenario);
      for (const model of ["sc", "tso"]) {
        const cell = found.find((each) => each.model === model);
        if (cell === undefined) return `${title}: ${study}, ${variant}, ${scenario} is not explored under ${model}`;
        if (cell.strategy !== "dpor" || cell.expected !== "holds") return `${title}: ${study}, ${scenario} is no proof`;
      }
    }
  }
  return null;
}

/** The part of docs/tdp-scenarios.md that is made of the above. */
export function scenariosText(): string {
  const parts = TDP_SCENARIOS.map((scenario, i) => {
    const lines = [`### ${i + 1}. ${sentence(scenario.title)}`, "", `What tells: ${scenario.oracle}.`, ""];
    for (const { study, variant, scenarios } of scenario.cells)
      lines.push(`- \`${study}\`, ${variant}: ${scenarios.map((name) => `\`${name}\``).join(", ")}`);
    lines.push("", "| what is undone | found in | as |", "| --- | --- | --- |");
    for (const { name, study, variant, scenario: where, caught } of mutationsOf(scenario))
      lines.push(`| ${name} | \`${study}\`, ${variant}: \`${where}\` | ${caught} |`);
    return lines.join("\n");
  });
  return parts.join("\n\n");
}

const sentence = (text: string): string => text.slice(0, 1).toUpperCase() + text.slice(1);
