/**
 * What is plotted of a measurement: a line for each variant, over a swept parameter or over time.
 *
 * A scale is logarithmic where values are spread so: a sweep whose values grow by factors rather than by steps, figures that differ by more than thirty times. Values
 * that a logarithmic scale has no place for are left out.
 */
import type { MeasureRow } from "../studies/measure-runs.ts";
import type { Measurement } from "../studies/measurement.ts";
import { bareName, figure, isTime, time } from "./units.ts";

export type PlotPoint = readonly [x: number, y: number];

export interface PlotAxis {
  readonly label: string;
  readonly log: boolean;
  /** From the first value to the last. */
  readonly range: readonly [number, number];
  /** Where the axis is marked. */
  readonly ticks: readonly number[];
  readonly format: (value: number) => string;
}

export interface PlotLine {
  readonly name: string;
  readonly points: readonly PlotPoint[];
  /** Which mark and colour it has: a variant has the same in every plot. */
  readonly style: number;
}

export interface Plot {
  readonly title: string;
  readonly x: PlotAxis;
  readonly y: PlotAxis;
  readonly lines: readonly PlotLine[];
  /** Between two points it is as at the first: something that was followed over time. */
  readonly steps: boolean;
}

/** What is over what. */
export function plotTitle({ y, x }: Plot): string {
  return `${y.label} over ${x.label}`;
}

/**
 * @param swept names of parameters that differ between rows; the one with most values is the horizontal axis. None: what was followed over time.
 * @param only the metrics, or what was followed, to plot; the measurement's choice when empty
 * @returns a plot for each metric that has anything to show
 */
export function plotsOf(
  measurement: Measurement,
  rows: readonly MeasureRow[],
  swept: readonly string[],
  only: readonly string[] = [],
): Plot[] {
  const plots = swept.length > 0 ? overParameter(measurement, rows, swept, only) : overTime(measurement, rows, only);
  return plots.filter(({ lines }) => lines.some(({ points }) => points.length > 1));
}

function overParameter(
  measurement: Measurement,
  rows: readonly MeasureRow[],
  swept: readonly string[],
  only: readonly string[],
): Plot[] {
  const countOf = (name: string): number => new Set(rows.map(({ params }) => params[name])).size;
  const across = [...swept].sort((a, b) => countOf(b) - countOf(a))[0] ?? "";
  const others = swept.filter((name) => name !== across);
  const parameter = measurement.parameters[across];
  const unit = parameter?.unit ?? "";
  return (only.length > 0 ? only : measurement.plots).map((metric) => {
    const lines = linesBy(rows, (row) => {
      const rest = others.map((name) => ` ${name}=${row.params[name]}`).join("");
      const value = row.metrics[metric] ?? null;
      const x = row.params[across] ?? 0;
      return [`${row.variant}${rest}`, value === null ? [] : [[x, value]]];
    });
    const isNs = unit === "ns";
    return plotOf(
      measurement.metrics[metric] ?? metric,
      {
        label: isNs ? across : label(across, unit),
        isTime: isNs,
        values: rows.map(({ params }) => params[across] ?? 0),
      },
      { label: bareName(metric), isTime: isTime(metric) },
      lines,
    );
  });
}

function overTime(measurement: Measurement, rows: readonly MeasureRow[], only: readonly string[]): Plot[] {
  const names = Object.keys(measurement.series ?? {}).filter((name) => only.length === 0 || only.includes(name));
  return names.map((name) =>
    plotOf(
      measurement.series?.[name] ?? name,
      { label: "virtual time", isTime: true, values: null },
      { label: name, isTime: false },
      linesBy(rows, (row) => [row.variant, [...(row.series?.[name] ?? [])]]),
    ),
  );
}

/** The lines, in the order in which their names come first, with the points of all rows that have the name. */
function linesBy(
  rows: readonly MeasureRow[],
  of: (row: MeasureRow) => [name: string, points: PlotPoint[]],
): PlotLine[] {
  const lines = new Map<string, PlotPoint[]>();
  for (const row of rows) {
    const [name, points] = of(row);
    lines.set(name, [...(lines.get(name) ?? []), ...points]);
  }
  return [...lines].map(([name, points], style) => ({ name, style, points: [...points].sort(([a], [b]) => a - b) }));
}

interface Kind {
  readonly label: string;
  readonly isTime: boolean;
}

function plotOf(
  title: string,
  x: Kind & { readonly values: readonly number[] | null },
  y: Kind,
  lines: readonly PlotLine[],
): Plot {
  const all = lines.flatMap(({ points }) => points);
  const logX = x.values !== null && growsByFactors(x.values);
  const ys = all.map(([, value]) => value);
  // Over time a quantity comes and goes: zero has its place there.
  const logY = x.values !== null && isSpread(ys);
  const kept = lines
    .map(({ points, ...line }) => ({ ...line, points: points.filter(([, value]) => !logY || value > 0) }))
    .filter(({ points }) => points.length > 0);
  const shown = kept.flatMap(({ points }) => points);
  return {
    title,
    x: axisOf(
      x,
      logX,
      shown.map(([value]) => value),
      x.values,
    ),
    y: axisOf(
      y,
      logY,
      shown.map(([, value]) => value),
      null,
    ),
    lines: kept,
    steps: x.values === null,
  };
}

// --- scales ----------------------------------------------------------------------------------------------------------

/** Values that grow by a factor rather than by a step. */
export function growsByFactors(values: readonly number[]): boolean {
  const sorted = [...new Set(values)].sort((a, b) => a - b);
  const [first = 0, second = 0] = sorted;
  if (first <= 0 || sorted.length < 2) return false;
  if (sorted.length === 2) return second / first >= 8;
  const pairs = sorted.slice(1).map((value, i): [number, number] => [sorted[i] as number, value]);
  const spread = (numbers: readonly number[]): number => Math.max(...numbers) / Math.min(...numbers);
  return spread(pairs.map(([a, b]) => Math.log(b / a))) < spread(pairs.map(([a, b]) => b - a));
}

/** Values, zeros aside, of which the largest is thirty times the smallest, and few of which are zero. */
function isSpread(values: readonly number[]): boolean {
  const positive = values.filter((value) => value > 0);
  if (positive.length === 0 || values.some((value) => value < 0)) return false;
  return positive.length > values.length / 2 && Math.max(...positive) / Math.min(...positive) >= 30;
}

/** @param marked values to be marked as they are, as those of a sweep */
function axisOf(kind: Kind, log: boolean, values: readonly number[], marked: readonly number[] | null): PlotAxis {
  const low = values.length === 0 ? 0 : Math.min(...values);
  const high = values.length === 0 ? 1 : Math.max(...values);
  const format = kind.isTime ? time : figure;
  if (log) {
    const ticks = marked === null ? powersOfTen(low, high) : distinct(marked);
    return {
      label: kind.label,
      log,
      range: [Math.min(low, ticks[0] ?? low), Math.max(high, ticks.at(-1) ?? high)],
      ticks,
      format,
    };
  }
  // A quantity that has a zero is shown from there.
  const from = marked === null ? Math.min(0, low) : low;
  const ticks =
    marked !== null && distinct(marked).length <= MARKS ? distinct(marked) : evenTicks(from, high, kind.isTime);
  return { label: kind.label, log, range: [from, Math.max(high, ticks.at(-1) ?? high)], ticks, format };
}

const MARKS = 8;

function distinct(values: readonly number[]): number[] {
  return [...new Set(values)].sort((a, b) => a - b);
}

/** The powers of ten around the values; where they are few, 3 times each as well. */
function powersOfTen(low: number, high: number): number[] {
  const first = Math.floor(Math.log10(low));
  const last = Math.ceil(Math.log10(high));
  const powers = Array.from({ length: last - first + 1 }, (_, i) => 10 ** (first + i));
  const step = Math.ceil(powers.length / MARKS);
  return powers.filter((_, i) => i % step === 0 || i === powers.length - 1);
}

/** Up to six round values from `low` to what is not below `high`. */
function evenTicks(low: number, high: number, isNs: boolean): number[] {
  const rough = Math.max((high - low) / 5, Number.MIN_VALUE);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((each) => each >= rough * 0.999) ?? rough;
  const whole = isNs ? Math.max(1, step) : step;
  const count = Math.ceil((high - low) / whole - 1e-9);
  const first = Math.floor(low / whole);
  return Array.from({ length: count + 1 }, (_, i) => Number(((first + i) * whole).toPrecision(12)));
}

function label(name: string, unit: string): string {
  return unit === "" ? name : `${name} (${unit})`;
}
