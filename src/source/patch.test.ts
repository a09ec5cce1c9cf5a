import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { applyPatch } from "./patch.ts";

function patched(original: string, patch: string): string[] {
  const root = mkdtempSync(join(tmpdir(), "racewalk-"));
  mkdirSync(join(root, "virt"));
  writeFileSync(join(root, "virt/a.c"), original);
  writeFileSync(join(root, "p.patch"), patch);
  const { files } = applyPatch(join(root, "p.patch"), root, root);
  return [...files.values()].map(({ at }) => readFileSync(at, "utf8"));
}

const HEAD = "--- a/virt/a.c\n+++ b/virt/a.c\n";

test("a hunk is applied where it fits, and the original stays", () => {
  expect(patched("0\n1\n2\n3\n", `${HEAD}@@ -1,3 +1,3 @@\n 1\n-2\n+two\n 3\n`)).toEqual(["0\n1\ntwo\n3\n"]);
});

test.each([
  ["", "has no changes"],
  [`${HEAD}@@ -1,1 +1,1 @@\n-x\n+y\n`, "does not apply"],
  ["--- a/virt/b.c\n+++ b/virt/b.c\n@@ -1,1 +1,1 @@\n-x\n+y\n", "does not have"],
])("a patch that cannot be used says why: %#", (patch, why) => {
  expect(() => patched("0\n1\n", patch)).toThrow(why);
});
