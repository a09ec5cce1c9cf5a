/** A plot as text: one character for each line, in 72 columns of plain ASCII, so that it can be pasted into mail. */
import { type Plot, type PlotAxis, plotTitle } from "./plot.ts";
import { COLUMNS, type Paint, wrap } from "./text.ts";

const MARKS = "*o+x#@%&=~abcdefghijklmnopqrstuvwyz";
/** Where more than one line has a point. */
const SEVERAL = "M";
const HEIGHT = 14;

/** @returns lines joined by newlines, with one at the end */
export function plotText(plot: Plot, paint: Paint): string {
  const { lines, x, y, title } = plot;
  const labels = new Map(spacedTicks(y, HEIGHT, () => 1).map(({ tick, at }) => [at, y.format(tick)]));
  const margin = Math.max(...[...labels.values()].map((label) => label.length));
  const width = COLUMNS - margin - 2;
  const grid = drawn(plot, width);
  const body = grid.map((row, i) => {
    const label = labels.get(HEIGHT - 1 - i);
    return `${(label ?? "").padStart(margin)}${label === undefined ? "|" : "+"}${row.join("")}`.trimEnd();
  });
  const ticks = spacedTicks(x, width, (tick) => x.format(tick).length + 2);
  const several = grid.some((row) => row.includes(SEVERAL));
  const legend = [
    ...lines.map(({ name, style }) => `${markOf(style)} ${name}`),
    ...(several ? [`${SEVERAL} several`] : []),
  ];
  const log = [y, x].filter((axis) => axis.log).map((axis) => axis.label);
  return [
    ...wrap(paint.bold(plotTitle(plot))),
    ...wrap(title),
    "",
    ...body,
    `${" ".repeat(margin)}+${axisLine(ticks, width)}`,
    `${" ".repeat(margin + 1)}${tickLabels(ticks, x, width)}`.trimEnd(),
    ...wrap(legend.join("  ")),
    ...(log.length > 0 ? wrap(`logarithmic: ${log.join(", ")}`) : []),
    "",
  ].join("\n");
}

function markOf(line: number): string {
  return MARKS[line % MARKS.length] as string;
}

/** Rows from the top, of one character each column. */
function drawn({ lines, x, y }: Plot, width: number): string[][] {
  const grid = Array.from({ length: HEIGHT }, () => Array.from({ length: width }, () => " "));
  for (const { points, style } of lines) {
    for (const [px, py] of points) {
      const row = grid[HEIGHT - 1 - placeOf(y, py, HEIGHT)];
      const column = placeOf(x, px, width);
      if (row === undefined) continue;
      row[column] = row[column] === " " || row[column] === markOf(style) ? markOf(style) : SEVERAL;
    }
  }
  return grid;
}

/** Which of `room` places along the axis a value has. */
function placeOf(axis: PlotAxis, value: number, room: number): number {
  const scale = (each: number): number => (axis.log ? Math.log10(each) : each);
  const [low, high] = [scale(axis.range[0]), scale(axis.range[1])];
  const share = high === low ? 0 : (scale(value) - low) / (high - low);
  return Math.max(0, Math.min(room - 1, Math.round(share * (room - 1))));
}

interface PlacedTick {
  readonly tick: number;
  readonly at: number;
}

/** Ticks whose labels do not run into one another. @param size places that a tick's label takes */
function spacedTicks(axis: PlotAxis, room: number, size: (tick: number) => number): PlacedTick[] {
  const kept: PlacedTick[] = [];
  let end = Number.NEGATIVE_INFINITY;
  for (const tick of axis.ticks) {
    const at = placeOf(axis, tick, room);
    const half = size(tick) / 2;
    if (at - half < end) continue;
    kept.push({ tick, at });
    end = at + half;
  }
  return kept;
}

function axisLine(ticks: readonly PlacedTick[], width: number): string {
  const line = Array.from({ length: width }, () => "-");
  for (const { at } of ticks) line[at] = "+";
  return line.join("");
}

function tickLabels(ticks: readonly PlacedTick[], axis: PlotAxis, width: number): string {
  let line = "";
  for (const { tick, at } of ticks) {
    const label = axis.format(tick);
    const start = Math.max(0, Math.min(width - label.length, Math.round(at - (label.length - 1) / 2)));
    line = line.padEnd(start) + label;
  }
  return line;
}
