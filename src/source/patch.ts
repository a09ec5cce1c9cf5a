/**
 * A patch (unified diff) applied to copies of the files that it names: the tree stays as it is.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { UsageError } from "../engine/index.ts";
import { sha } from "./unit.ts";

export interface Patched {
  /** By the original's path: where the patched content is, and its hash. */
  readonly files: ReadonlyMap<string, { readonly hash: string; readonly at: string }>;
}

interface Hunk {
  readonly start: number;
  /** Lines as in the patch: first character blank, "-" or "+". */
  readonly lines: readonly string[];
}

/** @throws UsageError when it does not apply */
export function applyPatch(patchFile: string, root: string, cache: string): Patched {
  if (!existsSync(patchFile)) throw new UsageError(`${patchFile}: no such file; name a unified diff`);
  const files = new Map<string, { hash: string; at: string }>();
  for (const [name, hunks] of parse(readFileSync(patchFile, "utf8"))) {
    const path = join(root, name);
    if (!existsSync(path))
      throw new UsageError(
        `${patchFile}: names ${name}, which the kernel tree does not have; make it against this tree`,
      );
    const text = applyHunks(readFileSync(path, "utf8"), hunks, `${patchFile}: ${name}`);
    const hash = sha(text);
    const at = join(cache, "patched", hash);
    mkdirSync(join(cache, "patched"), { recursive: true });
    if (!existsSync(at)) writeFileSync(at, text);
    files.set(path, { hash, at });
  }
  if (files.size === 0)
    throw new UsageError(`${patchFile}: has no changes in it; name a unified diff (git diff, diff -u)`);
  return { files };
}

function parse(text: string): Map<string, Hunk[]> {
  const files = new Map<string, Hunk[]>();
  let hunks: Hunk[] | null = null;
  const lines = text.split("\n");
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i] as string;
    if (line.startsWith("+++ ")) {
      const name =
        line
          .slice(4)
          .split("\t")[0]
          ?.trim()
          .replace(/^[^/]+\//, "") ?? "";
      hunks = files.get(name) ?? [];
      files.set(name, hunks);
      continue;
    }
    const header = /^@@ -(\d+)(?:,(\d+))? \+\d+(?:,(\d+))? @@/.exec(line);
    if (header === null || hunks === null) continue;
    let before = Number(header[2] ?? 1);
    let after = Number(header[3] ?? 1);
    const body: string[] = [];
    while ((before > 0 || after > 0) && i + 1 < lines.length) {
      const next = (lines[++i] as string) || " ";
      if (next.startsWith("\\")) continue;
      body.push(next);
      if (!next.startsWith("+")) before--;
      if (!next.startsWith("-")) after--;
    }
    hunks.push({ start: Number(header[1]), lines: body });
  }
  return files;
}

function applyHunks(text: string, hunks: readonly Hunk[], at: string): string {
  const lines = text.split("\n");
  let shift = 0;
  for (const hunk of hunks) {
    const before = hunk.lines.filter((line) => !line.startsWith("+")).map((line) => line.slice(1));
    const after = hunk.lines.filter((line) => !line.startsWith("-")).map((line) => line.slice(1));
    const where = find(lines, before, hunk.start - 1 + shift);
    if (where === null)
      throw new UsageError(`${at}: the hunk at line ${hunk.start} does not apply; make the patch against this tree`);
    lines.splice(where, before.length, ...after);
    shift = where - (hunk.start - 1) + after.length - before.length;
  }
  return lines.join("\n");
}

/** The place nearest to `guess` at which `wanted` stands. */
function find(lines: readonly string[], wanted: readonly string[], guess: number): number | null {
  const fits = (at: number): boolean => at >= 0 && wanted.every((line, i) => lines[at + i] === line);
  for (let distance = 0; distance <= lines.length; distance++) {
    if (fits(guess - distance)) return guess - distance;
    if (fits(guess + distance)) return guess + distance;
  }
  return null;
}
