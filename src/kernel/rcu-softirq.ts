/**
 * How RCU gets through its callbacks when there is time: in softirqs of limited length, and when there are many, in ksoftirqd.
 *
 *     a softirq        at most 10 callbacks (blimit), or a 128th of those that wait (rcu_divisor), or 10000 from 10000 on (qhimark, max_rcu_blimit);
 *                      at most 3 ms (rcu_resched_ns), looked at every 32 callbacks
 *     one another      up to 10 times or 2 ms (MAX_SOFTIRQ_RESTART, MAX_SOFTIRQ_TIME); then ksoftirqd is woken, and goes on in turns with others
 *     a stall          is reported when a grace period has lasted 21 s (CONFIG_RCU_CPU_STALL_TIMEOUT), and again 66 s (3 * 21 + 3) after each report
 *
 * Stands for rcu_do_batch(), handle_softirqs() and print_cpu_stall() as far as they take time. Which callbacks are invoked, and in which order, does not depend
 * on it, so where there is no clock there are no batches.
 */
import type { Clock } from "../engine/index.ts";

const BLIMIT = 10;
const RCU_DIVISOR = 7;
const QHIMARK = 10_000;
const MAX_RCU_BLIMIT = 10_000;
const RCU_RESCHED_NS = 3e6;
const TIME_CHECKED_EVERY = 32;
const MAX_SOFTIRQ_RESTART = 10;
const MAX_SOFTIRQ_TIME = 2e6;

const STALL_TIMEOUT = 21e9;
const STALL_AGAIN = 3 * STALL_TIMEOUT + 3e9;

/** Callbacks that a softirq invokes at most when so many wait. */
export function batchLimit(waiting: number): number {
  if (waiting > QHIMARK) return MAX_RCU_BLIMIT;
  return Math.max(BLIMIT, waiting >> RCU_DIVISOR);
}

/** Reports of one grace period that has lasted so many nanoseconds. */
export function stallWarnings(duration: number): number {
  return duration < STALL_TIMEOUT ? 0 : 1 + Math.floor((duration - STALL_TIMEOUT) / STALL_AGAIN);
}

/** Splits the callbacks of one grace period into softirqs. */
export class CallbackBatches {
  private readonly clock: Clock;
  private waiting: number;
  private limit: number;
  private invoked = 0;
  private begun: number;
  private restarts = 0;
  private firstBegun: number;

  constructor(clock: Clock, callbacks: number) {
    this.clock = clock;
    this.waiting = callbacks;
    this.limit = batchLimit(callbacks);
    this.begun = clock.now;
    this.firstBegun = clock.now;
    clock.spend("raise a softirq");
    clock.enter("RCU softirq");
  }

  /** A callback was invoked: the softirq goes on, or another follows it. */
  callbackDone(): void {
    const { clock } = this;
    this.waiting--;
    this.invoked++;
    if (this.waiting === 0) {
      clock.leave("RCU softirq");
      return;
    }
    const isLate = this.invoked % TIME_CHECKED_EVERY === 0 && clock.now - this.begun >= RCU_RESCHED_NS;
    if (this.invoked < this.limit && !isLate) return;
    clock.leave("RCU softirq");
    this.restarts++;
    if (this.restarts >= MAX_SOFTIRQ_RESTART || clock.now - this.firstBegun >= MAX_SOFTIRQ_TIME) {
      clock.spend("wake ksoftirqd");
      this.restarts = 0;
      this.firstBegun = clock.now;
    } else clock.spend("raise a softirq");
    this.invoked = 0;
    this.limit = batchLimit(this.waiting);
    this.begun = clock.now;
    clock.enter("RCU softirq");
  }
}
