/** Something that is counted up and down, and how it went over time. */

/** A moment in virtual time, in nanoseconds, and what the gauge showed. */
export type GaugePoint = readonly [time: number, value: number];

/** Stretches of time that are kept apart. With more, two become one. */
const STRETCHES_MAX = 512;
const NARROWEST = 1_000;

export class Gauge {
  now = 0;
  highest = 0;
  /** How long a kept stretch of time is, in nanoseconds. */
  private width = NARROWEST;
  /** The highest value of each stretch in which there was a change, and the last one, in the order of time. */
  private stretches: { number: number; highest: number; last: number }[] = [];

  add(delta: number, time: number): void {
    const before = this.now;
    this.now += delta;
    this.highest = Math.max(this.highest, this.now);
    const number = Math.floor(time / this.width);
    const current = this.stretches.at(-1);
    // Virtual time is that of the task that counts: it may lie a little before that of another.
    if (current !== undefined && current.number >= number) {
      current.highest = Math.max(current.highest, this.now);
      current.last = this.now;
      return;
    }
    this.stretches.push({ number, highest: Math.max(before, this.now), last: this.now });
    if (this.stretches.length > STRETCHES_MAX) this.widen();
  }

  private widen(): void {
    this.width *= 2;
    const kept: typeof this.stretches = [];
    for (const { number, highest, last } of this.stretches) {
      const half = Math.floor(number / 2);
      const previous = kept.at(-1);
      if (previous?.number !== half) kept.push({ number: half, highest, last });
      else {
        previous.highest = Math.max(previous.highest, highest);
        previous.last = last;
      }
    }
    this.stretches = kept;
  }

  /** How it went: for each stretch of time in which there was a change, its highest value at its beginning and its last one at its end. */
  history(): readonly GaugePoint[] {
    const points = this.stretches.flatMap(({ number, highest, last }): GaugePoint[] => [
      [number * this.width, highest],
      [(number + 1) * this.width, last],
    ]);
    return (points[0]?.[0] ?? 0) > 0 ? [[0, 0], ...points] : points;
  }
}
