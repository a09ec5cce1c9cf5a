/**
 * Runs the modelled kernel without an engine: import this module first, and then, dynamically, what is to run.
 *
 * Modelled code says `yield*` wherever another CPU may get in. When one thread runs to its end and nobody else does, none gets in anywhere. So
 * the source of machine, kernel and kvm is loaded with these words taken out: `function*` becomes `function`, `yield* load(cell)` becomes
 * `load(cell)`, and load() is the one of straight/ops.ts, which reads the heap and returns. Nothing else is changed: it is the MMU that is explored,
 * statement by statement, as plain functions that a compiler can inline (docs/decisions/0012-straight-lines.md).
 */
import { readFileSync } from "node:fs";
import { registerHooks } from "node:module";
import { fileURLToPath } from "node:url";
import { straightened } from "./source.ts";

const SOURCE = new URL("../../../src/", import.meta.url).href;
/** Where code is written as steps of threads. */
const MODELLED = [
  ...["machine", "kernel", "kvm", "conform"].map((floor) => `${SOURCE}${floor}/`),
  ...["../kvm-scene.ts", "../shadow-scene.ts"].map((path) => new URL(path, import.meta.url).href),
];

/** Modules of the engine that have a counterpart here. */
const REPLACED = new Map(
  ["ops", "sequential"].map((name) => [`${SOURCE}engine/${name}.ts`, new URL(`${name}.ts`, import.meta.url).href]),
);

registerHooks({
  resolve(specifier, context, nextResolve) {
    const found = nextResolve(specifier, context);
    const isOwn = context.parentURL?.startsWith(new URL(".", import.meta.url).href) ?? false;
    const replacement = isOwn ? undefined : REPLACED.get(found.url);
    return replacement === undefined ? found : { ...found, url: replacement };
  },
  load(url, context, nextLoad) {
    if (!MODELLED.some((floor) => url.startsWith(floor))) return nextLoad(url, context);
    const source = straightened(readFileSync(fileURLToPath(url), "utf8"));
    return { format: "module-typescript", source, shortCircuit: true };
  },
});
