/** Pages of scenarios: what they name exists, and their tables are made from it. */
import { writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { builtInIds, builtInStudy } from "../../src/studies/registry.ts";
import type { Expected, StudyCell } from "../../src/studies/study.ts";
import { ROOT, read } from "../house/tree.ts";
import { ALL_MUTATIONS } from "../mutations/all.ts";
import { type Explored, SCENARIO_PAGES, type Scenario } from "./scenario-pages.ts";

/** A scenario for which fewer are noticed is hardly checked. */
const MUTATIONS_MIN = 2;
const HEAD = ["| study | variant | scenario | models | fails when this is undone |", "|---|---|---|---|---|"];
const BEGIN = "<!-- scenarios -->";
const END = "<!-- end -->";
const studies = new Map((await Promise.all(builtInIds().map(builtInStudy))).map((study) => [study.id, study]));

function cellsOf({ study, variant }: Explored, scenario: string, expected: Expected): StudyCell[] {
  const cells = studies.get(study)?.cells ?? [];
  return cells.filter((cell) => cell.variant === variant && cell.scenario === scenario && cell.expected === expected);
}

function modelsOf(explored: Explored, scenario: string, expected: Expected): string[] {
  return [...new Set(cellsOf(explored, scenario, expected).map(({ model }) => model))].sort();
}

function mutationsOf({ study, variant }: Explored, scenario: string): string[] {
  return ALL_MUTATIONS.filter(
    (mutation) => mutation.study === study && mutation.variant === variant && mutation.scenario === scenario,
  ).map(({ name }) => name);
}

function rowsOf(explored: Explored, expected: Expected): string[] {
  const { study, variant, scenarios } = explored;
  return scenarios.map((scenario) => {
    const undone = expected === "fails" ? "fails as it is" : mutationsOf(explored, scenario).join("; ");
    const models = modelsOf(explored, scenario, expected).join(", ");
    return `| ${study} | ${variant} | ${scenario} | ${models} | ${undone} |`;
  });
}

function tableOf({ name, holds, fails = [] }: Scenario): string {
  const rows = [...holds.flatMap((one) => rowsOf(one, "holds")), ...fails.flatMap((one) => rowsOf(one, "fails"))];
  return [`### ${name.charAt(0).toUpperCase()}${name.slice(1)}`, "", ...HEAD, ...rows].join("\n");
}

/** Each scenario of a list, with its cells' part of a study. */
function each(list: readonly Explored[]): (readonly [Explored, string])[] {
  return list.flatMap((explored) => explored.scenarios.map((scenario) => [explored, scenario] as const));
}

describe.each(SCENARIO_PAGES)("$page", ({ page, scenarios }) => {
  test.each(scenarios)("$name: explored completely, under SC and TSO", ({ holds, fails = [] }) => {
    const strategies = new Set<string>();
    for (const [list, expected] of [
      [holds, "holds"],
      [fails, "fails"],
    ] as const) {
      for (const [explored, scenario] of each(list)) {
        const cells = cellsOf(explored, scenario, expected);
        expect(cells, `${explored.study} ${explored.variant} ${scenario}: ${expected}`).not.toEqual([]);
        for (const { strategy } of cells) strategies.add(strategy);
      }
    }
    // Others say nothing about what they have not seen.
    expect(["dpor", "graph"]).toEqual(expect.arrayContaining([...strategies]));
    const models = each(holds).flatMap(([explored, scenario]) => modelsOf(explored, scenario, "holds"));
    expect([...new Set(models)].sort()).toEqual(["sc", "tso"]);
  });

  test.each(scenarios)("$name: mutations", ({ holds }) => {
    expect(
      each(holds).flatMap(([explored, scenario]) => mutationsOf(explored, scenario)).length,
    ).toBeGreaterThanOrEqual(MUTATIONS_MIN);
  });

  test("its tables are those of the studies and mutations", () => {
    const text = read(page);
    const wanted = scenarios.map(tableOf).join("\n\n");
    const [before, after] = [text.indexOf(BEGIN) + BEGIN.length, text.lastIndexOf(END)];
    expect(text).toContain(BEGIN);
    expect(after).toBeGreaterThanOrEqual(before);
    const shown = text.slice(before, after).trim();
    if (process.env["UPDATE_DOCS"] === "1") {
      writeFileSync(`${ROOT}${page}`, `${text.slice(0, before)}\n\n${wanted}\n\n${text.slice(after)}`);
      return;
    }
    expect(shown, "run npm run docs").toBe(wanted);
  });
});
