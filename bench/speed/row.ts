/** What a measurement says, and how it is held against others'. */
export interface Row {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  /** The tool that the value is held against; null when there is none. */
  readonly peer: string | null;
  /** The peer's figure, in the same unit. */
  readonly peerValue: number | null;
  /** The value as a multiple of the peer's. */
  readonly ratio: number | null;
}

export function rowOf(name: string, value: number, unit: string): Row {
  return { name, value: tidy(value), unit, peer: null, peerValue: null, ratio: null };
}

/** One row for each peer; one without when there is none. */
export function rowsAgainst(
  name: string,
  value: number,
  unit: string,
  peers: Readonly<Record<string, number | null>>,
): Row[] {
  const known = Object.entries(peers).flatMap(([peer, peerValue]) => (peerValue === null ? [] : [{ peer, peerValue }]));
  const row = rowOf(name, value, unit);
  if (known.length === 0) return [row];
  return known.map(({ peer, peerValue }) => ({
    ...row,
    peer,
    peerValue: tidy(peerValue),
    ratio: tidy(value / peerValue),
  }));
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  const upper = sorted[half] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[half - 1] ?? upper) + upper) / 2;
}

export function geometricMean(values: readonly number[]): number {
  return Math.exp(values.reduce((sum, value) => sum + Math.log(value), 0) / values.length);
}

/** Digits beyond these are noise. */
function tidy(value: number): number {
  return value >= 1000 ? Math.round(value) : Number(value.toPrecision(3));
}
