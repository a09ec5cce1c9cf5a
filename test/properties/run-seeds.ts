/** Runs random workloads until one disagrees, in the tree that this file is in: `run-seeds.ts FIRST COUNT`. Prints what disagreed, or nothing. */
import { runSeed } from "./random-tdp.ts";

const [first = 0, count = 1] = process.argv.slice(2).map(Number);
for (let seed = first; seed < first + count; seed++) {
  const problem = runSeed(seed);
  if (problem === null) continue;
  process.stdout.write(problem);
  break;
}
