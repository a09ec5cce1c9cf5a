/**
 * The tables of figures in the findings, row by row: what stands there is what measuring gives. UPDATE_DOCS=1 writes the rows.
 *
 * Not those that take long: longer runs of lockless-walk, and root-zap with 512 GiB and more, which the line holds that they lie on (headlines.test.ts).
 */
import { writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { figure, time } from "../../src/report/units.ts";
import { withParameters } from "../../src/studies/measurement.ts";
import { builtInMeasurement } from "../../src/studies/measurements.ts";
import { ROOT, read } from "../house/tree.ts";

type Metric = (name: string) => number;

interface Row {
  readonly study: string;
  /** How the row begins: no other line of the page does so. */
  readonly begins: string;
  readonly set: Readonly<Record<string, number>>;
  readonly variants: readonly string[];
  /** The cells after the first. */
  readonly cells: (...metrics: Metric[]) => readonly string[];
}

const three = (ratio: number): string => figure(Number(ratio.toPrecision(3)));

const refreshes = (label: string, variant: string): Row => ({
  study: "gpc-refresh",
  begins: `| ${label} |`,
  set: {},
  variants: [variant],
  cells: (m) => [`${m("refreshes/s")}`, m("look-ups/refresh").toFixed(2), time(m("p99 ns"))],
});

const STORM = { invalidators: 4, covering: 8, pause: 20_000 };
const storm = (variant: string): Row => ({
  study: "gpc-refresh",
  begins: `| ${variant}, storm |`,
  set: STORM,
  variants: [variant],
  cells: (m) => [`${m("refreshes/s")}`, time(m("longest ns"))],
});

const aging = (vcpus: number): Row => ({
  study: "lockless-aging",
  begins: `| ${vcpus} |`,
  set: { vcpus },
  variants: ["A0", "A7"],
  cells: (a0, a7) => [time(a0("pass ns")), time(a7("pass ns")), three(a0("pass ns") / a7("pass ns"))],
});

const walk = (duration: number): Row => ({
  study: "lockless-walk",
  begins: `| ${duration} ms |`,
  set: { duration },
  variants: ["V0", "V4b", "V7", "V3", "V6", "V6-yielding", "V5b"],
  cells: (v0, v4b, v7, ...others) => {
    const held = new Set([v0, v4b, v7].map((m) => m("backlog")));
    return [[...held].join(", "), ...others.map((m) => `${m("backlog")}`), `${others.at(-1)?.("with RCU")}`];
  },
});

const reads = (variant: string): Row => ({
  study: "lazy-large-spte",
  begins: `| ${variant} |`,
  set: {},
  variants: [variant],
  cells: (m) => [`${m("faults per 2M")}`, `${m("entries made") / 4}`, time(m("page ns"))],
});

const zappers = (who: string, variant: string, roots: number): Row => ({
  study: "root-zap",
  begins: `| ${who} | ${roots} |`,
  set: { gib: 1, roots },
  variants: [variant],
  cells: (m) => [
    ...["call ns", "zap ns", "CPU ns"].map((name) => time(m(name))),
    figure(m("CPUs")),
    time(m("stretch ns")),
  ],
});

const ROWS: readonly Row[] = [
  ...["D1", "D2", "D3'", "D3s", "D4"].map((variant) => refreshes(variant, variant)),
  ...["D0", "D1", "D2", "D3s", "D4"].map(storm),
  ...[1, 8, 64, 512].map(aging),
  walk(50),
  ...["eager", "lazy"].map(reads),
  ...[1, 2].flatMap((roots) => [zappers("the caller (Z2)", "Z2", roots), zappers("workers (Z4)", "Z4", roots)]),
];

const named = ROWS.map((row) => ({ name: `${row.study}: ${row.begins}`, row }));

test.each(named)("$name", async ({ row: { study, begins, set, variants, cells } }) => {
  const measurement = await builtInMeasurement(study);
  const metrics = variants.map((variant): Metric => {
    const figures = measurement.run(variant, withParameters(measurement, set), {}).metrics;
    return (name) => {
      const value = figures[name];
      expect(value, `${variant} has no ${name}`).toBeTypeOf("number");
      return value ?? Number.NaN;
    };
  });
  const wanted = `${begins} ${cells(...metrics).join(" | ")} |`;
  const page = `docs/findings/${study}.md`;
  const text = read(page);
  const shown = text.split("\n").filter((line) => line.startsWith(begins));
  expect(shown).toHaveLength(1);
  if (process.env["UPDATE_DOCS"] === "1")
    writeFileSync(
      `${ROOT}${page}`,
      text.replace(shown[0] ?? "", () => wanted),
    );
  else expect(shown, "run UPDATE_DOCS=1 npx vitest run test/findings").toEqual([wanted]);
});
