/** The races in the findings are the ones that the studies give. UPDATE_DOCS=1 writes them. */
import { writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import type { MemoryModel } from "../../src/engine/index.ts";
import { planCells } from "../../src/studies/cells.ts";
import { loadStudy } from "../../src/studies/load.ts";
import { runCells } from "../../src/studies/run.ts";
import { ROOT, read } from "../house/tree.ts";
import { blocksOf } from "./markdown.ts";

interface ShownRace {
  /** The study, and the page of that name. */
  readonly study: string;
  readonly variant: string;
  readonly scenario: string;
  readonly model: MemoryModel;
}

const RACES: readonly ShownRace[] = [
  { study: "lockless-walk", variant: "V2", scenario: "lifetime", model: "tso" },
  { study: "lazy-large-spte", variant: "B1", scenario: "seven-steps", model: "sc" },
  { study: "lockless-aging", variant: "A6-store", scenario: "shadowing", model: "sc" },
];

async function diagramOf({ study, variant, scenario, model }: ShownRace): Promise<string> {
  const loaded = await loadStudy(study);
  const plan = planCells(loaded.study, { variants: [variant], model: null, strategy: null, bounds: {} });
  const cells = plan.filter((cell) => cell.scenario === scenario && cell.model === model);
  expect(cells).toHaveLength(1);
  const { signal } = new AbortController();
  const run = await runCells(loaded, cells, { workers: 1, allSteps: false, signal, resume: null });
  return run.cells[0]?.diagram ?? "";
}

const isRace = (text: string): boolean => text.startsWith(" CPU 0 (");

test.each(RACES)("$study: $variant, $scenario", async (race) => {
  const page = `docs/findings/${race.study}.md`;
  const text = read(page);
  const [shown = "", ...others] = blocksOf(text)
    .map((block) => block.text)
    .filter(isRace);
  expect(others).toEqual([]);
  const wanted = `${await diagramOf(race)}\n`;
  expect(wanted).toContain(" CPU 0 (");
  if (process.env["UPDATE_DOCS"] === "1") {
    writeFileSync(
      `${ROOT}${page}`,
      text.replace(shown, () => wanted),
    );
  } else expect(shown, "run npm run docs").toBe(wanted);
});

test("no other page of findings shows a race", () => {
  const pages = ["README", "gpc-refresh", "root-zap"].map((name) => read(`docs/findings/${name}.md`));
  expect(pages.flatMap((page) => blocksOf(page).filter(({ text }) => isRace(text)))).toEqual([]);
});
