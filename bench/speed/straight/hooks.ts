/**
 * Runs the modelled kernel without an engine: import this module first, and then, dynamically, what is to run.
 *
 * Modelled code says `yield*` wherever another CPU may get in. When one thread runs to its end and nobody else does, none gets in anywhere. So
 * the source of machine, kernel and kvm is loaded with these words taken out: `function*` becomes `function`, `yield* load(cell)` becomes
 * `load(cell)`, and load() is the one of straight/ops.ts, which reads the heap and returns. Nothing else of what it does is changed: it is the MMU that is
 * explored, statement by statement, as plain functions that a compiler can inline (docs/decisions/0012-straight-lines.md).
 *
 * All modules of the source, the engine's too, are written so that the compiler knows which function a call calls (source.ts).
 */
import { readdirSync, readFileSync } from "node:fs";
import { registerHooks, stripTypeScriptTypes } from "node:module";
import { fileURLToPath } from "node:url";
import { fieldNames, straightened, withConstants, withoutCells, withoutEmptyFields } from "./source.ts";

const SOURCE = new URL("../../../src/", import.meta.url).href;
const HERE = new URL(".", import.meta.url).href;
/** Where code is written as steps of threads. */
const MODELLED = [
  ...["machine", "kernel", "kvm", "conform"].map((floor) => `${SOURCE}${floor}/`),
  ...["../kvm-scene.ts", "../shadow-scene.ts"].map((path) => new URL(path, import.meta.url).href),
];

/** Modules of the engine that have a counterpart here. */
const REPLACED = new Map(
  ["ops", "sequential", "view"].map((name) => [
    `${SOURCE}engine/${name}.ts`,
    new URL(`${name}.ts`, import.meta.url).href,
  ]),
);

function sourcesOf(floor: string): string[] {
  const folder = fileURLToPath(`${SOURCE}${floor}/`);
  const files = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((file) => file.endsWith(".ts"));
  return files.map((file) => readFileSync(`${folder}${file}`, "utf8"));
}

const FIELDS = fieldNames(["machine", "kernel", "kvm"].flatMap(sourcesOf));

registerHooks({
  resolve(specifier, context, nextResolve) {
    const found = nextResolve(specifier, context);
    const isOwn = context.parentURL?.startsWith(HERE) ?? false;
    const replacement = isOwn ? undefined : REPLACED.get(found.url);
    return replacement === undefined ? found : { ...found, url: replacement };
  },
  load(url, context, nextLoad) {
    const isModelled = MODELLED.some((floor) => url.startsWith(floor));
    if (!isModelled && !url.startsWith(`${SOURCE}engine/`) && !url.startsWith(HERE)) return nextLoad(url, context);
    const typed = readFileSync(fileURLToPath(url), "utf8");
    const source = withConstants(
      withoutEmptyFields(stripTypeScriptTypes(isModelled ? withoutCells(straightened(typed), FIELDS) : typed)),
    );
    return { format: "module", source, shortCircuit: true };
  },
});
