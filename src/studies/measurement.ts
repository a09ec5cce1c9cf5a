/**
 * Measurements of a study's designs in virtual time: what `racewalk measure` runs.
 *
 *     export const measurement: Measurement = {
 *       study: "gpc-refresh",
 *       parameters: { invalidators: { value: 1, meaning: "threads that invalidate" } },
 *       variants: { D0: "Linux 6.9 to 7.2", ... },
 *       metrics: { "refreshes/s": "refreshes that succeeded, a second", ... },
 *       run: (variant, parameters, costs) => ({ "refreshes/s": ... }),
 *     };
 */
import { type CostTable, UsageError } from "../engine/index.ts";

export interface Parameter {
  /** What it is when nobody says otherwise. */
  readonly value: number;
  readonly meaning: string;
}

/** A figure; null when the run gives none. */
export type Figures = Readonly<Record<string, number | null>>;

export interface Measurement {
  readonly study: string;
  /** What is measured, in one sentence. */
  readonly question: string;
  readonly parameters: Readonly<Record<string, Parameter>>;
  readonly variants: Readonly<Record<string, string>>;
  /** What the figures mean; times are in nanoseconds where a name ends in "ns". */
  readonly metrics: Readonly<Record<string, string>>;
  run(variant: string, parameters: Readonly<Record<string, number>>, costs: CostTable): Figures;
}

/** The parameters with some of them set. @throws UsageError for a name or a value that the measurement does not know */
export function withParameters(
  measurement: Measurement,
  settings: Readonly<Record<string, number>>,
): Record<string, number> {
  const names = Object.keys(measurement.parameters);
  for (const name of Object.keys(settings)) {
    if (!names.includes(name)) {
      throw new UsageError(`--set ${name}: ${measurement.study} has no such parameter; use one of ${names.join(", ")}`);
    }
  }
  return Object.fromEntries(
    names.map((name) => [name, settings[name] ?? (measurement.parameters[name] as Parameter).value]),
  );
}

/** The value below which a share of the samples lies; null without samples. */
export function percentile(samples: readonly number[], share: number): number | null {
  if (samples.length === 0) return null;
  const sorted = [...samples].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] as number;
}
