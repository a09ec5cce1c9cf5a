/** Random tiny programs of one kind, each compared under all explorers; a difference is shrunk to a small program. */
import fc from "fast-check";
import type { MemoryModel } from "../../src/engine/index.ts";
import { type Comparison, compareExplorers } from "./comparison.ts";
import { showTiny, type Tiny } from "./tiny.ts";
import { type Flavour, tinyArb } from "./tiny-arbitrary.ts";

/** What a campaign went through. */
export interface Totals {
  programs: number;
  /** Programs with too many interleavings for brute force: compared with nothing, and not counted among `programs`. */
  tooLarge: number;
  interleavings: number;
  /** Execution graphs, of which dpor explored each once. */
  graphs: number;
  graphsMax: number;
  /** Programs with a failing execution. */
  failing: number;
  /** Programs that the second opinion judged too. */
  judged: number;
}

export interface Difference {
  /** As text: what `node bench/explorers/run.ts --program` takes. */
  readonly program: string;
  readonly model: MemoryModel;
  readonly differences: readonly string[];
}

export function newTotals(): Totals {
  return { programs: 0, tooLarge: 0, interleavings: 0, graphs: 0, graphsMax: 0, failing: 0, judged: 0 };
}

/** Draws programs until `runs` of them were compared. The same seed draws the same ones. @returns the first difference, shrunk */
export function campaign(
  flavour: Flavour,
  { model, runs, seed, interleavingsMax }: CampaignOptions,
  totals: Totals,
): Difference | null {
  const agrees = (tiny: Tiny): boolean => {
    const comparison = compareExplorers(tiny, model, interleavingsMax);
    add(totals, comparison);
    return comparison.differences.length === 0;
  };
  const wanted = totals.programs + runs;
  // Those that are too large are replaced by others, from the next seed on.
  for (let round = 0; totals.programs < wanted; round++) {
    const numRuns = wanted - totals.programs;
    const details = fc.check(fc.property(tinyArb(flavour), agrees), { seed: seed + round, numRuns });
    if (!details.failed) continue;
    const tiny = details.counterexample?.[0] as Tiny;
    const { differences } = compareExplorers(tiny, model, interleavingsMax);
    return { program: showTiny(tiny), model, differences };
  }
  return null;
}

export interface CampaignOptions {
  readonly model: MemoryModel;
  readonly runs: number;
  readonly seed: number;
  readonly interleavingsMax: number;
}

function add(totals: Totals, comparison: Comparison): void {
  if (comparison.interleavings === null) {
    totals.tooLarge++;
    return;
  }
  totals.programs++;
  totals.interleavings += comparison.interleavings;
  totals.graphs += comparison.graphs;
  totals.graphsMax = Math.max(totals.graphsMax, comparison.graphs);
  if (comparison.failing) totals.failing++;
  if (comparison.judged) totals.judged++;
}
