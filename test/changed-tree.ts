/** Copies of the tree with the source changed in one place: for tests that break the code to see that somebody notices. */
import { cpSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const ROOT = join(import.meta.dirname, "..");

/** A text of a file, which must stand there once, and what stands there instead. */
export interface Change {
  readonly find: string;
  readonly replace: string;
}

/** Copies the source, and other parts of the tree, so that scripts run in the copy. @param parts paths in the tree, beside `src` */
export function copyTree(to: string, parts: readonly string[] = []): void {
  for (const part of ["src", "package.json", ...parts]) cpSync(join(ROOT, part), join(to, part), { recursive: true });
  symlinkSync(join(ROOT, "node_modules"), join(to, "node_modules"));
}

/** A file of this tree with the changes in it. @throws Error naming the text that does not stand there once */
export function changedSource(file: string, changes: readonly Change[]): string {
  let source = readFileSync(join(ROOT, file), "utf8");
  for (const { find, replace } of changes) {
    const times = source.split(find).length - 1;
    if (times !== 1) throw new Error(`"${find}" stands ${times} times in ${file}, not once; mend the text to be found`);
    source = source.replace(find, () => replace);
  }
  return source;
}

/** Puts a changed file into a copy; what was changed there before is as in this tree again. */
export function changeTree(copy: string, file: string, changes: readonly Change[]): void {
  writeFileSync(join(copy, file), changedSource(file, changes));
}
