/**
 * Which is the first random guest that notices each mutation of test/shadow/mutations.ts? For when the guests have changed.
 *
 *     node bench/coherence/mutations.ts [part of a name [first seed]]
 */
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { CheckedProblem } from "../../src/conform/checked-run.ts";
import { SHADOW_MUTATIONS } from "../../test/shadow/mutations.ts";

const ROOT = join(import.meta.dirname, "../..");
const SEEDS = 1000;

interface Output {
  readonly problem: CheckedProblem | null;
  readonly sequences: number;
}

main(process.argv[2] ?? "", Number(process.argv[3] ?? 0));

function main(part: string, first: number): void {
  const root = mkdtempSync(join(tmpdir(), "racewalk-shadow-"));
  mkdirSync(join(root, "test"));
  symlinkSync(join(ROOT, "node_modules"), join(root, "node_modules"));
  writeFileSync(join(root, "package.json"), '{ "type": "module" }\n');
  for (const each of ["src", "test/shadow"]) cpSync(join(ROOT, each), join(root, each), { recursive: true });
  for (const { name, file, find, replace } of SHADOW_MUTATIONS.filter(
    (mutation) => mutation.seed >= 0 && mutation.name.includes(part),
  )) {
    const path = join(root, "src", file);
    const source = readFileSync(path, "utf8");
    if (source.split(find).length !== 2) throw new Error(`"${name}" does not fit ${file}; mend its text`);
    writeFileSync(
      path,
      source.replace(find, () => replace),
    );
    const script = join(root, "test/shadow/run-campaign.ts");
    const output = execFileSync(process.execPath, [script, String(first), String(SEEDS)], { encoding: "utf8" });
    const { problem, sequences } = JSON.parse(output) as Output;
    const what = problem === null ? `nobody of ${SEEDS}` : `seed ${first + sequences - 1}: ${problem.property}`;
    console.log(`${name.padEnd(75)} ${what}`);
    writeFileSync(path, source);
  }
  rmSync(root, { recursive: true, force: true });
}
