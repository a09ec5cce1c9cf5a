/** Checkpoints: whole, only for what they were written for, and enough to go on from. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, expect, test } from "vitest";
import { NO_TOTALS } from "../engine/index.ts";
import type { SavedWork } from "./cell-work.ts";
import { planCells, type Selection } from "./cells.ts";
import { Checkpoint, type CheckpointKey, checkpointKey } from "./checkpoint.ts";
import { loadStudy } from "./load.ts";

const folder = mkdtempSync(join(tmpdir(), "racewalk-checkpoint-"));
afterAll(() => rmSync(folder, { recursive: true }));

const KEY: CheckpointKey = { version: "1.0.0", study: "one", code: "c", plan: "p" };
const WORK: SavedWork = {
  totals: { ...NO_TOTALS, executions: 5, steps: 50 },
  open: [
    {
      kind: "tree",
      part: {
        turns: [[3]],
        open: [
          [0, 2],
          [1, 4, 0, 1],
        ],
      },
      generation: 2,
      minimised: 7,
      known: { "a\nb": [1, 9] },
    },
    { kind: "sample", from: 0, to: 10 },
    { kind: "graph" },
  ],
  spawns: ["0.0"],
  alone: false,
  seconds: 1.5,
  result: null,
};
const path = (name: string): string => join(folder, name);

test("what is written is read again, and nothing else is left in the folder", () => {
  const checkpoint = new Checkpoint(path("a.json"), KEY);
  expect(checkpoint.read()).toBeNull();
  checkpoint.write([WORK]);
  checkpoint.write([WORK, WORK]);
  expect(new Checkpoint(path("a.json"), KEY).read()).toEqual([WORK, WORK]);
  expect(readdirSync(folder)).toEqual(["a.json"]);
});

test.each([
  [{ version: "1.1.0" }, /was written by racewalk 1\.0\.0, this is 1\.1\.0; name another file, or delete it/],
  [{ study: "two" }, /is for the study one, not two/],
  [{ code: "d" }, /before the study, or racewalk, was changed/],
  [{ plan: "q" }, /with other options or variants/],
])("a checkpoint of something else is refused in one line: %j", (other, message) => {
  new Checkpoint(path("b.json"), KEY).write([WORK]);
  const read = (): unknown => new Checkpoint(path("b.json"), { ...KEY, ...other }).read();
  expect(read).toThrow(message);
  expect(read).toThrow(/^[^\n]*$/);
});

test.each([
  ["", /is no checkpoint of racewalk/],
  ["{", /is no checkpoint of racewalk/],
  ['{"racewalk":"checkpoint"}', /is no checkpoint of racewalk/],
  [JSON.stringify({ racewalk: "checkpoint", format: 1, key: KEY, cells: [{ totals: {} }] }), /is damaged/],
])("what is no checkpoint is not overwritten: %s", (text, message) => {
  writeFileSync(path("c.json"), text);
  expect(() => new Checkpoint(path("c.json"), KEY).read()).toThrow(message);
  expect(readFileSync(path("c.json"), "utf8")).toBe(text);
});

test("a place that cannot be written is named", () => {
  const file = join(folder, "missing", "d.json");
  expect(() => new Checkpoint(file, KEY).write([WORK])).toThrow(/cannot be written \(ENOENT\)/);
});

test("the key tells studies, options and changes apart", async () => {
  const file = path("study.ts");
  const source = (property: string): string => `
    import { cell, program, study } from "racewalk";
    const made = () => program({ name: "p", setup: () => null, tasks: {} });
    export default study({ id: "mine", title: "", source: "", variants: { v: "" },
      cells: [cell({ variant: "v", property: ${JSON.stringify(property)}, expected: "holds", program: made })] });`;
  writeFileSync(file, source("x"));
  const loaded = await loadStudy(file);
  expect(loaded.source.fileUrl).toBe(pathToFileURL(file).href);
  const selection = (bounds: Selection["bounds"]): Selection => ({ variants: [], model: null, strategy: null, bounds });
  const key = (bounds: Selection["bounds"]): CheckpointKey =>
    checkpointKey(loaded, planCells(loaded.study, selection(bounds)), "1");
  expect(key({})).toEqual(key({}));
  expect(key({ preemptions: 1 }).plan).not.toBe(key({}).plan);
  const before = key({}).code;
  writeFileSync(file, source("y"));
  expect(key({}).code).not.toBe(before);
});
