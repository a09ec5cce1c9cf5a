/** Litmus tests: a few of the repository's own always, the whole shared collection where it is there. */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type MemoryModel, UsageError } from "../engine/index.ts";
import { litmusFiles, readLitmusFile, runLitmusTest } from "./index.ts";
import { parseCondition, parseProgram } from "./text.ts";

const MODELS: readonly MemoryModel[] = ["sc", "tso"];
const FIXTURES = fileURLToPath(new URL("fixtures/", import.meta.url));
const SHARED = fileURLToPath(new URL("../../../shared/litmus/", import.meta.url));

/** Results that differ from what is known, over all files of a folder. */
async function differencesIn(folder: string): Promise<{ tests: number; differences: string[] }> {
  const tests = litmusFiles(folder).flatMap(readLitmusFile);
  const differences: string[] = [];
  for (const one of tests) {
    for (const model of MODELS) {
      const result = await runLitmusTest(one, model);
      differences.push(...result.differences.map((difference) => `${one.name} ${model}: ${difference}`));
    }
  }
  return { tests: tests.length, differences };
}

test("the repository's own tests are as expected", async () => {
  expect(await differencesIn(FIXTURES)).toEqual({ tests: 36, differences: [] });
});

test.skipIf(!existsSync(SHARED))("so are those of ../shared/litmus (skipped where that is missing)", async () => {
  const { tests, differences } = await differencesIn(SHARED);
  expect(differences).toEqual([]);
  expect(tests).toBeGreaterThan(1000);
});

test("a program in text is that in arrays", () => {
  expect(
    parseProgram("x=1; mf; r0=y || r1 = xchg(y,1); r0=cas(x,0,r1)||nop(x);or(x,2);and(y,r3);r2=xadd(x,1);y=r2"),
  ).toEqual([
    [{ kind: "store", location: "x", value: 1 }, { kind: "fence" }, { kind: "load", register: "r0", location: "y" }],
    [
      { kind: "xchg", register: "r1", location: "y", value: 1 },
      { kind: "cas", register: "r0", location: "x", expected: 0, value: "r1" },
    ],
    [
      { kind: "nop", location: "x" },
      { kind: "or", location: "x", value: 2 },
      { kind: "and", location: "y", value: "r3" },
      { kind: "xadd", register: "r2", location: "x", value: 1 },
      { kind: "store", location: "y", value: "r2" },
    ],
  ]);
  expect(parseCondition("0:r0=0 & x=2 | y=1")).toEqual([{ "0:r0": 0, x: 2 }, { y: 1 }]);
});

describe("what cannot be used is refused in one line with its place and the mend", () => {
  let folder = "";
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "litmus-"));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  test.each([
    ["[1,", /line 1 column 4: not JSON .*; mend/],
    ["3", /top level: expected an object, not 3; write/],
    ["[]", /no test in it; add one/],
    ['[{"program": "x=1", "exists": "x=1"}]', /\[0\]\.name: is missing; add/],
    ['[{"name": "A", "exists": "x=1"}]', /\[0\]\.program: is missing; add/],
    ['[{"name": "A", "program": "x=1"}]', /\[0\]\.exists: .*; write/],
    [
      '[{"name": "A", "program": "x=1; r0=foo(y)", "exists": "x=1"}]',
      /\[0\]\.program: "r0=foo\(y\)" is no inst.*; write/,
    ],
    ['[{"name": "A", "program": "x=1", "exists": "x==1"}]', /\[0\]\.exists: "x==1" is no value; write/],
    ['[{"name": "A", "program": "x=1", "exists": "1:r0=1"}]', /\[0\]\.exists: "1:r0" names thread 1; there are 1/],
    ['[{"name": "A", "program": "x=1", "exists": "x=1", "size": 3}]', /\[0\]: unknown key "size"; remove/],
    ['[{"name": "A", "program": "x=1", "exists": "x=1", "init": {"x": -1}}]', /\[0\]\.init\.x: .*; write 0/],
    ['[{"name": "A", "program": "x=1", "exists": "x=1", "verdict": {"sc": "maybe"}}]', /verdict\.sc: .*"maybe"; write/],
    ['[{"name": "A", "program": "x=1", "exists": "x=1", "verdict": {"pso": "allowed"}}]', /unknown key "pso"; remove/],
    [
      '[{"name": "A", "threads": [[["W", "x", 1], ["FOO"]]], "exists": [{"x": 1}]}]',
      /threads\[0\]\[1\]: "FOO" .*; use/,
    ],
    [
      '[{"name": "A", "threads": [[["W", "x"]]], "exists": [{"x": 1}]}]',
      /threads\[0\]\[0\]: W has 1 operands; it takes 2/,
    ],
    [
      '[{"name": "A", "threads": [[["W", "r0", 1]]], "exists": [{"x": 1}]}]',
      /threads\[0\]\[0\]\[1\]: .*location.*; write/,
    ],
    ['[{"name": "A", "program": "x=1", "threads": [[["W", "x", 2]]], "exists": "x=1"}]', /threads: differs .*; mend/],
    ['{"columns": ["name", "program"], "rows": []}', /columns: lacks "exists"; add it/],
    ['{"columns": ["name", "program", "exists", "size"], "rows": []}', /columns\[3\]: unknown column "size"; use/],
    [
      '{"columns": ["name", "program", "exists"], "rows": [["A", "x=1", "x=1", 3]]}',
      /rows\[0\]: 4 values for 3 col.*; rem/,
    ],
    [
      '{"columns": ["name", "program", "exists"], "rows": [["A", "x=", "x=1"]]}',
      /rows\[0\]\[1\]: "x=" is no inst.*; write/,
    ],
  ])("%s", (text, message) => {
    const file = join(folder, "a.json");
    writeFileSync(file, text);
    expect(() => readLitmusFile(file)).toThrow(UsageError);
    expect(() => readLitmusFile(file)).toThrow(message);
    expect(() => readLitmusFile(file)).toThrow(new RegExp(`^${file.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}: [^\\n]*$`));
  });

  test("a folder without tests", () => {
    const empty = mkdtempSync(join(folder, "empty-"));
    expect(() => litmusFiles(empty)).toThrow(/no \.json file in it; give/);
  });

  test("a file that is not there", () => {
    expect(() => readLitmusFile(join(folder, "none.json"))).toThrow(/cannot be read \(ENOENT\); give/);
  });
});

test("a test that differs says how", async () => {
  const folder = mkdtempSync(join(tmpdir(), "litmus-"));
  const file = join(folder, "a.json");
  const wrong = {
    name: "SB",
    program: "x=1; r0=y || y=1; r0=x",
    exists: "0:r0=0 & 1:r0=0",
    verdict: { sc: "allowed", tso: "allowed" },
    executions: { sc: 4, tso: 4 },
  };
  writeFileSync(file, JSON.stringify([wrong]));
  const [sb] = readLitmusFile(file);
  rmSync(folder, { recursive: true });
  if (sb === undefined) throw new Error("no test was read");
  expect(await runLitmusTest(sb, "sc")).toMatchObject({
    observable: false,
    expected: true,
    ok: false,
    executions: 3,
    differences: ["the condition is forbidden; expected: allowed", "3 executions; expected: 4"],
  });
  expect(await runLitmusTest(sb, "tso")).toMatchObject({ observable: true, ok: true, executions: 4 });
});
