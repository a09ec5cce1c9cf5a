import { expect, test } from "vitest";
import { importsOf, layerFaults } from "./layers.ts";
import { read, repositoryFiles } from "./tree.ts";

const sources = repositoryFiles().filter((path) => /^src\/.*\.ts$/.test(path) && !path.endsWith(".test.ts"));

test("no floor imports a higher one, and the model has no clock and no chance of its own", () => {
  expect(sources.length).toBeGreaterThan(50);
  expect(sources.flatMap((path) => layerFaults(path, read(path)))).toEqual([]);
});

test("imports are seen in every form, and not in comments", () => {
  const source = `
    import a from "./a.ts";
    import { b,
      c } from "./b.ts";
    import "./d.ts";
    export { e } from "./e.ts";
    export * from "./f.ts";
    const g = await import("./g.ts");
    // import h from "./h.ts";
    /* import i from "./i.ts"; */
    const slashes = "//"; import j from "./j.ts";
  `;
  expect(importsOf(source)).toEqual(["./a.ts", "./b.ts", "./d.ts", "./e.ts", "./f.ts", "./g.ts", "./j.ts"]);
});

test.each([
  ["src/engine/a.ts", 'import "../kvm/spte.ts";'],
  ["src/engine/explore/a.ts", 'import { z } from "zod";'],
  ["src/machine/a.ts", 'export * from "../kernel/rcu.ts";'],
  ["src/kernel/mm/a.ts", 'await import("../../kvm/kvm.ts");'],
  ["src/kvm/a.ts", 'import type { X } from "../oracle/isolation.ts";'],
  ["src/studies/a.ts", 'import "../report/text.ts";'],
  ["src/studies/a.ts", 'import "../conform/index.ts";'],
  ["src/conform/a.ts", 'import "../studies/study.ts";'],
  ["src/report/a.ts", 'import "../cli/main.ts";'],
  ["src/kvm/a.ts", 'import "../index.ts";'],
  ["src/kvm/a.ts", 'import "../../test/house/tree.ts";'],
  ["src/attic/a.ts", ""],
  ["src/engine/a.ts", "const now = Date.now();"],
  ["src/kvm/a.ts", "const now = performance.now();"],
  ["src/oracle/a.ts", "const now = process.hrtime();"],
  ["src/machine/a.ts", "const x = Math.random();"],
])("a wrong arrow in %s is found: %s", (path, source) => {
  expect(layerFaults(path, source)).toHaveLength(1);
});

test.each([
  ["src/engine/a.ts", 'import { findSourceMap } from "node:module"; import "./explore/dpor.ts";'],
  ["src/engine/explore/a.ts", 'import "../task.ts";'],
  ["src/kvm/a.ts", 'import "../kernel/index.ts"; import "../engine/index.ts"; // Date'],
  ["src/cli/a.ts", 'import "commander"; const now = performance.now();'],
  ["src/index.ts", 'import "./cli/main.ts";'],
])("a right arrow in %s is let pass: %s", (path, source) => {
  expect(layerFaults(path, source)).toEqual([]);
});
