/**
 * Measurements of a study's designs in virtual time: what `racewalk measure` runs.
 *
 *     export const measurement: Measurement = {
 *       study: "gpc-refresh",
 *       parameters: { invalidators: { value: 1, meaning: "threads that invalidate" } },
 *       variants: { D0: "Linux 6.9 to 7.2", ... },
 *       metrics: { "refreshes/s": "refreshes that succeeded, a second", ... },
 *       plots: ["refreshes/s"],
 *       presets: [{ what: "how long invalidations pause", sweep: { pause: [0, 10_000, 100_000] } }],
 *       run: (variant, parameters, costs) => ({ metrics: { "refreshes/s": ... } }),
 *     };
 */
import { type CostTable, type GaugePoint, UsageError } from "../engine/index.ts";

export interface Parameter {
  /** What it is when nobody says otherwise. */
  readonly value: number;
  readonly meaning: string;
  /** What it is counted in, where it has a unit: "ns", "GiB". */
  readonly unit?: string;
}

/** A figure; null when the run gives none. */
export type Figures = Readonly<Record<string, number | null>>;

/** What came of one run. */
export interface Measured {
  readonly metrics: Figures;
  /** What was followed over virtual time. */
  readonly series?: Readonly<Record<string, readonly GaugePoint[]>>;
}

/** Runs that are worth a figure, and take a person no patience. */
export interface Preset {
  /** What the figure shows. */
  readonly what: string;
  readonly set?: Readonly<Record<string, number>>;
  /** The values of one parameter; without it, what is followed over time is shown. */
  readonly sweep?: Readonly<Record<string, readonly number[]>>;
  /** Those variants only. */
  readonly variants?: readonly string[];
  /** Those metrics, or series, instead of the measurement's own choice. */
  readonly plots?: readonly string[];
}

export interface Measurement {
  readonly study: string;
  /** What is measured, in one sentence. */
  readonly question: string;
  readonly parameters: Readonly<Record<string, Parameter>>;
  readonly variants: Readonly<Record<string, string>>;
  /** What the figures mean; times are in nanoseconds where a name ends in "ns". */
  readonly metrics: Readonly<Record<string, string>>;
  /** What is followed over time, and what it means. */
  readonly series?: Readonly<Record<string, string>>;
  /** The metrics that are plotted over a swept parameter, the most telling first. */
  readonly plots: readonly string[];
  readonly presets: readonly Preset[];
  run(variant: string, parameters: Readonly<Record<string, number>>, costs: CostTable): Measured;
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
