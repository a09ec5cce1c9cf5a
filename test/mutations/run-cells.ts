/** Runs some cells of a study given by its file, and prints their failures as JSON. Called with the mutated tree. */
import { pathToFileURL } from "node:url";
import type { StudyCell } from "../../src/studies/study.ts";

const [root, study, variant, scenario] = process.argv.slice(2) as [string, string, string, string];
const at = (path: string): string => pathToFileURL(`${root}/src/${path}`).href;
const { check } = (await import(at("engine/index.ts"))) as typeof import("../../src/engine/index.ts");
const { default: definition } = (await import(at(`studies/${study}.ts`))) as { default: { cells: StudyCell[] } };
const cells = definition.cells.filter((cell) => cell.variant === variant && cell.scenario === scenario);
const properties = new Set<string>();
for (const { program, model, strategy } of cells) {
  const { failures } = await check(program(), { model, strategy, stopAtFirst: true });
  for (const { property } of failures) properties.add(property);
}
process.stdout.write(JSON.stringify({ cells: cells.length, properties: [...properties].sort() }));
