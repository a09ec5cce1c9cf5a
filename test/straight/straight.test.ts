/** The straight-line form of the MMU (bench/speed/straight) does what its generators do: the same events, results, statistics and tables. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { buildStraight } from "../../bench/speed/straight/build.ts";
import {
  fieldNames,
  straightened,
  withConstants,
  withoutCells,
  withoutEmptyFields,
} from "../../bench/speed/straight/source.ts";
import { changeTree, copyTree } from "../changed-tree.ts";

const ROOT = join(import.meta.dirname, "../..");
const SEEDS = 12;
/** Of these, so many for each operation that does something else. */
const FEW = 5;

function run(
  root: string,
  how: "engine" | "straight",
  first: number,
  count: number,
  kind: "tdp" | "shadow" = "tdp",
): string[] {
  const script = join(root, "test/straight/run-workloads.ts");
  const said = execFileSync(process.execPath, [script, how, kind, String(first), String(count)], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "pipe"],
  });
  return said.split("\n").filter((line) => line !== "");
}

test("random workloads take the same course", { timeout: 60_000 }, () => {
  const lines = run(ROOT, "engine", 0, SEEDS);
  expect(lines).toHaveLength(SEEDS);
  expect(run(ROOT, "straight", 0, SEEDS)).toEqual(lines);
});

test("so do random guests on the shadow MMU", { timeout: 60_000 }, () => {
  const lines = run(ROOT, "engine", 0, SEEDS, "shadow");
  expect(lines).toHaveLength(SEEDS);
  expect(run(ROOT, "straight", 0, SEEDS, "shadow")).toEqual(lines);
});

test("what is measured is written as it is loaded", { timeout: 60_000 }, () => {
  const built = buildStraight(ROOT, ["src", "bench/speed/straight", "test/properties", "test/shadow", "test/straight"]);
  const script = join(built, "test/straight/run-workloads.js");
  const said = execFileSync(process.execPath, [script, "as it is", "tdp", "0", String(FEW)], { encoding: "utf8" });
  const replaced = readFileSync(join(built, "src/engine/index.js"), "utf8");
  rmSync(built, { recursive: true, force: true });
  expect(replaced).toContain('from "./../../bench/speed/straight/ops.js"');
  expect(said.trim().split("\n")).toEqual(run(ROOT, "engine", 0, FEW));
});

test("every kind of access looks whether the object lives", () => {
  const script = join(ROOT, "test/straight/dead-touches.ts");
  const said = execFileSync(process.execPath, [script], { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
  const lines = said.trim().split("\n");
  expect(lines).toHaveLength(13);
  for (const line of lines) {
    expect(line).toMatch(/^[\w' -]+ \| nothing \| use-after-free: (plain (read|write) of )?(thing->|table).*: freed$/);
  }
});

test("the words of generators are taken out, and nothing else", () => {
  const source = [
    "export function* load(cell: Cell): Steps<number> {",
    "  const old = (yield* exchange(cell, 1)) * 2;",
    "  return yield* then(old);",
    "}",
    "class Host {",
    "  private *touch(at: number): Steps<void> {}",
    "}",
  ];
  expect(straightened(source.join("\n")).split("\n")).toEqual([
    "export function load(cell: Cell): Steps<number> {",
    "  const old = (exchange(cell, 1)) * 2;",
    "  return then(old);",
    "}",
    "class Host {",
    "  private touch(at: number): Steps<void> {}",
    "}",
  ]);
  const generator = "function* lines(text: string): Generator<string> { yield* text.split(' '); }";
  expect(straightened(generator)).toBe(generator);
});

test("reads of a structure's fields need no cell", () => {
  const structures = [
    "const FIELDS = {",
    "  flags: u32,",
    "  role: u53,",
    "  ptes: arrayOf(ptr, 2),",
    "  head: ptr,",
    "};",
  ];
  const fields = fieldNames([structures.join("\n"), "class List {", "  readonly head: Cell;"]);
  expect([...fields]).toEqual(["flags", "role", "ptes"]);
  const lowered = (text: string): string => withoutCells(text, fields);
  expect(lowered("if (slot.flags.value === load(sp.role)) return a.ptes(i - 1).value;")).toBe(
    "if (slot.flags$value() === sp.role$load()) return a.ptes$value(i - 1);",
  );
  for (const text of [
    "list.head.value",
    "slot.flags.value = 1",
    "slot.flags.value |= 1",
    "slot.flags.value++",
    "flags.value",
    "load(role)",
  ])
    expect(lowered(text)).toBe(text);
});

test("fields that are only declared are taken out", () => {
  const source = ["class Cell {", "  addr        ;", "  size = 4;", "  next() {", "    return;", "  }", "}"];
  expect(withoutEmptyFields(source.join("\n")).split("\n")).toEqual([
    "class Cell {",
    "",
    "  size = 4;",
    "  next() {",
    "    return;",
    "  }",
    "}",
  ]);
});

test("names of a module's top level become constants of it", async () => {
  const source = [
    'import { sep as slash, join } from "node:path";',
    "export const SIZE = 4;",
    "const made = twice(SIZE);",
    "export class Named {",
    "  size = twice(made);",
    "}",
    "class Other extends Named {",
    "  path = join('a', slash, String(this.size));",
    "}",
    "export function twice(n) {",
    "  return 2 * n;",
    "}",
    "function* count() {",
    "  yield new Other().path;",
    "}",
    "export const counted = [...count()][0];",
  ].join("\n");
  const constants = withConstants(source);
  for (const name of ["slash", "join", "twice", "count"])
    expect(constants).toMatch(new RegExp(`\\b${name} = ${name}\\$`));
  expect(constants.split("\n").findIndex((line) => line.includes("return 2 * n"))).toBe(10);
  const load = (text: string): Promise<Record<string, unknown>> =>
    import(`data:text/javascript,${encodeURIComponent(text)}`);
  const [before, after] = [await load(source), await load(constants)];
  expect(Object.keys(after)).toEqual(Object.keys(before));
  expect(after.counted).toBe("a/16");
  expect((after.Named as { name: string }).name).toBe("Named");
});

describe("an operation that does something else is noticed", () => {
  let scratch = "";
  beforeAll(() => {
    scratch = mkdtempSync(join(tmpdir(), "racewalk-straight-"));
    copyTree(scratch, ["test/properties", "test/shadow", "test/straight", "bench/speed"]);
  });
  afterAll(() => rmSync(scratch, { recursive: true, force: true }));

  test.each([
    ["fetchAnd() leaves the entry as it is", "ops.ts", "u64(a.hi & b.hi, a.lo & b.lo)", "u64(a.hi, a.lo)"],
    ["fetchAdd() adds one more", "ops.ts", "old + value)", "old + value + 1)"],
    [
      "exchange() writes nothing",
      "ops.ts",
      "const old = load(cell);\n  write(cell, value);",
      "const old = load(cell);",
    ],
    [
      "a field's number loses its high half",
      "access.ts",
      "numberOfHalves(words[index + 1] as number,",
      "numberOfHalves(0,",
    ],
    ["a field of 8 bytes is read as one of 4", "view.ts", 'size === 8 ? "Number" : "Word"', '"Word"'],
  ])("%s", (_name, file, find, replace) => {
    changeTree(scratch, `bench/speed/straight/${file}`, [{ find, replace }]);
    let said: string[] = [];
    try {
      said = run(scratch, "straight", 0, FEW);
    } catch {
      // It went wrong so far that the model's own checks stopped it.
    }
    changeTree(scratch, `bench/speed/straight/${file}`, []);
    expect(said).not.toEqual(run(ROOT, "engine", 0, FEW));
  });
});
