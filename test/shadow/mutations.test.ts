import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { CheckedProblem } from "../../src/conform/checked-run.ts";
import { changeTree, copyTree } from "../changed-tree.ts";
import { runGuest } from "./campaign.ts";
import { directedGuest } from "./directed-guests.ts";
import { SHADOW_MUTATIONS, type ShadowMutation } from "./mutations.ts";
import { randomGuest } from "./random-guest.ts";

let scratch = "";

beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), "racewalk-shadow-"));
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/** A tree with the mutation in it. */
function mutate({ file, ...change }: ShadowMutation, n: number): string {
  const root = join(scratch, String(n));
  copyTree(root, ["test/shadow"]);
  changeTree(root, `src/${file}`, [change]);
  return root;
}

function campaignIn(root: string, seed: number): CheckedProblem | null {
  const script = join(root, "test/shadow/run-campaign.ts");
  const output = execFileSync(process.execPath, [script, String(seed), "1"], { encoding: "utf8" });
  return (JSON.parse(output) as { problem: CheckedProblem | null }).problem;
}

describe("what keeps the shadow MMU coherent is noticed when it is gone", () => {
  test.each(SHADOW_MUTATIONS.map((mutation, n) => ({ ...mutation, n })))("$name", ({ n, ...mutation }) => {
    const guest = mutation.seed < 0 ? directedGuest(mutation.seed) : randomGuest(mutation.seed);
    expect(runGuest(guest)).toBeNull();
    const root = mutate(mutation, n);
    const problem = campaignIn(root, mutation.seed);
    rmSync(root, { recursive: true, force: true });
    expect(mutation.caught).toContain(problem?.property);
  });
});
