/** Runs of a measurement: each variant at each combination of parameters. */
import type { CostTable } from "../engine/index.ts";
import { type Measured, type Measurement, type Preset, withParameters } from "./measurement.ts";

/** One run: a variant with all parameters, those that were set and the others, and what came of it. */
export interface MeasureRow extends Measured {
  readonly variant: string;
  readonly params: Readonly<Record<string, number>>;
}

export interface Sweep {
  readonly name: string;
  readonly values: readonly number[];
}

export interface MeasureRequest {
  readonly variants: readonly string[];
  readonly settings: Readonly<Record<string, number>>;
  readonly sweeps: readonly Sweep[];
  readonly costs: CostTable;
}

/** @param onRun called before each run, with what is done and what there is; what it returns is waited for */
export async function measureRows(
  measurement: Measurement,
  { variants, settings, sweeps, costs }: MeasureRequest,
  onRun: (done: number, all: number, variant: string) => Promise<void> = async () => undefined,
): Promise<MeasureRow[]> {
  const points = combinations(sweeps).map((point) => withParameters(measurement, { ...settings, ...point }));
  const rows: MeasureRow[] = [];
  for (const params of points) {
    for (const variant of variants) {
      await onRun(rows.length, points.length * variants.length, variant);
      rows.push({ variant, params, ...measurement.run(variant, params, costs) });
    }
  }
  return rows;
}

/** What a preset asks for, and the words of `racewalk measure` that ask for the same. */
export function presetRequest(measurement: Measurement, preset: Preset): { request: MeasureRequest; words: string[] } {
  const { set = {}, sweep = {}, variants, plots = [] } = preset;
  const sweeps = Object.entries(sweep).map(([name, values]) => ({ name, values }));
  const words = [
    "racewalk",
    "measure",
    measurement.study,
    ...(variants ?? []).flatMap((name) => ["--variant", name]),
    ...Object.entries(set).flatMap(([name, value]) => ["--set", `${name}=${value}`]),
    ...sweeps.flatMap(({ name, values }) => ["--sweep", `${name}=${values.join(",")}`]),
    ...plots.flatMap((name) => ["--metric", name]),
    "--plot",
  ];
  const request = { variants: variants ?? Object.keys(measurement.variants), settings: set, sweeps, costs: {} };
  return { request, words };
}

/** Every combination of the swept values. */
function combinations(sweeps: readonly Sweep[]): Record<string, number>[] {
  let points: Record<string, number>[] = [{}];
  for (const { name, values } of sweeps) {
    points = points.flatMap((point) => values.map((value) => ({ ...point, [name]: value })));
  }
  return points;
}
