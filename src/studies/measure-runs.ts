/** Runs of a measurement: each variant at each combination of parameters. */
import type { CostTable } from "../engine/index.ts";
import { type Measured, type Measurement, withParameters } from "./measurement.ts";

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

/** Every combination of the swept values. */
function combinations(sweeps: readonly Sweep[]): Record<string, number>[] {
  let points: Record<string, number>[] = [{}];
  for (const { name, values } of sweeps) {
    points = points.flatMap((point) => values.map((value) => ({ ...point, [name]: value })));
  }
  return points;
}
