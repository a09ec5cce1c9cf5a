/**
 * Leaves operations out of a seed's workload as long as it still disagrees in the same way, and prints what is left.
 *
 *     node bench/properties/minimise.ts SEED [--operations N] [--gigantic]
 */
import { parseArgs } from "node:util";
import { documentOf, machineOf, runDocument } from "../../test/properties/random-tdp.ts";

type Json = Readonly<Record<string, unknown>>;

/** What is said without the numbers, so that a shorter workload that fails for another reason is not taken for the same. */
const kindOf = (problem: string): string =>
  problem
    .replace(/^.*?after (ops\[\d+\]|the teardown)( \{.*?\})?( "[^"]*")?: /, "")
    .replace(/0x[0-9a-f]+|[0-9a-f]{6,}|\d+/g, "N");

function main(): number {
  const { values, positionals } = parseArgs({
    options: { operations: { type: "string", default: "30" }, gigantic: { type: "boolean", default: false } },
    allowPositionals: true,
  });
  const seed = Number(positionals[0]);
  const machine = machineOf(seed);
  const document: Json = documentOf(seed, { operations: Number(values.operations), gigantic: values.gigantic });
  const run = (ops: readonly unknown[]): string | null => runDocument(`seed ${seed}`, { ...document, ops }, machine);
  let ops = document["ops"] as readonly unknown[];
  const problem = run(ops);
  if (problem === null) {
    console.log(`seed ${seed} agrees`);
    return 1;
  }
  const kind = kindOf(problem);
  const isSame = (candidate: readonly unknown[]): boolean => {
    const said = run(candidate);
    return said !== null && kindOf(said) === kind;
  };
  for (let size = Math.ceil(ops.length / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    for (let at = 0; at < ops.length; ) {
      const shorter = [...ops.slice(0, at), ...ops.slice(at + size)];
      if (isSame(shorter)) ops = shorter;
      else at += size;
    }
  }
  console.log(run(ops));
  console.log(JSON.stringify({ machine, document: { ...document, ops } }));
  return 0;
}

process.exitCode = main();
