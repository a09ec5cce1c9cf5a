/**
 * How many stretches of time there are of each length: an HDR histogram.
 *
 * Lengths below 2048 ns are kept as they are. Of longer ones the eleven leading bits are kept, so that each is exact to three digits:
 *
 *     row 0, 1    0 ... 2047, one by one
 *     row 2       2048 ... 4095, in steps of 2
 *     row n       1024 * 2^(n-1) ... 1024 * 2^n - 1, in steps of 2^(n-1)
 *
 * A row has 1024 counts, and is made when the first length falls into it.
 */
const ROW = 1024;
const KEPT_BITS = 11;

/** What is longer counts as this long: 39 hours. */
const LONGEST = 2 ** 47;

export class Histogram {
  private readonly rows: (Uint32Array | undefined)[] = [];
  private total = 0;

  /** @param ns a length in nanoseconds, which is rounded; what is shorter than one counts as one */
  record(ns: number): void {
    const value = Math.min(LONGEST, Math.max(1, Math.round(ns)));
    this.total++;
    // How many of its low bits are not kept.
    const shift = Math.max(0, bitsOf(value) - KEPT_BITS);
    const kept = shift === 0 ? value : Math.floor(value / 2 ** shift);
    const number = kept < ROW ? 0 : shift + 1;
    let row = this.rows[number];
    if (row === undefined) {
      row = new Uint32Array(ROW);
      this.rows[number] = row;
    }
    row[kept & (ROW - 1)] = (row[kept & (ROW - 1)] as number) + 1;
  }

  /** The longest of those that are not to be told apart from the one below which a share (0 to 1) of all lies; 0 when there are none. */
  valueAt(share: number): number {
    const wanted = Math.max(1, Math.floor(share * this.total + 0.5));
    let passed = 0;
    for (const [number, row] of this.rows.entries()) {
      if (row === undefined) continue;
      for (let i = 0; i < ROW; i++) {
        passed += row[i] as number;
        if (passed >= wanted) return highestIn(number, i);
      }
    }
    return 0;
  }
}

function highestIn(row: number, index: number): number {
  if (row === 0) return index;
  const step = 2 ** (row - 1);
  return (ROW + index + 1) * step - 1;
}

function bitsOf(value: number): number {
  return value < 2 ** 32 ? 32 - Math.clz32(value) : 64 - Math.clz32(value / 2 ** 32);
}
