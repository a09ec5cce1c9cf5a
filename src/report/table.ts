/**
 * Tables of text: columns as wide as they need, narrower (and their cells on several lines) where a row would not fit.
 */
import { COLUMNS, wrap } from "./text.ts";

export interface Column {
  readonly head: string;
  readonly align?: "left" | "right";
}

/** Colours a padded cell; rows are counted from 0, -1 is the head. */
export type PaintCell = (text: string, row: number, column: number) => string;

const GAP = 2;
/** No column is made narrower than this. */
const NARROWEST = 6;

/** @returns lines: the head, then the rows */
export function table(
  columns: readonly Column[],
  rows: readonly (readonly string[])[],
  paint: PaintCell = (text) => text,
  width: number = COLUMNS,
): string[] {
  const widths = columnWidths(columns, rows, width);
  const heads = columns.map((column) => column.head);
  return [heads, ...rows].flatMap((cells, i) => renderRow(columns, widths, cells, (text, k) => paint(text, i - 1, k)));
}

/** How wide the table would be with every cell on one line. */
export function naturalWidth(columns: readonly Column[], rows: readonly (readonly string[])[]): number {
  const widths = naturalWidths(columns, rows);
  return widths.reduce((a, b) => a + b, 0) + GAP * (widths.length - 1);
}

function naturalWidths(columns: readonly Column[], rows: readonly (readonly string[])[]): number[] {
  return columns.map((column, k) => Math.max(column.head.length, ...rows.map((row) => (row[k] ?? "").length)));
}

function columnWidths(columns: readonly Column[], rows: readonly (readonly string[])[], width: number): number[] {
  const widths = naturalWidths(columns, rows);
  const room = width - GAP * (columns.length - 1);
  let total = widths.reduce((a, b) => a + b, 0);
  while (total > room) {
    const widest = widths.indexOf(Math.max(...widths));
    const now = widths[widest] ?? 0;
    if (now <= NARROWEST) break;
    widths[widest] = now - 1;
    total--;
  }
  return widths;
}

function renderRow(
  columns: readonly Column[],
  widths: readonly number[],
  cells: readonly string[],
  paint: (text: string, column: number) => string,
): string[] {
  const wrapped = columns.map((_, k) => wrap(cells[k] ?? "", widths[k]));
  const height = Math.max(...wrapped.map((lines) => lines.length));
  return Array.from({ length: height }, (_, line) => {
    const last = wrapped.findLastIndex((lines) => (lines[line] ?? "") !== "");
    const parts = columns.slice(0, last + 1).map((column, k) => {
      const text = wrapped[k]?.[line] ?? "";
      const width = widths[k] ?? 0;
      const padded = column.align === "right" ? text.padStart(width) : k === last ? text : text.padEnd(width);
      return paint(padded, k);
    });
    return parts.join(" ".repeat(GAP));
  });
}
