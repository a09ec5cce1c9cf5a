/** docs/bugs.md: every bug of the list is in one of its tables, and what it says of the studies is so. */
import { writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { FIXES, type FixName, REMEMBERED } from "../../src/kvm/fixes.ts";
import { unfixed } from "../../src/studies/bug-cells.ts";
import { builtInIds, builtInStudy } from "../../src/studies/registry.ts";
import type { Study, StudyCell } from "../../src/studies/study.ts";
import { ROOT, read } from "../house/tree.ts";
import { tableBelow } from "./markdown.ts";

/** 54 were collected; one more turned up while they were explored. */
const BUGS = 55;
const PAGE = "docs/bugs.md";
const page = read(PAGE);
const studies = await Promise.all(builtInIds().map(builtInStudy));
const bugStudies = studies.filter(({ id }) => id.startsWith("bugs-"));

interface Found {
  readonly fix: FixName;
  readonly study: Study;
  readonly cells: readonly StudyCell[];
}

function found(fix: FixName): Found[] {
  return bugStudies
    .map((study) => ({ fix, study, cells: study.cells.filter(({ variant }) => variant === unfixed(fix)) }))
    .filter(({ cells }) => cells.length > 0);
}

function row({ fix, study, cells }: Found): string {
  const { bug, commit } = FIXES[fix];
  const failing = cells.filter(({ expected }) => expected === "fails");
  const first = failing[0] as StudyCell;
  const models = [...new Set(failing.map(({ model, strategy }) => (strategy === "graph" ? "graph" : model)))].join(
    ", ",
  );
  const id = REMEMBERED.has(commit) ? `${commit} (remembered)` : commit;
  const what = `${FIXES[fix].without}: ${first.because}`;
  const columns = [bug, fix, id, study.id, first.scenario, `${first.property} (${models})`, what];
  return `| ${columns.join(" | ")} |`;
}

test("every fix that can be undone is undone by a study, and fails there", () => {
  for (const fix of Object.keys(FIXES) as FixName[]) {
    const failing = found(fix).flatMap(({ cells }) => cells.filter(({ expected }) => expected === "fails"));
    expect(failing, fix).not.toEqual([]);
  }
});

test("the table of what was found is the studies'", () => {
  const fixes = (Object.keys(FIXES) as FixName[]).sort((a, b) => (FIXES[a].bug < FIXES[b].bug ? -1 : 1));
  const head = ["| bug | what | fix | study | scenario | fails | without it |", "|---|---|---|---|---|---|---|"];
  const wanted = [...head, ...fixes.flatMap(found).map(row)].join("\n");
  const shown = /(?<=<!-- found -->\n\n)[\s\S]*?(?=\n\n<!-- end -->)/.exec(page)?.[0] ?? "";
  expect(page).toContain("<!-- found -->\n\n");
  if (process.env["UPDATE_DOCS"] === "1")
    writeFileSync(
      `${ROOT}${PAGE}`,
      page.replace(shown, () => wanted),
    );
  else expect(shown, "run npm run docs").toBe(wanted);
});

test("every bug is in one of the tables", () => {
  const ids = ["Found", "In the studies of threads", "Not modelled"].flatMap((heading) =>
    tableBelow(page, heading).map(([id]) => (id ?? "").slice(0, 3)),
  );
  ids.push(...(page.match(/^T\d+(?= \()/gm) ?? []));
  const all = Array.from({ length: BUGS }, (_, i) => `T${String(i + 1).padStart(2, "0")}`);
  expect([...new Set(ids)].sort()).toEqual(all);
});

test("the cells that are named in the studies of threads exist, and fail", () => {
  const rows = tableBelow(page, "In the studies of threads");
  expect(rows.length).toBeGreaterThan(0);
  for (const [, , , id, variant, scenario] of rows) {
    const cells = studies.find((study) => study.id === id)?.cells ?? [];
    const failing = cells.filter((cell) => cell.variant === variant && cell.scenario === scenario);
    expect(
      failing.map(({ expected }) => expected),
      `${id} ${variant} ${scenario}`,
    ).toContain("fails");
  }
});
