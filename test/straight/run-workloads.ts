/**
 * Runs random workloads, each as generators or as straight lines, in the tree that this file is in:
 * `run-workloads.ts engine|straight tdp|shadow FIRST COUNT`. Prints a line a seed: a hash of everything that the workload did (trace events, results,
 * statistics), left in KVM's tables after each operation, and left in memory in the end.
 */
import { createHash } from "node:crypto";
import type { ModelInput } from "../../src/conform/model.ts";

const [how = "", kind = "", first = "0", count = "1"] = process.argv.slice(2);
if (how === "straight") await import("../../bench/speed/straight/hooks.ts");
const { runWorkload } = await import("../../src/conform/model.ts");
const { parseWorkload } = await import("../../src/conform/workload.ts");
const { documentOf, machineOf } = await import("../properties/random-tdp.ts");
const { randomGuest } = await import("../shadow/random-guest.ts");

type Input = Pick<ModelInput, "workload" | "kernel" | "keepsTranslations" | "variants">;

function tdpInput(seed: number): Input {
  return { workload: parseWorkload(`seed ${seed}`, documentOf(seed)), ...machineOf(seed) };
}

/** A guest that faults more often on one instruction gets nowhere. */
const FAULTS_MAX = 40;

function shadowInput(seed: number): Input {
  const { document, kernel, keepsTlb } = randomGuest(seed);
  const workload = parseWorkload(document.name, document);
  return { workload, kernel, keepsTranslations: keepsTlb, variants: { faultsMax: FAULTS_MAX } };
}

for (let seed = Number(first); seed < Number(first) + Number(count); seed++) {
  const hash = createHash("sha256");
  let tables = 0;
  const input = kind === "shadow" ? shadowInput(seed) : tdpInput(seed);
  const run = runWorkload({
    ...input,
    initial: null,
    recording: null,
    inspect: ({ vm }, at) => {
      const { words } = vm.tdp.world.heap;
      const live = (vm.shadow ?? vm.tdp).pages.liveTables();
      tables += live.length;
      for (const table of live) hash.update(`${table}:`).update(words.subarray(table / 4, table / 4 + 1024));
      if (at === input.workload.ops.length) hash.update(words);
    },
  });
  hash.update(JSON.stringify(run));
  const events = run.operations.reduce((sum, operation) => sum + operation.events.length, 0);
  process.stdout.write(`${seed} ${hash.digest("hex")} ${events} events, ${tables} tables\n`);
}
