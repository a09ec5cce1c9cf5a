/** `racewalk measure`: virtual-time measurements of a study's designs. */
import { writeFileSync } from "node:fs";
import { UsageError } from "../engine/index.ts";
import { KVM_COSTS } from "../kvm/costs.ts";
import { measureJson, measureText } from "../report/measure-text.ts";
import { type Plot, plotsOf } from "../report/plot.ts";
import { plotText } from "../report/plot-text.ts";
import { type MeasureRequest, measureRows, type Sweep } from "../studies/measure-runs.ts";
import type { Measurement } from "../studies/measurement.ts";
import { builtInMeasurement } from "../studies/measurements.ts";
import { writeJson } from "./json.ts";
import type { Terminal } from "./terminal.ts";

export interface MeasureCommandOptions {
  readonly variant?: readonly string[];
  readonly set?: readonly string[];
  readonly sweep?: readonly string[];
  readonly cost?: readonly string[];
  readonly metric?: readonly string[];
  readonly plot?: true;
  /** Files that the plots are written to. */
  readonly svg?: string;
  readonly png?: string;
  readonly json?: true;
}

/** @returns 0 */
export async function measureCommand(
  study: string,
  options: MeasureCommandOptions,
  terminal: Terminal,
): Promise<number> {
  const measurement = await builtInMeasurement(study);
  const request: MeasureRequest = {
    variants: variantsOf(measurement, options.variant ?? []),
    settings: Object.fromEntries((options.set ?? []).map((text) => assignment("--set", text))),
    sweeps: (options.sweep ?? []).map(sweepOf),
    costs: costsOf(options.cost ?? []),
  };
  const metrics = metricsOf(measurement, options.metric ?? []);
  const swept = request.sweeps.map(({ name }) => name);
  const wantsPlots = options.plot || options.svg !== undefined || options.png !== undefined;
  if (wantsPlots) assertPlottable(measurement, request.sweeps, metrics);
  const rows = await measureRows(measurement, request, async (done, all, variant) => {
    terminal.progress(`${done}/${all}  ${variant}`);
    // Lets the progress line and ^C through between runs.
    await new Promise((resolve) => setImmediate(resolve));
  });
  terminal.progress(null);
  const plots = wantsPlots ? plotsOf(measurement, rows, swept, metrics) : [];
  if (wantsPlots && plots.length === 0) throw new UsageError(`${study}: nothing to plot: no figure has two points`);
  await writePlots(plots, options);
  if (options.json) writeJson(measureJson(study, rows), terminal);
  else {
    terminal.result(measureText(measurement, rows, swept, terminal.paint, metrics));
    if (options.plot) for (const plot of plots) terminal.result(`\n${plotText(plot, terminal.paint)}`);
  }
  return 0;
}

/** @throws UsageError when a file cannot be written */
async function writePlots(plots: readonly Plot[], { svg, png }: MeasureCommandOptions): Promise<void> {
  if (svg === undefined && png === undefined) return;
  // What draws is large, and seldom needed.
  const { plotsSvg } = await import("../report/plot-svg.ts");
  const drawn = plotsSvg(plots);
  if (svg !== undefined) write(svg, drawn);
  if (png === undefined) return;
  const { svgToPng } = await import("../report/plot-png.ts");
  write(png, await svgToPng(drawn));
}

function write(path: string, contents: string | Uint8Array): void {
  try {
    writeFileSync(path, contents);
  } catch (error) {
    const { code = "" } = error as NodeJS.ErrnoException;
    throw new UsageError(`${path}: the plots cannot be written (${code}); name a file that can`);
  }
}

/** Before anything is run, which may take a while. @throws UsageError when there is nothing to plot */
function assertPlottable({ study, series = {} }: Measurement, sweeps: readonly Sweep[], only: readonly string[]): void {
  if (sweeps.some(({ values }) => values.length > 1)) return;
  const names = Object.keys(series).filter((name) => only.length === 0 || only.includes(name));
  if (sweeps.length === 0 && names.length > 0) return;
  throw new UsageError(
    `${study}: nothing to plot in a single run; sweep a parameter over several values, as in --sweep vcpus=1,8,64`,
  );
}

function metricsOf({ study, metrics, series = {} }: Measurement, wanted: readonly string[]): readonly string[] {
  // In a table a time has its unit in its cells, and "p99" is what a reader sees of "p99 ns".
  const all = [...Object.keys(metrics), ...Object.keys(series)];
  return wanted.map((name) => {
    const found = all.find((each) => each === name || each === `${name} ns`);
    if (found !== undefined) return found;
    throw new UsageError(`--metric "${name}": not measured of ${study}; name one of ${all.join(", ")}`);
  });
}

function variantsOf(measurement: Measurement, wanted: readonly string[]): readonly string[] {
  const all = Object.keys(measurement.variants);
  const unknown = wanted.find((name) => !all.includes(name));
  if (unknown !== undefined) {
    throw new UsageError(`--variant ${unknown}: nothing is measured of it; name one of ${all.join(", ")}`);
  }
  return wanted.length > 0 ? all.filter((name) => wanted.includes(name)) : all;
}

function costsOf(texts: readonly string[]): Record<string, number> {
  const costs = Object.fromEntries(texts.map((text) => assignment("--cost", text)));
  const unknown = Object.keys(costs).find((name) => KVM_COSTS[name] === undefined);
  if (unknown === undefined) return costs;
  throw new UsageError(`--cost "${unknown}": no such cost; use one of ${Object.keys(KVM_COSTS).join(", ")}`);
}

/** `name=number` */
function assignment(option: string, text: string): [string, number] {
  const [, name, value] = /^(.+)=(-?\d+(?:\.\d+)?(?:e\d+)?)$/i.exec(text) ?? [];
  if (name === undefined) throw new UsageError(`${option} "${text}": must be NAME=NUMBER, as in vcpus=64`);
  return [name, Number(value)];
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
