/** What the documents say of the study gpc-refresh is what the study says, and what comes out of it. */
import assert from "node:assert/strict";
import { expect, test } from "vitest";
import { check } from "../../src/engine/index.ts";
import { headingOf } from "../../src/kvm/kernel-map.ts";
import study from "../../src/studies/gpc-refresh.ts";
import { reproduce } from "../../src/studies/reproduce.ts";
import { documentedCommands } from "../house/tidy.ts";
import { read } from "../house/tree.ts";
import { documents } from "./documents.ts";
import { tableBelow } from "./markdown.ts";

const page = read("docs/studies/gpc-refresh.md");

test("the table of results is the study's cells", () => {
  const rows = tableBelow(page, "The results").map((row) => row.slice(0, 5).join(" "));
  const cells = study.cells.map((cell) =>
    [cell.variant, cell.scenario, cell.property, cell.model, cell.expected].join(" "),
  );
  expect(rows).toEqual(cells);
});

test("the table of scenarios names those of the study", () => {
  const rows = tableBelow(page, "The scenarios").map(([name]) => name ?? "");
  expect(new Set(rows)).toEqual(new Set(study.cells.map((cell) => cell.scenario)));
});

test("every variant is explained", () => {
  for (const variant of Object.keys(study.variants)) expect(page).toContain(`**${variant}`);
});

const replays = documents().flatMap((path) =>
  documentedCommands(read(path)).filter((words) => words[0] === "replay" && words[1] === study.id),
);

test.each(replays.map((words) => [words.join(" "), words] as const))("%s fails as the document says", (_, words) => {
  const option = (name: string): string => words[words.indexOf(name) + 1] ?? "";
  const { failures, cell } = reproduce(study, option("--variant"), option("--schedule"));
  expect(failures.map(({ property }) => property)).toContain(cell.property);
});

test("replay commands were found", () => {
  expect(replays.length).toBeGreaterThanOrEqual(2);
});

test("the race in the README is the one that the study gives", async () => {
  const cell = study.cells.find(({ variant, model }) => variant === "D0h" && model === "sc");
  assert(cell !== undefined);
  const { failures, executions } = await check(cell.program(), { headingOf });
  const shown = read("README.md");
  const isShown = failures.some(({ diagram }) => shown.includes(diagram));
  expect(isShown, `none of these is in the README:\n${failures.map(({ diagram }) => diagram).join("\n\n")}`).toBe(true);
  expect(shown).toMatch(new RegExp(`D0h .* ${executions} runs`));
});

test("the README's tally is the study's", () => {
  const fails = study.cells.filter(({ expected }) => expected === "fails").length;
  expect(read("README.md")).toContain(
    `${study.cells.length} cells: ${study.cells.length - fails} hold, ${fails} fail. Every verdict is as expected.`,
  );
});
