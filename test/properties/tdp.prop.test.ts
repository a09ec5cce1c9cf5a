/**
 * After any sequence of operations a VM with the TDP MMU agrees with a plain reference. Here a few; `node bench/properties/run.ts 20000` runs as many as
 * there is time for. That it would notice is shown by bugs put into the source.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { changeTree, copyTree } from "../changed-tree.ts";
import { documentOfCase, FOUND_CASES } from "./found-cases.ts";
import { PLANTED_BUGS, type PlantedBug } from "./planted-bugs.ts";
import { runDocument, runSeed } from "./random-tdp.ts";

/** So many at a time, and so often. */
const SEEDS = 25;
const GIGANTIC_SEEDS = 2;

test.each([0, 1, 2, 3, 4, 5, 6, 7])(`random workloads agree with the reference: ${SEEDS} seeds, part %i`, (part) => {
  for (let seed = part * SEEDS; seed < (part + 1) * SEEDS; seed++) expect(runSeed(seed)).toBeNull();
});

test("with memory of hugetlbfs in pages of 1G too", () => {
  for (let seed = 0; seed < GIGANTIC_SEEDS; seed++)
    expect(runSeed(seed, { gigantic: true, operations: 12 })).toBeNull();
});

test.each(FOUND_CASES)("agrees again: $name", (found) => {
  expect(runDocument(found.name, documentOfCase(found), found.machine)).toBeNull();
});

describe("a bug in the source is noticed", () => {
  let scratch = "";
  beforeAll(() => {
    scratch = mkdtempSync(join(tmpdir(), "racewalk-properties-"));
  });
  afterAll(() => rmSync(scratch, { recursive: true, force: true }));

  function plant({ file, ...change }: PlantedBug, n: number): string {
    const root = join(scratch, String(n));
    copyTree(root, ["test/properties"]);
    changeTree(root, `src/${file}`, [change]);
    return root;
  }

  test.each(PLANTED_BUGS.map((bug, n) => ({ ...bug, n })))("$name", ({ n, ...bug }) => {
    const root = plant(bug, n);
    const script = join(root, "test/properties/run-seeds.ts");
    const said = execFileSync(process.execPath, [script, String(bug.seed)], { encoding: "utf8" });
    rmSync(root, { recursive: true, force: true });
    expect(said).toContain(bug.says);
  });
});
