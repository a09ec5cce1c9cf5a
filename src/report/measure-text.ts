/**
 * What a measurement found, as a table and as a document.
 */
import type { MeasureRow } from "../studies/measure-runs.ts";
import type { Measurement } from "../studies/measurement.ts";
import { type Column, naturalWidth, table } from "./table.ts";
import { COLUMNS, type Paint, wrap } from "./text.ts";
import { bareName, figure, measured } from "./units.ts";

/** The document that `racewalk measure --json` prints. */
export function measureJson(study: string, rows: readonly MeasureRow[]): object {
  return { study, rows };
}

/**
 * @param swept parameters that differ between rows
 * @param only the metrics to show; all when none of them is named
 * @returns lines joined by newlines, with one at the end
 */
export function measureText(
  measurement: Measurement,
  rows: readonly MeasureRow[],
  swept: readonly string[],
  paint: Paint,
  only: readonly string[] = [],
): string {
  const all = Object.keys(measurement.metrics);
  const chosen = all.filter((name) => only.includes(name));
  const metrics = chosen.length > 0 ? chosen : all;
  const names = swept.filter((name) => !metrics.includes(name));
  const fixed = Object.entries(rows[0]?.params ?? {}).filter(([name]) => !swept.includes(name));
  const heads = ["variant", ...names, ...metrics.map(bareName)];
  const cells = rows.map(({ variant, params, metrics: figures }) => [
    variant,
    ...names.map((name) => figure(params[name] ?? null)),
    ...metrics.map((name) => measured(name, figures[name] ?? null)),
  ]);
  return [
    paint.bold(measurement.study),
    ...wrap(measurement.question),
    ...wrap(fixed.map(([name, value]) => `${name}=${value}`).join(" ")),
    "",
    ...fittingTable(heads, cells, paint),
    "",
    ...metrics.flatMap((name) => wrap(`${bareName(name)}: ${measurement.metrics[name]}`, undefined, "  ")),
    "",
  ].join("\n");
}

/** One run a line where that fits; otherwise one run a column, in as many tables as it takes. */
function fittingTable(heads: readonly string[], cells: readonly (readonly string[])[], paint: Paint): string[] {
  const bold = (text: string, row: number): string => (row < 0 ? paint.bold(text) : text);
  const across = heads.map((head, k): Column => (k === 0 ? { head } : { head, align: "right" }));
  if (naturalWidth(across, cells) <= COLUMNS) return table(across, cells, bold);
  const lines: string[] = [];
  for (let first = 0; first < cells.length; ) {
    let count = cells.length - first;
    while (count > 1 && naturalWidth(...turned(heads, cells.slice(first, first + count))) > COLUMNS) count--;
    if (first > 0) lines.push("");
    lines.push(...table(...turned(heads, cells.slice(first, first + count)), bold));
    first += count;
  }
  return lines;
}

/** Rows and columns the other way round. */
function turned(heads: readonly string[], cells: readonly (readonly string[])[]): [Column[], string[][]] {
  const columns: Column[] = [
    { head: heads[0] ?? "" },
    ...cells.map((row): Column => ({ head: row[0] ?? "", align: "right" })),
  ];
  return [columns, heads.slice(1).map((head, k) => [head, ...cells.map((row) => row[k + 1] ?? "")])];
}
