/** `racewalk bench` as a process, on sizes that are over at once. */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

interface Row {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  readonly peer: string | null;
  readonly ratio: number | null;
}

const MAIN = fileURLToPath(new URL("main.ts", import.meta.url));

function bench(...args: readonly string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [MAIN, "bench", ...args], { encoding: "utf8" });
}

test("rows of speed, memory and states, as a list", () => {
  const { status, stdout, stderr } = bench("ainc(3)", "graph ticket(2,1)", "--json");
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  const rows = JSON.parse(stdout) as Row[];
  for (const row of rows) {
    expect(Object.keys(row)).toEqual(["name", "value", "unit", "peer", "peerValue", "ratio"]);
    expect(row.value).toBeGreaterThan(0);
  }
  const own = rows.filter(({ peer }) => peer === null || peer === "SPIN").map(({ name, unit }) => `${name}: ${unit}`);
  expect(own).toEqual([
    "ainc(3) sc: executions/s",
    "ainc(3) sc, first run: executions/s",
    "ainc(3) sc, memory: MB",
    "ainc(3) tso: executions/s",
    "ainc(3) tso, first run: executions/s",
    "ainc(3) tso, memory: MB",
    "graph ticket(2,1) sc: states/s",
    "graph ticket(2,1) sc, states: states",
    "graph ticket(2,1) sc, memory: MB",
  ]);
  // SPIN, where it is installed, has the same states.
  expect(rows.find(({ unit }) => unit === "states")).toMatchObject({ value: 29 });
  expect([null, 1]).toContain(rows.find(({ unit }) => unit === "states")?.ratio);
});

test("what does not exist is refused", () => {
  expect(bench("nothing")).toMatchObject({ status: 2, stdout: "", stderr: "racewalk: nothing: no such benchmark\n" });
});
