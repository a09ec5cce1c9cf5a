import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Change, changedSource, changeTree, copyTree } from "../changed-tree.ts";
import { ALL_MUTATIONS } from "./all.ts";
import type { Mutation } from "./mutations.ts";

const ROOT = join(import.meta.dirname, "../..");
let scratch = "";

beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), "racewalk-mutations-"));
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

interface Outcome {
  readonly cells: number;
  readonly properties: string[];
}

function runCells(root: string, { study, variant, scenario }: Mutation): Outcome {
  const script = join(ROOT, "test/mutations/run-cells.ts");
  const output = execFileSync(process.execPath, [script, root, study, variant, scenario], { encoding: "utf8" });
  return JSON.parse(output) as Outcome;
}

function changesOf({ find, replace, also }: Mutation): Change[] {
  return [{ find, replace }, ...(also === undefined ? [] : [also])];
}

function mutate(mutation: Mutation, n: number): string {
  const root = join(scratch, String(n));
  copyTree(root);
  changeTree(root, `src/${mutation.file}`, changesOf(mutation));
  return root;
}

/** What the cells find in the tree as it is, by study, variant and scenario. */
const unchanged = new Map<string, Outcome>();

function runUnchanged(mutation: Mutation): Outcome {
  const key = `${mutation.study} ${mutation.variant} ${mutation.scenario}`;
  const outcome = unchanged.get(key) ?? runCells(ROOT, mutation);
  unchanged.set(key, outcome);
  return outcome;
}

test("each mutation's text stands once in its file", () => {
  for (const mutation of ALL_MUTATIONS)
    expect(() => changedSource(`src/${mutation.file}`, changesOf(mutation))).not.toThrow();
});

describe("undoing it is noticed", () => {
  test.each(ALL_MUTATIONS.map((mutation, n) => ({ ...mutation, n })))("$name", ({ n, ...mutation }) => {
    const before = runUnchanged(mutation);
    expect(before.cells).toBeGreaterThan(0);
    expect(before.properties).toEqual([]);
    const root = mutate(mutation, n);
    const after = runCells(root, mutation);
    rmSync(root, { recursive: true, force: true });
    expect(after.properties).toContain(mutation.caught);
  });
});
