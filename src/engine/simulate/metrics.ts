/** What a simulation measures. Times in nanoseconds. */
export interface Stretch {
  count: number;
  total: number;
  longest: number;
  /** The task that had the longest. */
  by: string;
  /** How many there are of each length: sixteen classes for each doubling, so a class is 4.4 % wide. */
  readonly histogram: Map<number, number>;
}

const CLASSES = 16;

export function newStretch(): Stretch {
  return { count: 0, total: 0, longest: 0, by: "", histogram: new Map() };
}

/** The length below which a share of the stretches lies, to 5 %; null when there are none. */
export function percentileOf({ count, longest, histogram }: Stretch, share: number): number | null {
  if (count === 0) return null;
  let left = share * count;
  for (const [bin, number] of [...histogram].sort(([a], [b]) => a - b)) {
    left -= number;
    if (left <= 0) return Math.min(longest, 2 ** ((bin + 1) / CLASSES));
  }
  return longest;
}

export function addStretch(stretch: Stretch, duration: number, by: string): void {
  stretch.count++;
  stretch.total += duration;
  const bin = Math.floor(Math.log2(Math.max(1, duration)) * CLASSES);
  stretch.histogram.set(bin, (stretch.histogram.get(bin) ?? 0) + 1);
  if (duration <= stretch.longest) return;
  stretch.longest = duration;
  stretch.by = by;
}

export interface LockMetrics {
  readonly name: string;
  /** Waiting for it, when it could not be had at once. */
  readonly wait: Stretch;
  /** Held exclusively. */
  readonly hold: Stretch;
}

export interface Metrics {
  /** Sections by kind: `preempt-off`, `rcu`, `irqs-off`. */
  readonly sections: Map<string, Stretch>;
  /** Locks by name. */
  readonly locks: Map<string, LockMetrics>;
  /** Waits that are no locks (grace periods, interrupts), by what is waited for, numbers left out. */
  readonly waits: Map<string, Stretch>;
  /** What is counted up and down, by name. */
  readonly gauges: Map<string, { now: number; highest: number }>;
  /** How often each cost was spent by name, in units of it. */
  readonly spent: Map<string, number>;
  /** Operations carried out. */
  operations: number;
  /** Virtual time at the end. */
  end: number;
}

export function newMetrics(): Metrics {
  return {
    sections: new Map(),
    locks: new Map(),
    waits: new Map(),
    gauges: new Map(),
    spent: new Map(),
    operations: 0,
    end: 0,
  };
}

/** The entry of a map, made when it is not there. */
export function entryOf<T>(map: Map<string, T>, key: string, make: () => T): T {
  const known = map.get(key);
  if (known !== undefined) return known;
  const made = make();
  map.set(key, made);
  return made;
}
