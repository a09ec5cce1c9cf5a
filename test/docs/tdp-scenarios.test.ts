/** docs/tdp-scenarios.md names cells and mutations that there are. `npm run docs` writes its tables. */
import { writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import type { Study, StudyCell } from "../../src/studies/study.ts";
import { ROOT, read } from "../house/tree.ts";
import { cellsProblem, mutationsOf, scenariosText, TDP_SCENARIOS } from "./tdp-scenarios.ts";

const PATH = "docs/tdp-scenarios.md";
const HEADING = "## The scenarios\n\n";

async function allCells(): Promise<ReadonlyMap<string, readonly StudyCell[]>> {
  const cells = new Map<string, readonly StudyCell[]>();
  for (const { study } of TDP_SCENARIOS.flatMap((scenario) => scenario.cells)) {
    const { default: definition } = (await import(`../../src/studies/${study}.ts`)) as { default: Study };
    cells.set(study, definition.cells);
  }
  return cells;
}

test.each(TDP_SCENARIOS)(
  "$title: explored completely under SC and TSO, and two mutations at least",
  async (scenario) => {
    expect(cellsProblem(scenario, await allCells())).toBeNull();
    expect(mutationsOf(scenario).length).toBeGreaterThanOrEqual(2);
  },
);

test("a cell that is not there is noticed", async () => {
  const cells = await allCells();
  const wrong = (study: string, scenario: string): string | null =>
    cellsProblem({ title: "x", oracle: "", cells: [{ study, variant: "7.2", scenarios: [scenario] }] }, cells);
  expect(wrong("tdp-fault", "gone")).toContain("not explored under sc");
  // Under SC only.
  expect(wrong("tdp-fault", "two-vcpus-unmap")).toContain("not explored under tso");
  // A documented exception, which fails.
  expect(wrong("aging", "cached")).toContain("no proof");
});

test("the document has them", () => {
  const document = read(PATH);
  const start = document.indexOf(HEADING) + HEADING.length;
  const wanted = `${document.slice(0, start)}${scenariosText()}\n`;
  if (process.env["UPDATE_DOCS"] === "1") writeFileSync(ROOT + PATH, wanted);
  expect(read(PATH), "run npm run docs").toBe(wanted);
});
