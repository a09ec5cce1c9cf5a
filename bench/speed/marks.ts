/**
 * What compiled tools reached on the programs that everybody measures.
 *
 * One core of a shared two-core virtual machine, executions per second; GenMC 0.10 (C++, works on LLVM code) and Nidhugg (optimal, sources of
 * April 2026). walkzap counts the executions that they give up too: a wait is a try that fails there.
 */
import type { MemoryModel } from "../../src/engine/index.ts";

export const GENMC = "GenMC 0.10";
export const NIDHUGG = "Nidhugg optimal";

export interface Mark {
  readonly name: string;
  readonly sizes: readonly number[];
  readonly model: MemoryModel;
  /** Executions per second; null where the tool did not finish or was not tried. */
  readonly rates: Readonly<Record<string, number | null>>;
  readonly megabytes: Readonly<Record<string, number | null>>;
}

export const MARKS: readonly Mark[] = [
  mark("lastzero", [15], "sc", [32_000, 4_000], [109, 279]),
  mark("ainc", [9], "sc", [47_000, 19_000]),
  mark("fib", [6], "sc", [24_000, 21_000]),
  mark("fib", [6], "tso", [40_000, null]),
  mark("sbk", [6], "sc", [102_000, 26_000]),
  mark("sbk", [6], "tso", [179_000, 21_000]),
  mark("walkzap", [10, 1], "sc", [40_000, 1_600], [92, 419]),
  mark("treiber", [4, 1], "sc", [61_000, 13_000]),
  mark("casw", [5], "sc", [274_000, 25_000]),
  mark("mp", [7], "sc", [32_000, 23_000], [805, 56]),
];

type Pair = readonly [genmc: number | null, nidhugg: number | null];

function mark(name: string, sizes: readonly number[], model: MemoryModel, rates: Pair, megabytes?: Pair): Mark {
  const [genmc = null, nidhugg = null] = megabytes ?? [];
  return {
    name,
    sizes,
    model,
    rates: { [GENMC]: rates[0], [NIDHUGG]: rates[1] },
    megabytes: { [GENMC]: genmc, [NIDHUGG]: nidhugg },
  };
}
