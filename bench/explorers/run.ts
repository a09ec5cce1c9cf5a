/**
 * The explorers against brute force, on random small programs.
 *
 *     node bench/explorers/run.ts [N] [SEED]
 *     node bench/explorers/run.ts --program "x=1; r0=y || y=1; r0=x" --model tso
 *
 * Each program is explored by dpor, as a state graph and by every interleaving, under SC and TSO, and counted by a machine that shares no code
 * with the engine. Execution graphs, final states and failures have to be the same, and dpor has to find each graph once and give up no
 * execution. Prints totals for each kind of program; a difference is printed with the program as text, which --program runs again.
 */
import { parseArgs } from "node:util";
import type { MemoryModel } from "../../src/engine/index.ts";
import { campaign, type Difference, newTotals, type Totals } from "../../test/engine/campaign.ts";
import { compareExplorers } from "../../test/engine/comparison.ts";
import { FLAVOURS, sizeFor } from "../../test/engine/flavours.ts";
import { parseTiny } from "../../test/engine/tiny.ts";
import type { Flavour } from "../../test/engine/tiny-arbitrary.ts";

/** Programs with more are replaced by others. */
const INTERLEAVINGS_MAX = 4_000;
const MODELS: readonly MemoryModel[] = ["sc", "tso"];

function main(): number {
  const { values, positionals } = parseArgs({
    options: { program: { type: "string" }, model: { type: "string", default: "sc" } },
    allowPositionals: true,
  });
  if (values.program !== undefined) return compareOne(values.program, values.model as MemoryModel);
  return compareMany(Number(positionals[0] ?? 1000), Number(positionals[1] ?? 1));
}

function compareMany(programs: number, seed: number): number {
  const kinds = Object.entries(FLAVOURS).flatMap(([name, flavour]) =>
    MODELS.map((model): [string, Flavour, MemoryModel] => [name, sizeFor(flavour, model), model]),
  );
  const all = newTotals();
  const differences: Difference[] = [];
  console.log(row(["kind", "model", "programs", "interleavings", "graphs", "most", "failing", "judged", "too large"]));
  for (const [k, [name, flavour, model]] of kinds.entries()) {
    const runs = Math.ceil((programs * (k + 1)) / kinds.length) - Math.ceil((programs * k) / kinds.length);
    const totals = newTotals();
    const options = { model, runs, seed: seed * 1000 + k, interleavingsMax: INTERLEAVINGS_MAX };
    const difference = campaign(flavour, options, totals);
    if (difference !== null) differences.push(difference);
    console.log(row([name, model, ...figures(totals)]));
    sum(all, totals);
  }
  console.log(row(["all", "", ...figures(all)]));
  for (const difference of differences) printDifference(difference);
  console.log(differences.length === 0 ? "the explorers agree" : `${differences.length} differences`);
  return differences.length === 0 ? 0 : 1;
}

function compareOne(text: string, model: MemoryModel): number {
  const { differences, ...figures } = compareExplorers(parseTiny(text), model, 1_000_000);
  console.log(figures);
  for (const difference of differences) console.log(difference);
  return differences.length === 0 ? 0 : 1;
}

function printDifference({ program, model, differences }: Difference): void {
  console.log(`\nunder ${model}: ${program}`);
  for (const difference of differences) console.log(`  ${difference}`);
}

function figures(totals: Totals): string[] {
  const { programs, interleavings, graphs, graphsMax, failing, judged, tooLarge } = totals;
  return [programs, interleavings, graphs, graphsMax, failing, judged, tooLarge].map(String);
}

function row([kind = "", model = "", ...rest]: readonly string[]): string {
  return `${kind.padEnd(11)} ${model.padEnd(5)}${rest.map((text) => text.padStart(14)).join("")}`;
}

function sum(all: Totals, totals: Totals): void {
  all.programs += totals.programs;
  all.tooLarge += totals.tooLarge;
  all.interleavings += totals.interleavings;
  all.graphs += totals.graphs;
  all.graphsMax = Math.max(all.graphsMax, totals.graphsMax);
  all.failing += totals.failing;
  all.judged += totals.judged;
}

process.exitCode = main();
