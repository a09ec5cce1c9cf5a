/** The line that shows how far a check is. */
import type { RunProgress } from "../studies/run.ts";
import { count } from "./text.ts";

/** @param perSecond executions per second of this process */
export function progressLine(progress: RunProgress, perSecond: number): string {
  const { cells, cellsDone, executions, states, inWork } = progress;
  const parts = [`${cellsDone}/${cells} cells`, count(executions, "execution"), `${Math.round(perSecond)}/s`];
  if (states > 0) parts.push(count(states, "state"));
  if (inWork !== null) {
    const { done, expected } = inWork;
    parts.push(`${share(done / expected)} of about ${roughly(expected)}`);
    if (perSecond > 0) parts.push(`${duration((expected - done) / perSecond)} left`);
  }
  return parts.join("  ");
}

function share(part: number): string {
  return part < 0.1 ? `${(100 * part).toFixed(1)}%` : `${Math.floor(100 * part)}%`;
}

/** A number with the digits that an estimate deserves: 1234567 is "1.2 million". */
export function roughly(n: number): string {
  for (const [unit, name] of UNITS) {
    if (n >= unit)
      return `${(n / unit).toPrecision(2).replace(/^(\d+\.?\d*)e\+(\d+)$/, (all) => String(Number(all)))} ${name}`;
  }
  return String(n < 100 ? Math.round(n) : Number(n.toPrecision(2)));
}

const UNITS = [
  [1e12, "million million"],
  [1e9, "thousand million"],
  [1e6, "million"],
] as const;

/** "40 s", "12 min", "3.5 h", "9 days": for somebody who decides whether to wait. */
export function duration(seconds: number): string {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  if (seconds < 90 * 60) return `${Math.round(seconds / 60)} min`;
  if (seconds < 36 * 3600) return `${(seconds / 3600).toFixed(1)} h`;
  return `${Math.round(seconds / 86_400)} days`;
}
