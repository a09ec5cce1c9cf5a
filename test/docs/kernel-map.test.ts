/** docs/kernel-map*.md, the data that diagrams are headed from, and the sources say the same. `npm run docs` mends the tables. */
import { writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { headingOf, KERNEL_MAP, KERNEL_MAP_OF_FILE } from "../../src/kvm/kernel-map.ts";
import { ROOT, read, repositoryFiles } from "../house/tree.ts";
import { homesOf, kernelNamesSource, MAPS, mended, partOf, rowsOf, type Sources, wantedRows } from "./kernel-map.ts";

const sources: Sources = {
  paths: repositoryFiles().filter((path) => /^src\/(?:kvm|kernel|machine)\/(?!.*\.test\.ts).*\.ts$/.test(path)),
  read,
};

const NAMES = "src/kvm/kernel-names.ts";

test("the names that comments begin with are known", () => {
  const wanted = kernelNamesSource(sources);
  if (process.env["UPDATE_DOCS"] === "1" && wanted !== read(NAMES)) {
    writeFileSync(ROOT + NAMES, wanted);
    throw new Error("new names were found: run npm run docs once more");
  }
  expect(read(NAMES), "run npm run docs").toBe(wanted);
});

test.each(MAPS)("%s lists each function of %s in the file that has it", (path, part) => {
  if (process.env["UPDATE_DOCS"] === "1") writeFileSync(ROOT + path, mended(read(path), sources, part));
  const lines = (rows: ReturnType<typeof rowsOf>): string[] =>
    rows.flatMap(({ file, kernel, ours }) => ours.map((name) => `${file}: ${name} is ${kernel}()`)).sort();
  const rows = rowsOf(read(path));
  expect(rows.length).toBeGreaterThan(30);
  const wanted = wantedRows(rows, sources).filter(({ file }) => partOf(file) === part);
  expect(lines(rows), "run npm run docs").toEqual(lines(wanted));
});

test("every function of the data exists, once", () => {
  const names = [...Object.keys(KERNEL_MAP), ...Object.values(KERNEL_MAP_OF_FILE).flatMap((map) => Object.keys(map))];
  const nowhere = names.filter((name) => homesOf(name, sources).length === 0);
  expect(nowhere, "mend src/kvm/kernel-map.ts").toEqual([]);
  const excepted = new Set(Object.values(KERNEL_MAP_OF_FILE).flatMap((map) => Object.keys(map)));
  const twice = names.filter((name) => !excepted.has(name) && homesOf(name, sources).length > 1);
  expect(twice, "name them by file in src/kvm/kernel-map.ts").toEqual([]);
});

test("tables are mended", () => {
  const wanted = mended(
    "# T\n\n## A\n\n### src/kvm/gone.ts\n\n| kernel | ours | left out |\n| --- | --- | --- |\n| `make_spte()` | `makeSpte()` | much |\n\n## B\n",
    sources,
    "src/kvm/",
  );
  expect(wanted).not.toContain("gone.ts");
  expect(wanted).toContain("| `make_spte()` | `makeSpte()` | much |");
  expect(mended(wanted, sources, "src/kvm/")).toBe(wanted);
});

test("a diagram's heading is the kernel's name, and helpers have none", () => {
  const place = (file: string, name: string): string | null => headingOf({ file, function: name, line: 1 });
  expect(place("any/where/src/kvm/gfn-to-pfn-cache.ts", "refresh_locked")).toBe("__kvm_gpc_refresh()");
  expect(place("any\\where\\dist\\kernel\\mm\\mm.js", "get_user_page_fast")).toBe("get_user_pages_fast_only()");
  expect(place("src/kvm/gpc-protocols.ts", "wait_for_invalidations")).toBe("gpc_wait_for_invalidations()");
  expect(place("src/kvm/gpc-protocols.ts", "count_up")).toBeNull();
  expect(place("src/studies/gpc-refresh.ts", "use_cache")).toBeNull();
  expect(place("src/studies/mine.ts", "munmap")).toBeNull();
  expect(place("src/machine/page-walk.ts", "npt_walk")).toBe("the CPU walks NPT");
});
