/** What a simulation measures. Times in nanoseconds. */
import { createHistogram, type RecordableHistogram } from "node:perf_hooks";
import { Gauge } from "./gauge.ts";

export interface Stretch {
  count: number;
  total: number;
  longest: number;
  /** The task that had the longest. */
  by: string;
  /** How many there are of each length: an HDR histogram, exact to three digits. */
  readonly histogram: RecordableHistogram;
}

/** What is longer counts as this long: 39 hours. */
const LONGEST = 2 ** 47;

export function newStretch(): Stretch {
  return {
    count: 0,
    total: 0,
    longest: 0,
    by: "",
    histogram: createHistogram({ lowest: 1, highest: LONGEST, figures: 3 }),
  };
}

/** The length below which a share of the stretches lies, to three digits; null when there are none. */
export function percentileOf({ count, longest, histogram }: Stretch, share: number): number | null {
  return count === 0 ? null : Math.min(longest, histogram.percentile(100 * share));
}

export function addStretch(stretch: Stretch, duration: number, by: string): void {
  stretch.count++;
  stretch.total += duration;
  stretch.histogram.record(Math.min(LONGEST, Math.max(1, Math.round(duration))));
  if (duration <= stretch.longest) return;
  stretch.longest = duration;
  stretch.by = by;
}

export interface LockMetrics {
  readonly name: string;
  /** Waiting for it, when it could not be had at once. */
  readonly wait: Stretch;
  /** Held exclusively, and for read. */
  readonly hold: Stretch;
  readonly holdShared: Stretch;
  /** Waiting, and holding either way, by task, numbers left out: `vcpun` are all vCPUs. */
  readonly waitBy: Map<string, Stretch>;
  readonly holdBy: Map<string, Stretch>;
}

export function newLockMetrics(name: string): LockMetrics {
  return {
    name,
    wait: newStretch(),
    hold: newStretch(),
    holdShared: newStretch(),
    waitBy: new Map(),
    holdBy: new Map(),
  };
}

/** The name of a task or a place without its number. */
export function kindOf(name: string): string {
  return name.replace(/\d+/g, "n");
}

export interface Metrics {
  /** Sections by kind: `preempt-off`, `irqs-off`, `rcu`, `guest`, `grace period`. */
  readonly sections: Map<string, Stretch>;
  /** Locks by name, numbers left out. */
  readonly locks: Map<string, LockMetrics>;
  /** Waits that are no locks (interrupts, values), by what is waited for, numbers left out. */
  readonly waits: Map<string, Stretch>;
  /** What is counted up and down, by name. */
  readonly gauges: Map<string, Gauge>;
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

/** A gauge of the metrics, made when it is not there. */
export function gaugeOf({ gauges }: Metrics, name: string): Gauge {
  return entryOf(gauges, name, () => new Gauge());
}

/** The entry of a map, made when it is not there. */
export function entryOf<T>(map: Map<string, T>, key: string, make: () => T): T {
  const known = map.get(key);
  if (known !== undefined) return known;
  const made = make();
  map.set(key, made);
  return made;
}
