/**
 * The list of studies.
 */
import type { Study } from "../studies/study.ts";
import { COLUMNS, count, type Paint, wrap } from "./text.ts";

/** The document that `racewalk studies --json` prints. */
export function studiesJson(studies: readonly Study[]): object {
  return studies.map(({ id, title, source, variants }) => ({ id, title, source, variants: Object.keys(variants) }));
}

/** @returns lines joined by newlines, with one at the end */
export function studiesText(studies: readonly Study[], paint: Paint): string {
  const blocks = studies.map(({ id, title, source, variants, cells }) =>
    [
      paint.bold(id),
      ...wrap(`  ${title}`, COLUMNS, "  "),
      ...wrap(`  source: ${source}`, COLUMNS, "    "),
      ...Object.entries(variants).flatMap(([name, text]) => wrap(`    ${name}: ${text}`, COLUMNS, "      ")),
      `  ${count(cells.length, "cell")}; racewalk check ${id}`,
    ].join("\n"),
  );
  return `${blocks.join("\n\n")}\n`;
}
