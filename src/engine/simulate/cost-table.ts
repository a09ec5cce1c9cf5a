/**
 * What operations cost in virtual time: nanoseconds by name.
 *
 * The engine charges its own operations under the names below; modelled code charges what no operation stands for under names of its
 * own (`world.clock?.spend("zap a leaf")`), which the floor that owns them adds to the table. An unknown name is an error, so that
 * nothing is free by mistake.
 */
import { UsageError } from "../assert.ts";

/** Nanoseconds by name. */
export type CostTable = Readonly<Record<string, number>>;

/**
 * Costs of the engine's own operations on a two-socket x86 server of about 3 GHz: first-level hits and locked instructions as in Intel's and AMD's
 * optimization manuals (4-5 and 18-25 cycles); a line that another core has modified as measured by core-to-core latency tests (40-120 ns).
 */
export const ENGINE_COSTS: CostTable = {
  /** A load or store that hits the own cache. */
  access: 1.5,
  /** A locked instruction on a line that the CPU owns. */
  "locked access": 7,
  /** The line has to come from another core. */
  "line transfer": 60,
  /** MFENCE, with an empty store buffer. */
  fence: 10,
  /** From the release of a lock, or another wake-up of a spinning CPU, until the next holder runs. */
  "lock hand-over": 60,
};

/** @throws UsageError for a name that the table does not have */
export function costOf(table: CostTable, name: string): number {
  const cost = table[name];
  if (cost === undefined) throw new UsageError(`no cost is known for "${name}": add it to the cost table`);
  return cost;
}
