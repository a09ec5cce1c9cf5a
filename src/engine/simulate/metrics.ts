/** What a simulation measures. Times in nanoseconds. */
export interface Stretch {
  count: number;
  total: number;
  longest: number;
  /** The task that had the longest. */
  by: string;
}

export function newStretch(): Stretch {
  return { count: 0, total: 0, longest: 0, by: "" };
}

export function addStretch(stretch: Stretch, duration: number, by: string): void {
  stretch.count++;
  stretch.total += duration;
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
  /** How often each cost was spent by name, in units of it. */
  readonly spent: Map<string, number>;
  /** Operations carried out. */
  operations: number;
  /** Virtual time at the end. */
  end: number;
}

export function newMetrics(): Metrics {
  return { sections: new Map(), locks: new Map(), waits: new Map(), spent: new Map(), operations: 0, end: 0 };
}

/** The entry of a map, made when it is not there. */
export function entryOf<T>(map: Map<string, T>, key: string, make: () => T): T {
  const known = map.get(key);
  if (known !== undefined) return known;
  const made = make();
  map.set(key, made);
  return made;
}
