/** `racewalk measure`: virtual-time measurements of a study's designs. */
import { UsageError } from "../engine/index.ts";
import { KVM_COSTS } from "../kvm/costs.ts";
import { type MeasureRow, measureJson, measureText } from "../report/measure-text.ts";
import { type Measurement, withParameters } from "../studies/measurement.ts";
import { builtInMeasurement } from "../studies/measurements.ts";
import { writeJson } from "./json.ts";
import type { Terminal } from "./terminal.ts";

export interface MeasureCommandOptions {
  readonly variant?: readonly string[];
  readonly set?: readonly string[];
  readonly sweep?: readonly string[];
  readonly cost?: readonly string[];
  readonly json?: true;
}

/** @returns 0 */
export async function measureCommand(
  study: string,
  options: MeasureCommandOptions,
  terminal: Terminal,
): Promise<number> {
  const measurement = await builtInMeasurement(study);
  const variants = variantsOf(measurement, options.variant ?? []);
  const settings = Object.fromEntries((options.set ?? []).map((text) => assignment("--set", text)));
  const sweeps = (options.sweep ?? []).map(sweepOf);
  const costs = Object.fromEntries((options.cost ?? []).map((text) => assignment("--cost", text)));
  const unknown = Object.keys(costs).find((name) => KVM_COSTS[name] === undefined);
  if (unknown !== undefined) {
    throw new UsageError(`--cost "${unknown}": no such cost; use one of ${Object.keys(KVM_COSTS).join(", ")}`);
  }
  const points = combinations(sweeps).map((point) => withParameters(measurement, { ...settings, ...point }));
  const rows: MeasureRow[] = [];
  for (const params of points) {
    for (const variant of variants) {
      terminal.progress(`${rows.length}/${points.length * variants.length}  ${variant}`);
      // Lets the progress line and ^C through between runs.
      await new Promise((done) => setImmediate(done));
      rows.push({ variant, params, metrics: measurement.run(variant, params, costs) });
    }
  }
  terminal.progress(null);
  if (options.json) writeJson(measureJson(study, rows), terminal);
  else {
    terminal.result(
      measureText(
        measurement,
        rows,
        sweeps.map(({ name }) => name),
        terminal.paint,
      ),
    );
  }
  return 0;
}

function variantsOf(measurement: Measurement, wanted: readonly string[]): readonly string[] {
  const all = Object.keys(measurement.variants);
  const unknown = wanted.find((name) => !all.includes(name));
  if (unknown !== undefined) {
    throw new UsageError(`--variant ${unknown}: nothing is measured of it; name one of ${all.join(", ")}`);
  }
  return wanted.length > 0 ? all.filter((name) => wanted.includes(name)) : all;
}

/** `name=number` */
function assignment(option: string, text: string): [string, number] {
  const [, name, value] = /^(.+)=(-?\d+(?:\.\d+)?(?:e\d+)?)$/i.exec(text) ?? [];
  if (name === undefined) throw new UsageError(`${option} "${text}": must be NAME=NUMBER, as in vcpus=64`);
  return [name, Number(value)];
}

interface Sweep {
  readonly name: string;
  readonly values: readonly number[];
}

/** `name=1,8,64` */
function sweepOf(text: string): Sweep {
  const [, name, list] = /^(\w+)=([\d.,e]+)$/i.exec(text) ?? [];
  const values = (list ?? "").split(",").map(Number);
  if (name === undefined || values.some((value) => !Number.isFinite(value))) {
    throw new UsageError(`--sweep "${text}": must be NAME=NUMBER,NUMBER,..., as in vcpus=1,8,64`);
  }
  return { name, values };
}

/** Every combination of the swept values. */
function combinations(sweeps: readonly Sweep[]): Record<string, number>[] {
  let points: Record<string, number>[] = [{}];
  for (const { name, values } of sweeps) {
    points = points.flatMap((point) => values.map((value) => ({ ...point, [name]: value })));
  }
  return points;
}
