/** `racewalk measure`: tables, plots and files, and what it refuses. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { type MeasureCommandOptions, measureCommand } from "./measure.ts";

const folder = mkdtempSync(join(tmpdir(), "racewalk-measure-"));
afterAll(() => rmSync(folder, { recursive: true }));

async function measure(study: string, options: MeasureCommandOptions): Promise<string> {
  const printed: string[] = [];
  const identity = (text: string): string => text;
  const status = await measureCommand(study, options, {
    result: (text) => void printed.push(text),
    say: (line) => void printed.push(`${line}\n`),
    progress: () => undefined,
    showsProgress: false,
    paint: { bold: identity, dim: identity, red: identity, green: identity, yellow: identity },
  });
  expect(status).toBe(0);
  return printed.join("");
}

const SMALL = { set: ["duration=1"], variant: ["D0", "D4"] };

describe("racewalk measure", () => {
  test("writes the plots of a sweep to files, the same each time", async () => {
    const sweep = { ...SMALL, sweep: ["pause=1000,10000,100000"] };
    const [first, second, image] = ["a.svg", "b.svg", "c.png"].map((name) => join(folder, name)) as [
      string,
      string,
      string,
    ];
    await measure("gpc-refresh", { ...sweep, svg: first, png: image });
    await measure("gpc-refresh", { ...sweep, svg: second });
    const svg = readFileSync(first, "utf8");
    expect(svg).toContain("refreshes/s over pause");
    expect(readFileSync(second, "utf8")).toBe(svg);
    expect(readFileSync(image).subarray(1, 4).toString("latin1")).toBe("PNG");
  });

  test("prints chosen metrics only, in a table and as plots", async () => {
    const printed = await measure("gpc-refresh", {
      ...SMALL,
      sweep: ["pause=1000,10000"],
      metric: ["p99", "look-ups"],
      plot: true,
    });
    expect(printed.match(/ over pause$/gm)).toEqual([" over pause", " over pause"]);
    expect(printed).toContain("p99 over pause");
    expect(printed).not.toContain("refreshes/s");
    expect(printed.split("\n").every((line) => line.length <= 72)).toBe(true);
  });

  test("turns a table that is too wide", async () => {
    const printed = await measure("lockless-walk", { set: ["duration=1", "reader=16"] });
    expect(printed).toMatch(/^variant +V0 +V3 +V4b /m);
    expect(printed).toMatch(/^irqs-off +- +- /m);
    expect(printed.split("\n").every((line) => line.length <= 72)).toBe(true);
  });

  test("refuses what it cannot plot before it runs anything", async () => {
    await expect(measure("gpc-refresh", { plot: true })).rejects.toThrow("nothing to plot in a single run; sweep");
    await expect(measure("gpc-refresh", { sweep: ["pause=1"], svg: "x" })).rejects.toThrow("nothing to plot");
    await expect(measure("gpc-refresh", { metric: ["speed"] })).rejects.toThrow(
      '--metric "speed": not measured of gpc-refresh',
    );
    const nowhere = join(folder, "no", "such.svg");
    const sweep = { ...SMALL, sweep: ["pause=1000,10000"], svg: nowhere };
    await expect(measure("gpc-refresh", sweep)).rejects.toThrow("the plots cannot be written (ENOENT)");
  });
});
