import { describe, expect, test } from "vitest";
import type { MeasureRow } from "../studies/measure-runs.ts";
import type { Measurement } from "../studies/measurement.ts";
import { growsByFactors, plotsOf } from "./plot.ts";
import { svgToPng } from "./plot-png.ts";
import { plotsSvg } from "./plot-svg.ts";
import { plotText } from "./plot-text.ts";

const measurement: Measurement = {
  study: "made-up",
  question: "How long?",
  parameters: {
    vcpus: { value: 1, meaning: "vCPUs" },
    level: { value: 1, meaning: "level" },
    pause: { value: 0, unit: "ns", meaning: "pause" },
  },
  variants: { old: "as it was", new: "as it is" },
  metrics: { "pass ns": "one pass", count: "how many", "never ns": "nothing" },
  series: { backlog: "what waits" },
  plots: ["pass ns", "count", "never ns"],
  presets: [],
  run: () => ({ metrics: {} }),
};

function rows(sweep: readonly Readonly<Record<string, number>>[]): MeasureRow[] {
  return sweep.flatMap((params) =>
    ["old", "new"].map((variant): MeasureRow => {
      const { vcpus = 1, level = 1 } = params;
      const metrics = {
        "pass ns": (variant === "old" ? 1_000 * vcpus ** 1.5 : 1_000) * level,
        count: vcpus,
        "never ns": null,
      };
      const height = variant === "old" ? 10 : 4;
      return {
        variant,
        params: { vcpus: 1, level: 1, pause: 0, ...params },
        metrics,
        series: {
          backlog: [
            [0, 0],
            [1e6, height],
            [5e6, 0],
          ],
        },
      };
    }),
  );
}

const paint = { bold: String, dim: String, red: String, green: String, yellow: String };
const VCPUS = [1, 8, 64, 512].map((vcpus) => ({ vcpus }));

describe("a scale", () => {
  test("is logarithmic where a sweep grows by factors", () => {
    for (const values of [
      [1, 8, 64, 512],
      [1, 2, 4],
      [1, 16],
      [1000, 10000, 100000],
    ])
      expect(growsByFactors(values)).toBe(true);
    for (const values of [[1, 2, 3], [1, 2], [0, 10, 100], [10, 20, 30, 40], [5]])
      expect(growsByFactors(values)).toBe(false);
  });

  test("has marks with units, and the sweep's own values", () => {
    const [pass, count] = plotsOf(measurement, rows(VCPUS), ["vcpus"]);
    expect(pass?.x).toMatchObject({ label: "vcpus", log: true, ticks: [1, 8, 64, 512] });
    expect(pass?.y.log).toBe(true);
    expect(pass?.y.ticks.map((tick) => pass.y.format(tick))).toEqual([
      "1 us",
      "10 us",
      "100 us",
      "1 ms",
      "10 ms",
      "100 ms",
    ]);
    expect(count?.lines.map(({ name, points }) => [name, points.length])).toEqual([
      ["old", 4],
      ["new", 4],
    ]);
  });

  test("begins at zero where it is linear", () => {
    const [pass] = plotsOf(measurement, rows([{ vcpus: 1 }, { vcpus: 2 }, { vcpus: 3 }]), ["vcpus"]);
    expect(pass?.y.log).toBe(false);
    expect(pass?.y.range[0]).toBe(0);
  });
});

describe("plots", () => {
  test("leave out what has no figures", () => {
    expect(plotsOf(measurement, rows(VCPUS), ["vcpus"]).map(({ y }) => y.label)).toEqual(["pass", "count"]);
  });

  test("show a variant alike in each, whatever else has no figures", () => {
    const some = rows(VCPUS).map((row): MeasureRow => {
      const pass = row.variant === "old" ? null : 1_000;
      return { ...row, metrics: { ...row.metrics, "pass ns": pass } };
    });
    const [pass, count] = plotsOf(measurement, some, ["vcpus"]);
    expect(pass?.lines.map(({ name, style }) => [name, style])).toEqual([["new", 1]]);
    expect(count?.lines.map(({ name, style }) => [name, style])).toEqual([
      ["old", 0],
      ["new", 1],
    ]);
  });

  test("have a line for each variant and value of another sweep", () => {
    const both = VCPUS.flatMap(({ vcpus }) => [1, 2].map((level) => ({ vcpus, level })));
    const [pass] = plotsOf(measurement, rows(both), ["level", "vcpus"], ["pass ns"]);
    expect(pass?.x.label).toBe("vcpus");
    expect(pass?.lines.map(({ name }) => name)).toEqual(["old level=1", "new level=1", "old level=2", "new level=2"]);
  });

  test("show what was followed over time where nothing is swept", () => {
    const [backlog] = plotsOf(measurement, rows([{}]), []);
    expect(backlog).toMatchObject({ title: "what waits", steps: true });
    expect(backlog?.lines[0]?.points).toEqual([
      [0, 0],
      [1e6, 10],
      [5e6, 0],
    ]);
  });
});

test("a plot as text fits into mail", () => {
  const [pass] = plotsOf(measurement, rows(VCPUS), ["vcpus"]);
  const text = pass === undefined ? "" : plotText(pass, paint);
  expect(text.split("\n").every((line) => line.length <= 72)).toBe(true);
  expect(text).toMatchInlineSnapshot(`
    "pass over vcpus
    one pass

    100 ms+
          |
          |                                                               *
     10 ms+
          |
      1 ms+
          |                                          *
          |
    100 us+
          |                     *
     10 us+
          |
          |
      1 us+M                    o                    o                    o
          ++--------------------+--------------------+--------------------+
           1                    8                    64                 512
    * old  o new  M several
    logarithmic: pass, vcpus
    "
  `);
});

describe("a plot as SVG", () => {
  const svg = plotsSvg(plotsOf(measurement, rows(VCPUS), ["vcpus"]));

  test("is the same every time", () => {
    expect(plotsSvg(plotsOf(measurement, rows(VCPUS), ["vcpus"]))).toBe(svg);
  });

  test("has a title, a legend and marked axes", () => {
    const texts = [...svg.matchAll(/<text[^>]*>([^<]*)<\/text>/g)].map(([, text]) => text);
    for (const expected of ["pass over vcpus", "count over vcpus", "old", "new", "512", "100 ms", "vcpus"]) {
      expect(texts).toContain(expected);
    }
    expect(svg).not.toMatch(/NaN|undefined|Infinity/);
  });

  test("escapes what it is given", () => {
    const [pass] = plotsOf(measurement, rows(VCPUS), ["vcpus"]);
    const odd =
      pass === undefined
        ? []
        : [{ ...pass, lines: [{ name: "<a&b>", style: 0, points: pass.lines[0]?.points ?? [] }] }];
    expect(plotsSvg(odd)).toContain("&lt;a&amp;b&gt;");
  });

  test("becomes an image of twice its size", async () => {
    const [, width, height] = /width="(\d+)" height="(\d+)"/.exec(svg) ?? [];
    const png = Buffer.from(await svgToPng(svg));
    expect(png.subarray(1, 4).toString("latin1")).toBe("PNG");
    expect([png.readUInt32BE(16), png.readUInt32BE(20)]).toEqual([2 * Number(width), 2 * Number(height)]);
    expect(png.equals(Buffer.from(await svgToPng(svg)))).toBe(true);
  });
});
