/** Figures of a measurement for a report: those that the measurement itself thinks worth one, each with the command that draws it again. */
import { measureRows, presetRequest } from "../studies/measure-runs.ts";
import type { Measurement } from "../studies/measurement.ts";
import { plotsOf } from "./plot.ts";
import { plotsSvg } from "./plot-svg.ts";
import { shellWord } from "./text.ts";

export interface MeasuredFigure {
  /** What it shows: "with the memory that is mapped". */
  readonly what: string;
  readonly command: string;
  readonly svg: string;
}

/** @param onRun called before each run; what it returns is waited for */
export async function measuredFigures(
  measurement: Measurement,
  onRun: (variant: string) => Promise<void>,
): Promise<MeasuredFigure[]> {
  const figures: MeasuredFigure[] = [];
  for (const preset of measurement.presets) {
    const { request, words } = presetRequest(measurement, preset);
    const rows = await measureRows(measurement, request, (_done, _all, variant) => onRun(variant));
    const swept = request.sweeps.map(({ name }) => name);
    const plots = plotsOf(measurement, rows, swept, preset.plots ?? []);
    figures.push({ what: preset.what, command: words.map(shellWord).join(" "), svg: plotsSvg(plots, null) });
  }
  return figures;
}
