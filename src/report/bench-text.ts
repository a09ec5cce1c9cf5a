/** What `racewalk bench` prints. */
export interface BenchRow {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  readonly peer: string | null;
  readonly peerValue: number | null;
  readonly ratio: number | null;
}

/** One line a row, in columns; it fits into 80 columns but for long names. */
export function benchText(rows: readonly BenchRow[]): string {
  return rows.map((row) => `${lineOf(row)}\n`).join("");
}

function lineOf({ name, value, unit, peer, peerValue, ratio }: BenchRow): string {
  const mine = `${name.padEnd(34)} ${String(value).padStart(9)} ${unit}`;
  if (peer === null) return mine;
  return `${mine.padEnd(58)} ${String(ratio)} x ${peer} (${String(peerValue)})`;
}
