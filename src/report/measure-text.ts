/**
 * What a measurement found, as a table and as a document.
 */
import type { Figures, Measurement } from "../studies/measurement.ts";
import { type Column, table } from "./table.ts";
import { type Paint, wrap } from "./text.ts";

export interface MeasureRow {
  readonly variant: string;
  /** All parameters, those that were set and the others. */
  readonly params: Readonly<Record<string, number>>;
  readonly metrics: Figures;
}

/** The document that `racewalk measure --json` prints. */
export function measureJson(study: string, rows: readonly MeasureRow[]): object {
  return { study, rows };
}

/**
 * @param swept parameters that differ between rows
 * @returns lines joined by newlines, with one at the end
 */
export function measureText(
  measurement: Measurement,
  rows: readonly MeasureRow[],
  swept: readonly string[],
  paint: Paint,
): string {
  const metrics = Object.keys(measurement.metrics);
  const names = swept.filter((name) => !metrics.includes(name));
  const columns: Column[] = [
    { head: "variant" },
    ...names.map((head): Column => ({ head, align: "right" })),
    ...metrics.map((head): Column => ({ head: head.replace(/ ns$/, ""), align: "right" })),
  ];
  const cells = rows.map(({ variant, params, metrics: figures }) => [
    variant,
    ...names.map((name) => figure(params[name] ?? null)),
    ...metrics.map((name) => (name.endsWith(" ns") ? time(figures[name] ?? null) : figure(figures[name] ?? null))),
  ]);
  const fixed = Object.entries(rows[0]?.params ?? {}).filter(([name]) => !swept.includes(name));
  return [
    paint.bold(measurement.study),
    ...wrap(measurement.question),
    ...wrap(fixed.map(([name, value]) => `${name}=${value}`).join(" ")),
    "",
    ...table(columns, cells, (text, row) => (row < 0 ? paint.bold(text) : text)),
    "",
    ...metrics.flatMap((name) => wrap(`${name.replace(/ ns$/, "")}: ${measurement.metrics[name]}`, undefined, "  ")),
    "",
  ].join("\n");
}

/** A number with three digits that mean something. */
function figure(value: number | null): string {
  if (value === null) return "-";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  if (Math.abs(value) < 1e6) return value.toFixed(digits);
  return value.toExponential(2);
}

const UNITS: readonly (readonly [number, string])[] = [
  [1e9, "s"],
  [1e6, "ms"],
  [1e3, "us"],
  [1, "ns"],
];

/** Nanoseconds in a unit that suits them. */
function time(nanoseconds: number | null): string {
  if (nanoseconds === null) return "-";
  const [size, unit] = UNITS.find(([each]) => nanoseconds >= each) ?? [1, "ns"];
  return `${figure(Number((nanoseconds / size).toPrecision(3)))} ${unit}`;
}
