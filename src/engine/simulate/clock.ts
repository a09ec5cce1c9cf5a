/**
 * The clock of a simulated world, as modelled code sees it.
 *
 * Where no clock runs (exploring, following a recording) `world.clock` is null and nothing here costs anything:
 *
 *     world.clock?.spend("zap a leaf");            time passes that no operation stands for
 *     world.clock?.enter("preempt-off");           a stretch that is to be measured begins
 *     if (world.clock?.needsResched()) ...
 */
export interface Clock {
  /** Virtual time of the running task, in nanoseconds. */
  readonly now: number;
  /** There are several tasks: one that runs may have to let another go first, at any operation. */
  readonly takesTurns: boolean;
  /** The running task is busy for `units` times the cost of `what` (cost-table.ts). */
  spend(what: string, units?: number): void;
  /** The running task enters a section of that kind (not nested in itself). */
  enter(section: string): void;
  leave(section: string): void;
  /** Counts something up or down: callbacks that wait, pages in use. */
  gauge(name: string, delta: number): void;
  /** need_resched(): the running task has had the CPU for a whole time slice. */
  needsResched(): boolean;
  /** The running task lets others have the CPU: its time slice begins anew. */
  rescheduled(): void;
  /** spin_is_contended(), rwlock_is_contended(): somebody waits for the lock at `addr`. */
  isContended(addr: number): boolean;
}
