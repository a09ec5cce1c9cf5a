/** The kernel map has every function that the flows of KVM's MMU name: docs/kernel-map-flows.md, and the reference itself where that is there. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { kernelText } from "../../src/kvm/kernel-map.ts";
import { ROOT, read } from "../house/tree.ts";
import { ALSO_CALLED, DATA, NOT_MODELLED, PRIMITIVES } from "./flow-names.ts";
import { MAPS, type Row, rowsOf } from "./kernel-map.ts";

const PAGE = "docs/kernel-map-flows.md";
/** Beside the repository, or beside the main worktree of it. */
const FLOWS = ["../shared", "../../shared"]
  .map((place) => `${ROOT}${place}/reference/kvm-mmu-flows.md`)
  .find(existsSync);

const documents = MAPS.map(([path]) => ({ path, rows: rowsOf(read(path)) }));
const mapped = new Set(documents.flatMap(({ rows }) => rows.map(({ kernel }) => kernel)));

function namesIn(text: string): string[] {
  return [...new Set(text.match(/FNAME\(\w+\)|\b_*[a-z]\w*_\w+\b/g) ?? [])];
}

/** Where a kernel function's row is, and what stands for it there. */
function found(kernel: string): { readonly path: string; readonly row: Row }[] {
  return documents.flatMap(({ path, rows }) =>
    rows.filter((row) => row.kernel === kernel).map((row) => ({ path, row })),
  );
}

function rowText(name: string, kernel: string): string {
  const places = found(kernel).map(
    ({ path, row }) =>
      `${row.ours.map((ours) => `\`${ours}()\``).join(", ")} in [${row.file}](../${row.file}), [map](${path.replace("docs/", "")})`,
  );
  return `| \`${kernelText(name)}\` | \`${kernelText(kernel)}\` | ${places.join("; ")} |`;
}

test("what is called otherwise is in the map, and nothing is listed twice", () => {
  for (const [name, functions] of Object.entries(ALSO_CALLED)) {
    expect(functions.length, name).toBeGreaterThan(0);
    for (const kernel of functions) expect([...mapped], `${name} is ${kernel}()`).toContain(kernel);
  }
  const all = [...Object.keys(ALSO_CALLED), ...Object.keys(NOT_MODELLED), ...PRIMITIVES, ...DATA];
  expect(all.filter((name, i) => all.indexOf(name) !== i)).toEqual([]);
  expect(all.filter((name) => mapped.has(name))).toEqual([]);
});

test("from FNAME(fetch) to ours, and back", () => {
  expect(found("FNAME(fetch)").map(({ row }) => [row.file, row.ours])).toEqual([
    ["src/kvm/shadow/fetch.ts", ["fetch"]],
  ]);
  expect(read("src/kvm/shadow/fetch.ts")).toMatch(
    /\/\*\* FNAME\(fetch\)[^\n]*\n(?:[^\n]*\n){0,6}?export function\* fetch\(/,
  );
});

test("the page is that of the data", () => {
  const page = read(PAGE);
  const rows = Object.entries(ALSO_CALLED).flatMap(([name, functions]) =>
    functions.map((kernel) => rowText(name, kernel)),
  );
  const wanted = [
    "| in the flows | in the map | ours |",
    "| --- | --- | --- |",
    ...rows,
    "",
    "Not modelled:",
    "",
    ...Object.entries(NOT_MODELLED).map(([name, why]) => `- \`${kernelText(name)}\`: ${why}`),
  ].join("\n");
  const [BEGIN, END] = ["<!-- names -->", "<!-- end -->"];
  const [before, after] = [page.indexOf(BEGIN) + BEGIN.length, page.lastIndexOf(END)];
  expect(page).toContain(BEGIN);
  expect(after).toBeGreaterThanOrEqual(before);
  if (process.env["UPDATE_DOCS"] === "1")
    writeFileSync(ROOT + PAGE, `${page.slice(0, before)}\n\n${wanted}\n\n${page.slice(after)}`);
  else expect(page.slice(before, after).trim(), "run npm run docs").toBe(wanted);
});

test.skipIf(FLOWS === undefined)("every name in the reference is known", () => {
  const known = new Set([...mapped, ...Object.keys(ALSO_CALLED), ...Object.keys(NOT_MODELLED), ...PRIMITIVES, ...DATA]);
  const names = namesIn(readFileSync(FLOWS as string, "utf8"));
  expect(names.length).toBeGreaterThan(200);
  expect(
    names.filter((name) => !known.has(name)),
    "add a function, or say in flow-names.ts what it is",
  ).toEqual([]);
});
