/**
 * `npm run check`: everything that CI runs. Each part runs alone by the name that stands here; the last line says what came of all.
 */
import { spawnSync } from "node:child_process";

const PARTS: readonly (readonly [name: string, script: string])[] = [
  ["types", "check:types"],
  ["lint and format", "check:lint"],
  ["lint with types", "check:types-aware"],
  ["dead code", "check:dead"],
  ["build", "build"],
  ["tests, house rules among them", "test"],
];

function main(): number {
  const failed: string[] = [];
  for (const [name, script] of PARTS) {
    console.log(`== ${name} (npm run ${script})`);
    const { status } = spawnSync("npm", ["run", "--silent", script], { stdio: "inherit" });
    if (status !== 0) failed.push(script);
  }
  const list = failed.length === 0 ? "" : `: ${failed.join(", ")}`;
  console.log(`check: ${PARTS.length - failed.length} passed, ${failed.length} failed${list}`);
  return failed.length === 0 ? 0 : 1;
}

process.exitCode = main();
