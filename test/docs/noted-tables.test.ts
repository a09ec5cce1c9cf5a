/** Each row of the notes' tables has cells with verdicts, and the page of findings says which. */
import { writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { builtInStudy } from "../../src/studies/registry.ts";
import type { Study } from "../../src/studies/study.ts";
import { ROOT, read } from "../house/tree.ts";
import { type NotedRow, type NotedTable, TABLES } from "./noted-tables.ts";

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

function lineOf(study: Study, { row, expected, variants, differs, open = "so it is" }: NotedRow): string {
  const cells = variants.map((variant) => (variants.length > 1 ? `${variant}: ` : "") + verdictsOf(study, variant));
  return `| ${[row, expected, cells.join("; "), differs === undefined ? open : `**no**: ${differs}`].join(" | ")} |`;
}

async function tableOf({ study: id, rows }: NotedTable): Promise<string> {
  const study = await builtInStudy(id);
  const head = "| row | the notes expect | cells, and their verdicts | is it so? |\n| --- | --- | --- | --- |";
  const named = rows.flatMap((row) => row.variants);
  const others = Object.keys(study.variants).filter((variant) => !named.includes(variant));
  const beside = others.map((variant) => `| - | not in the notes | ${variant}: ${verdictsOf(study, variant)} | |`);
  return `### ${id}\n\n${[head, ...rows.map((row) => lineOf(study, row)), ...beside].join("\n")}`;
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
