/** Numbers as a person reads them. */

/** A number with three digits that mean something. */
export function figure(value: number | null): string {
  if (value === null) return "-";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  if (Math.abs(value) < 1e6) return value.toFixed(digits);
  return value.toExponential(2);
}

const UNITS: readonly (readonly [number, string])[] = [
  [1e9, "s"],
  [1e6, "ms"],
  [1e3, "us"],
  [1, "ns"],
];

/** Nanoseconds in a unit that suits them. */
export function time(nanoseconds: number | null): string {
  if (nanoseconds === null) return "-";
  if (nanoseconds === 0) return "0";
  const [size, unit] = UNITS.find(([each]) => nanoseconds >= each) ?? [1, "ns"];
  return `${figure(Number((nanoseconds / size).toPrecision(3)))} ${unit}`;
}

/** Whether a metric of that name is a time, in nanoseconds. */
export function isTime(metric: string): boolean {
  return metric.endsWith(" ns");
}

/** The name of a metric without its unit, which the figures have. */
export function bareName(metric: string): string {
  return metric.replace(/ ns$/, "");
}

/** A metric's figure with its unit. */
export function measured(metric: string, value: number | null): string {
  return isTime(metric) ? time(value) : figure(value);
}
