/**
 * Random workloads against the plain reference, as many as one likes.
 *
 *     node bench/properties/run.ts [N] [FIRST SEED] [--operations N] [--gigantic]
 *
 * Each seed gives a workload and a machine: 6.12 or 7.2, NPT or EPT with and without A/D bits and PML, translations that outlive a stay in the guest or not.
 * After each operation page tables, TLBs, dirty bitmaps, statistics and memslots are compared with the reference
 * (test/properties/tdp-reference.ts). What disagrees is printed with its seed, which runs again by itself.
 */
import { parseArgs } from "node:util";
import { machineOf, runSeed } from "../../test/properties/random-tdp.ts";

const FAILURES_MAX = 20;

function main(): number {
  const { values, positionals } = parseArgs({
    options: { operations: { type: "string", default: "30" }, gigantic: { type: "boolean", default: false } },
    allowPositionals: true,
  });
  const count = Number(positionals[0] ?? 1000);
  const first = Number(positionals[1] ?? 0);
  const operations = Number(values.operations);
  const machines = new Map<string, number>();
  let failures = 0;
  let done = 0;
  const start = performance.now();
  for (; done < count && failures < FAILURES_MAX; done++) {
    const seed = first + done;
    const { kernel, variants } = machineOf(seed);
    const name = `${kernel} ${variants.paging}${variants.pml === true ? ", PML" : ""}`;
    machines.set(name, (machines.get(name) ?? 0) + 1);
    const problem = runSeed(seed, { operations, gigantic: values.gigantic });
    if (problem === null) continue;
    failures++;
    console.log(problem);
  }
  const seconds = (performance.now() - start) / 1000;
  for (const [name, runs] of [...machines].sort(([a], [b]) => (a < b ? -1 : 1)))
    console.log(`${name.padEnd(20)} ${runs}`);
  console.log(`${done} workloads of ${operations} operations in ${seconds.toFixed(0)} s, ${failures} disagree`);
  return failures === 0 ? 0 : 1;
}

process.exitCode = main();
