/**
 * The explorers against brute force, on random small programs.
 *
 *     node bench/explorers/run.ts [N] [SEED]
 *     node bench/explorers/run.ts --program "x=1; r0=y || y=1; r0=x" --model tso
 *
 * Each program is explored by dpor, as a state graph and by every interleaving, under SC and TSO. Execution graphs, final states and
 * failures have to be the same, and dpor has to find each graph once. Prints totals for each kind of program; a difference is
 * printed with the program as text, which --program runs again.
 */
import fc from "fast-check";
import type { MemoryModel } from "../../src/engine/index.ts";
import { compareExplorers, type Comparison } from "../../test/engine/comparison.ts";
import { FLAVOURS, sizeFor } from "../../test/engine/flavours.ts";
import { parseTiny, showTiny, type Tiny } from "../../test/engine/tiny.ts";
import { tinyArb } from "../../test/engine/tiny-arbitrary.ts";

const INTERLEAVINGS_MAX = 20_000;
