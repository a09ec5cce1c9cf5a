/**
 * Which is the first random guest that notices each mutation of test/shadow/mutations.ts? For when the guests have changed.
 *
 *     node bench/coherence/mutations.ts [part of a name [first seed]]
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { CheckedProblem } from "../../src/conform/checked-run.ts";
import { changeTree, copyTree } from "../../test/changed-tree.ts";
import { SHADOW_MUTATIONS } from "../../test/shadow/mutations.ts";

const SEEDS = 1000;

interface Output {
  readonly problem: CheckedProblem | null;
  readonly sequences: number;
}

main(process.argv[2] ?? "", Number(process.argv[3] ?? 0));

function main(part: string, first: number): void {
  const root = mkdtempSync(join(tmpdir(), "racewalk-shadow-"));
  copyTree(root, ["test/shadow"]);
  for (const { name, file, find, replace } of SHADOW_MUTATIONS.filter(
    (mutation) => mutation.seed >= 0 && mutation.name.includes(part),
  )) {
    changeTree(root, `src/${file}`, [{ find, replace }]);
    const script = join(root, "test/shadow/run-campaign.ts");
    const output = execFileSync(process.execPath, [script, String(first), String(SEEDS)], { encoding: "utf8" });
    const { problem, sequences } = JSON.parse(output) as Output;
    const what = problem === null ? `nobody of ${SEEDS}` : `seed ${first + sequences - 1}: ${problem.property}`;
    console.log(`${name.padEnd(75)} ${what}`);
    changeTree(root, `src/${file}`, []);
  }
  rmSync(root, { recursive: true, force: true });
}
