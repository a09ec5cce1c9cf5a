/**
 * Writes the straight lines as modules of JavaScript, for measuring: what hooks.ts loads, in files.
 *
 * A process that takes the types out of what it loads runs WebAssembly for that, whose memory has grown. From then on V8 looks at each access to an
 * array whether its memory was given away: 3 to 12 % of the faults per second. So that is done beforehand.
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { stripTypeScriptTypes } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { modulesIn, StraightForm } from "./form.ts";

/** `from "./module.ts"`, `import "./module.ts"`, `import("./module.ts")` */
const IMPORT = /(\bfrom |\bimport |\bimport\()"(\.{1,2}\/[^"]*\.ts)"/g;

/**
 * Writes the tree's modules into a folder of its own.
 * @param root of the tree
 * @param folders what to write: paths in the tree
 * @returns the new tree's root; a module has the name that it had, with .js
 */
export function buildStraight(root: string, folders: readonly string[]): string {
  const form = new StraightForm(root);
  const to = mkdtempSync(join(tmpdir(), "racewalk-straight-"));
  writeFileSync(join(to, "package.json"), '{ "type": "module" }\n');
  symlinkSync(join(root, "node_modules"), join(to, "node_modules"));
  for (const path of folders.flatMap((folder) => modulesIn(root, folder))) {
    if (path.endsWith(".test.ts")) continue;
    const typed = readFileSync(join(root, path), "utf8");
    const javascript = form.javascript(path, typed) ?? stripTypeScriptTypes(typed);
    const file = join(to, jsOf(path));
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(
      file,
      javascript.replace(IMPORT, (_, word: string, specifier: string) => {
        const wanted = form.resolve(join(dirname(path), specifier), path);
        return `${word}"./${jsOf(relative(dirname(path), wanted))}"`;
      }),
    );
  }
  return to;
}

function jsOf(path: string): string {
  return path.replace(/\.ts$/, ".js");
}

let built: string | null = null;

/** A script of this tree, as it is written for straight lines. They are made when one is asked for first, and taken away when the process ends. */
export function straightScript(root: string, script: string): string {
  if (built === null) {
    // In a process that need not say that taking types out is a new thing in Node.
    const args = ["--disable-warning=ExperimentalWarning", fileURLToPath(import.meta.url), root, "src", "bench/speed"];
    const made = execFileSync(process.execPath, args, { encoding: "utf8" });
    built = made;
    process.on("exit", () => rmSync(made, { recursive: true, force: true }));
  }
  return join(built, jsOf(script));
}

if (import.meta.main) {
  const [root = "", ...folders] = process.argv.slice(2);
  process.stdout.write(buildStraight(root, folders));
}
