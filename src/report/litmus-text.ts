/** Results of litmus tests as text: those that differ from what is known of them, and one plain last line. */
import type { LitmusResult } from "../litmus/index.ts";
import { table } from "./table.ts";
import { COLUMNS, count, type Paint, wrap } from "./text.ts";

/** So many results are all shown; of more, only those that differ. */
const SHOWN_MAX = 40;

/** @returns lines joined by newlines, with one at the end */
export function litmusText(results: readonly LitmusResult[], seconds: number, paint: Paint): string {
  const wrong = results.filter((result) => !result.ok);
  const shown = results.length <= SHOWN_MAX ? results : wrong;
  const rows = shown.map(({ name, model, observable, executions, ok }) => [
    name,
    model,
    observable ? "allowed" : "forbidden",
    String(executions),
    ok ? "as expected" : "differs",
  ]);
  const columns = [
    { head: "test" },
    { head: "model" },
    { head: "verdict" },
    { head: "executions", align: "right" },
    { head: "" },
  ] as const;
  const lines =
    rows.length === 0 ? [] : table(columns, rows, (text, row) => (shown[row]?.ok === false ? paint.red(text) : text));
  for (const { name, model, source, differences } of wrong) {
    lines.push("", ...wrap(`${name} under ${model} (${source})`, COLUMNS, "  "));
    for (const difference of differences) lines.push(...wrap(`  ${difference}`, COLUMNS, "    "));
  }
  if (lines.length > 0) lines.push("");
  const executions = results.reduce((sum, result) => sum + result.executions, 0);
  const tests = count(new Set(results.map((result) => `${result.source} ${result.name}`)).size, "test");
  const models = [...new Set(results.map((result) => result.model))].join(" and ");
  const figures = `${tests} under ${models}: ${executions} executions in ${seconds.toFixed(1)} s.`;
  const verdict = wrong.length === 0 ? "All as expected." : `${wrong.length} of ${results.length} results differ.`;
  lines.push(...wrap(`${figures} ${verdict}`));
  return `${lines.join("\n")}\n`;
}
