/** Programs for searches of the state graph; bench/spin has the same in Promela, step by step. */
import { awaitUntil, type Cell, cell, fetchAdd, load, program, store } from "../../src/engine/index.ts";
import { type Benchmark, repeat, SMALL } from "../dpor/benchmark.ts";
import { walkzap } from "../dpor/walkzap.ts";

export interface GraphBenchmark extends Pick<Benchmark, "name" | "make"> {
  /** What the sizes are called in the Promela text, in their order. */
  readonly parameters: readonly string[];
  /** Sizes to measure when none are given. */
  readonly sizes: readonly number[];
  readonly sizesLong: readonly number[];
}

/** N tasks take a ticket lock K times each and count under it. */
const ticket: GraphBenchmark = {
  name: "ticket",
  parameters: ["N", "K"],
  sizes: [4, 2],
  sizesLong: [5, 2],
  make: (n = 2, k = 1) =>
    program({
      name: "ticket",
      memory: SMALL,
      setup: (world) => ({ next: cell(world, "next"), owner: cell(world, "owner"), d: cell(world, "d") }),
      tasks: repeat("t", n, function* ({ next, owner, d }: { next: Cell; owner: Cell; d: Cell }) {
        for (let i = 0; i < k; i++) {
          const mine = yield* fetchAdd(next, 1);
          yield* awaitUntil(owner, (serving) => serving === mine);
          const count = yield* load(d);
          yield* store(d, count + 1);
          yield* store(owner, mine + 1);
        }
      }),
      final: ({ d }) => d.peek() === n * k,
    }),
};

/** KVM's lockless shadow walk against a zap (bench/dpor/walkzap.ts): pages, walkers. */
const walk: GraphBenchmark = {
  name: "walkzap",
  parameters: ["P", "W"],
  sizes: [5, 2],
  sizesLong: [4, 3],
  make: (pages = 1, walkers = 1) => walkzap({ pages, walkers, fenced: true }),
};

export const GRAPHS: readonly GraphBenchmark[] = [ticket, walk];
