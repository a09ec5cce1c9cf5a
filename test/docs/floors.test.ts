/** docs/floors.md lists the modules that there are. `npm run docs` makes the list anew. */
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { ROOT, read } from "../house/tree.ts";
import { firstSentence, moduleList } from "./floors.ts";

const PATH = "docs/floors.md";
/** Those that are committed, or about to be. */
const modules = execFileSync("git", ["ls-files", "src/*.ts"], { cwd: ROOT, encoding: "utf8" })
  .split("\n")
  .filter((path) => path !== "" && !path.endsWith(".test.ts"));
const HEADING = "## Modules\n";

test("the modules are listed, by their first sentences", () => {
  const document = read(PATH);
  const head = document.slice(0, document.indexOf("\n### src/cli\n") + 1);
  const wanted = `${head}${moduleList(modules, read)}`;
  if (process.env["UPDATE_DOCS"] === "1") writeFileSync(ROOT + PATH, wanted);
  else expect(document, "run npm run docs").toBe(wanted);
  expect(head).toContain(HEADING);
});

test("a first sentence is found", () => {
  expect(firstSentence("/** One. Two. */\nexport {};")).toBe("One.");
  expect(firstSentence("#!/usr/bin/env node\n/**\n * `a`: of v1.2 and\n * more.\n *\n * Else.\n */")).toBe(
    "a: of v1.2 and more.",
  );
  expect(firstSentence("export {};")).toBe("");
});

test("every module begins by saying what it is", () => {
  const silent = modules.filter((path) => firstSentence(read(path)) === "");
  expect(silent).toEqual([]);
});
