/**
 * A check as text: the question, a table of verdicts, the shortest race of each variant that fails, and one plain last line.
 */
import type { CellReport, StopReason } from "../studies/cells.ts";
import type { Study } from "../studies/study.ts";
import { roughly } from "./progress-text.ts";
import { table } from "./table.ts";
import { COLUMNS, count, type Paint, shellCommand, wrap } from "./text.ts";

export interface CheckReport {
  readonly study: Study;
  /** What the user typed for it: an id or a path. */
  readonly name: string;
  /** What else a command must say to be about the same programs. */
  readonly flags?: readonly string[];
  readonly cells: readonly CellReport[];
  readonly stopped: StopReason | null;
  readonly seconds: number;
  readonly workers: number;
  /** The most memory that the process had, all threads together. */
  readonly peakRssBytes: number;
}

/** The document that `racewalk check --json` prints. */
export function checkJson(report: CheckReport): object {
  const { study, cells, stopped, workers, peakRssBytes } = report;
  const { id, title, source } = study;
  return { study: id, title, source, stopped, ok: isAllOk(report), workers, peakRssBytes, cells };
}

/** True when nothing failed or differs from what is expected, and nothing was left undone. */
export function isAllOk(report: CheckReport): boolean {
  return report.stopped === null && report.cells.every((cell) => cell.ok);
}

/** @returns lines joined by newlines, with one at the end */
export function checkText(report: CheckReport, paint: Paint): string {
  const { study, cells } = report;
  const lines = [
    ...wrap(`${study.id}: ${study.title}`, COLUMNS, "  ").map((line) => paint.bold(line)),
    ...wrap(`source: ${study.source}`, COLUMNS, "  "),
    "",
    ...verdictTable(cells, paint),
    ...legend(cells),
    ...races(report, paint),
    ...surprises(cells),
    ...unknowns(cells),
    "",
    ...summary(report).flatMap((sentence) => wrap(sentence)),
  ];
  return `${lines.join("\n")}\n`;
}

// --- the table -------------------------------------------------------------------------------------------------------

const COLUMNS_OF_TABLE = [
  { head: "variant" },
  { head: "scenario" },
  { head: "property" },
  { head: "model" },
  { head: "verdict" },
  { head: "explored", align: "right" },
  { head: "sec", align: "right" },
] as const;
const VERDICT_COLUMN = COLUMNS_OF_TABLE.findIndex((column) => column.head === "verdict");

function verdictTable(cells: readonly CellReport[], paint: Paint): string[] {
  const rows = cells.map((cell) => [
    cell.variant,
    cell.scenario,
    cell.property,
    cell.model,
    verdictText(cell),
    explored(cell),
    cell.seconds.toFixed(2),
  ]);
  return table(COLUMNS_OF_TABLE, rows, (text, row, column) => {
    const cell = cells[row];
    if (cell === undefined) return paint.dim(text);
    return column === VERDICT_COLUMN ? colourOf(cell, paint)(text) : text;
  });
}

/** The verdict, and what was expected where that differs. What is unknown is told below the table. */
function verdictText({ verdict, expected, ok }: CellReport): string {
  if (expected === null || ok || verdict === "unknown") return verdict;
  return verdict === expected ? `${verdict} otherwise` : `${verdict}, not ${expected}`;
}

function colourOf(cell: CellReport, paint: Paint): (text: string) => string {
  if (cell.verdict === "unknown") return (text) => paint.yellow(text);
  if (!cell.ok) return (text) => paint.red(text);
  return cell.verdict === "holds" ? (text) => paint.green(text) : (text) => text;
}

function explored(cell: CellReport): string {
  const [n, noun] = cell.strategy === "graph" ? [cell.states, "state"] : [cell.executions, "run"];
  return `${n}${cell.complete ? "" : "+"} ${noun}${n === 1 ? "" : "s"}`;
}

function legend(cells: readonly CellReport[]): string[] {
  const lines: string[] = [];
  if (cells.some((cell) => !cell.complete)) lines.push("+: there is more than was explored");
  const redundant = cells.reduce((sum, cell) => sum + cell.blocked, 0);
  if (redundant > 0) lines.push(`${count(redundant, "redundant run")} not counted`);
  const waiting = cells.reduce((sum, cell) => sum + cell.waiting, 0);
  if (waiting > 0) lines.push(`${count(waiting, "run")} with tasks that wait for ever, as allowed, not counted`);
  lines.push(...cells.flatMap(expectation).flatMap((line) => wrap(line, COLUMNS, "  ")));
  return lines;
}

/** Of a cell that was stopped: how much there is in all, as far as could be estimated. */
function expectation(cell: CellReport): string[] {
  if (cell.estimate === null) return [];
  const { executions, low, high } = cell.estimate;
  const done = ((100 * cell.executions) / Math.max(1, executions)).toPrecision(2);
  const range = `${roughly(low)} to ${roughly(high)}`;
  return [`${label(cell)}: about ${Number(done)}% of an estimated ${roughly(executions)} runs (${range})`];
}

// --- races -----------------------------------------------------------------------------------------------------------

function races(report: CheckReport, paint: Paint): string[] {
  return shortestRaces(report).flatMap((cell) => race(report, cell, paint));
}

/** The cells whose races are shown: the shortest of each variant and property; unexpected ones apart. */
export function shortestRaces(report: CheckReport): CellReport[] {
  const shown = new Map<string, CellReport>();
  for (const cell of report.cells) {
    if (cell.diagram === null) continue;
    const key = JSON.stringify([cell.variant, cell.property, cell.ok]);
    const known = shown.get(key);
    if (known === undefined || lengthOf(cell) < lengthOf(known)) shown.set(key, cell);
  }
  return [...shown.values()];
}

function lengthOf(cell: CellReport): number {
  return cell.diagram?.split("\n").length ?? 0;
}

function race({ name, study, flags = [] }: CheckReport, cell: CellReport, paint: Paint): string[] {
  const { variant, scenario, model, property, because } = cell;
  const how = cell.expected === null ? "" : cell.ok ? ", as expected" : ", which is not expected";
  return [
    "",
    "-".repeat(COLUMNS),
    ...wrap(`${variant}: ${study.variants[variant] ?? ""}`, COLUMNS, "  ").map((line) => paint.bold(line)),
    ...wrap(`${property} fails in scenario ${scenario} under ${model}${how}.`, COLUMNS, "  "),
    ...(because === "" ? [] : wrap(`${cell.ok ? "Because" : "Expected"}: ${because}`, COLUMNS, "  ")),
    "",
    ...(cell.diagram ?? "").split("\n"),
    "",
    ...replayCommand([name, ...flags], variant, cell.replay ?? ""),
  ];
}

/** The line that reproduces a failure. */
function replayCommand(study: readonly string[], variant: string, schedule: string): string[] {
  return shellCommand([
    ["racewalk", "replay", ...study],
    ["--variant", variant],
    ["--schedule", schedule],
  ]);
}

/** Cells that hold though they were expected to fail: there is no race to show. */
function surprises(cells: readonly CellReport[]): string[] {
  const held = cells.filter((cell) => cell.verdict === "holds" && !cell.ok);
  return held.flatMap((cell) => [
    "",
    ...wrap(`${label(cell)}: ${cell.property} holds, and was expected to fail: ${cell.because}`, COLUMNS, "  "),
  ]);
}

function unknowns(cells: readonly CellReport[]): string[] {
  const byReason = Map.groupBy(
    cells.filter((cell) => cell.verdict === "unknown"),
    (cell) => cell.message ?? "",
  );
  return [...byReason].flatMap(([reason, group]) => [
    "",
    ...wrap(`unknown, ${reason}: ${group.map(label).join(", ")}`, COLUMNS, "  "),
  ]);
}

function label({ variant, scenario, model }: CellReport): string {
  return `${variant} ${scenario} ${model}`;
}

// --- the end ---------------------------------------------------------------------------------------------------------

function summary({ cells, stopped, seconds, workers, peakRssBytes }: CheckReport): string[] {
  const incomplete = cells.filter((cell) => !cell.complete).length;
  const bounds =
    incomplete === 0 ? "All was explored completely" : `${count(incomplete, "cell")} not explored completely`;
  const megabytes = Math.round(peakRssBytes / 2 ** 20);
  const lines = [`${bounds}; ${seconds.toFixed(1)} s on ${count(workers, "worker")}, ${megabytes} MB.`];
  if (stopped === "budget") lines.push("The budget is over: the result is incomplete.");
  if (stopped === "interrupted") lines.push("Interrupted: the result is incomplete.");
  const having = (verdict: string): number => cells.filter((cell) => cell.verdict === verdict).length;
  const unknown = having("unknown");
  const tally = `${having("holds")} hold, ${having("fails")} fail${unknown > 0 ? `, ${unknown} unknown` : ""}`;
  return [...lines, `${count(cells.length, "cell")}: ${tally}. ${comparison(cells)}`];
}

/** How the verdicts compare with what was expected, in a sentence or two. */
function comparison(cells: readonly CellReport[]): string {
  const judged = cells.filter((cell) => cell.expected !== null);
  const without = cells.length - judged.length;
  const open = without === 0 ? "" : ` ${count(without, "cell")} without an expected verdict.`;
  if (judged.length === 0) return "No verdict is expected.";
  const unexpected = judged.filter((cell) => !cell.ok && cell.verdict !== "unknown").length;
  if (unexpected > 0) return `${count(unexpected, "verdict")} not as expected.${open}`;
  const isSure = judged.every((cell) => cell.verdict !== "unknown");
  return `${isSure ? "Every verdict is as expected" : "Nothing contradicts what is expected"}.${open}`;
}
