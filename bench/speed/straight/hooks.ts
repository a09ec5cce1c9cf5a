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
import { readFileSync } from "node:fs";
import { registerHooks } from "node:module";
import { relative } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { StraightForm } from "./form.ts";

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const form = new StraightForm(ROOT);

function pathOf(url: string | undefined): string {
  return url?.startsWith("file:") === true ? relative(ROOT, fileURLToPath(url)) : "";
}

registerHooks({
  resolve(specifier, context, nextResolve) {
    const found = nextResolve(specifier, context);
    const path = pathOf(found.url);
    const wanted = form.resolve(path, pathOf(context.parentURL));
    return wanted === path ? found : { ...found, url: pathToFileURL(`${ROOT}${wanted}`).href };
  },
  load(url, context, nextLoad) {
    const path = pathOf(url);
    if (!path.endsWith(".ts")) return nextLoad(url, context);
    const source = form.javascript(path, readFileSync(fileURLToPath(url), "utf8"));
    return source === null ? nextLoad(url, context) : { format: "module", source, shortCircuit: true };
  },
});
