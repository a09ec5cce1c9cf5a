/**
 * Runs random workloads, each as generators or as straight lines, in the tree that this file is in: `run-workloads.ts engine|straight FIRST COUNT`.
 * Prints a line a seed: a hash of everything that the workload did (trace events, results, statistics) and left in KVM's tables after each operation.
 */
import { createHash } from "node:crypto";

const [how = "", first = 0, count = 1] = process.argv
  .slice(2)
  .map((text) => (/^\d+$/.test(text) ? Number(text) : text));
if (how === "straight") await import("../../bench/speed/straight/hooks.ts");
const { runWorkload } = await import("../../src/conform/model.ts");
const { parseWorkload } = await import("../../src/conform/workload.ts");
const { documentOf, machineOf } = await import("../properties/random-tdp.ts");

for (let seed = Number(first); seed < Number(first) + Number(count); seed++) {
  const hash = createHash("sha256");
  let tables = 0;
  const run = runWorkload({
    workload: parseWorkload(`seed ${seed}`, documentOf(seed)),
    initial: null,
    recording: null,
    ...machineOf(seed),
    inspect: ({ vm }) => {
      const live = vm.tdp.pages.liveTables();
      tables += live.length;
      for (const table of live)
        hash.update(`${table}:`).update(vm.tdp.world.heap.words.subarray(table / 4, table / 4 + 1024));
    },
  });
  hash.update(JSON.stringify(run));
  const events = run.operations.reduce((sum, operation) => sum + operation.events.length, 0);
  process.stdout.write(`${seed} ${hash.digest("hex")} ${events} events, ${tables} tables\n`);
}
