/** All benchmarks of the explorer, by name. */
import type { Benchmark } from "./benchmark.ts";
import { COUNTERS } from "./counters.ts";
import { WAITING } from "./waiting.ts";
import { WALKZAP } from "./walkzap.ts";

export const BENCHMARKS: readonly Benchmark[] = [...COUNTERS, ...WAITING, ...WALKZAP];
