/** Each row of the notes' tables has cells with verdicts, and the page of findings says which. */
import { writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { withParameters } from "../../src/studies/measurement.ts";
import { builtInMeasurement } from "../../src/studies/measurements.ts";
import { builtInStudy } from "../../src/studies/registry.ts";
import type { Study } from "../../src/studies/study.ts";
import { ROOT, read } from "../house/tree.ts";
import { type NotedMeasurement, type NotedRow, type NotedTable, TABLES } from "./noted-tables.ts";

const PAGE = "docs/findings/README.md";
const BEGIN = "<!-- tables -->";
const END = "<!-- end of tables -->";

/** "zap holds (sc, tso), many fails (sc)" */
function verdictsOf({ cells }: Study, variant: string): string {
  const models = new Map<string, string[]>();
  for (const cell of cells.filter((each) => each.variant === variant)) {
    const key = `${cell.scenario} ${cell.expected}`;
    models.set(key, [...(models.get(key) ?? []), cell.strategy === "graph" ? "graph" : cell.model]);
  }
  return [...models].map(([key, list]) => `${key} (${list.join(", ")})`).join(", ");
}

/** What is measured of a row, and said of it. Virtual time: the same on any machine. */
async function measuredOf(study: string, { variants, set, say }: NotedMeasurement): Promise<string> {
  const measurement = await builtInMeasurement(study);
  const parameters = withParameters(measurement, set);
  const runs = new Map(variants.map((name) => [name, measurement.run(name, parameters, {}).metrics]));
  return say((variant, name) => {
    const value = runs.get(variant)?.[name];
    if (typeof value !== "number") throw new Error(`${study} ${variant} has no ${name}`);
    return value;
  });
}

async function lineOf(study: Study, { row, expected, variants, differs, measured }: NotedRow): Promise<string> {
  const said = measured === undefined ? "so it is" : `so it is: ${await measuredOf(study.id, measured)}`;
  const cells = variants.map((variant) => (variants.length > 1 ? `${variant}: ` : "") + verdictsOf(study, variant));
  return `| ${[row, expected, cells.join("; "), differs === undefined ? said : `**no**: ${differs}`].join(" | ")} |`;
}

async function tableOf({ study: id, rows }: NotedTable): Promise<string> {
  const study = await builtInStudy(id);
  const head = "| row | the notes expect | cells, and their verdicts | is it so? |\n| --- | --- | --- | --- |";
  const named = rows.flatMap((row) => row.variants);
  const others = Object.keys(study.variants).filter((variant) => !named.includes(variant));
  const beside = others.map((variant) => `| - | not in the notes | ${variant}: ${verdictsOf(study, variant)} | |`);
  return `### ${id}\n\n${[head, ...(await Promise.all(rows.map((row) => lineOf(study, row)))), ...beside].join("\n")}`;
}

describe.each(TABLES)("$study", ({ study: id, rows }) => {
  test.each(rows)("$row", async ({ variants }) => {
    const { cells } = await builtInStudy(id);
    for (const variant of variants) expect(cells.filter((cell) => cell.variant === variant)).not.toEqual([]);
  });
});

test("the page has the tables", async () => {
  const text = read(PAGE);
  const [begin, end] = [text.indexOf(BEGIN) + BEGIN.length, text.lastIndexOf(END)];
  const wanted = (await Promise.all(TABLES.map(tableOf))).join("\n\n");
  if (process.env["UPDATE_DOCS"] === "1")
    writeFileSync(`${ROOT}${PAGE}`, `${text.slice(0, begin)}\n\n${wanted}\n\n${text.slice(end)}`);
  else expect(text.slice(begin, end).trim(), "run npm run docs").toBe(wanted);
});
