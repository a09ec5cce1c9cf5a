/**
 * Preemption, and a CPU that several threads share.
 *
 * Each thread has a CPU of its own, so disabling preemption is mere book-keeping (current.ts), unless a scenario gives threads one CPU together:
 *
 *     shareCpu()             this thread runs on that CPU
 *     preempt_disable()      takes the CPU: the others do not run until preempt_enable()
 *     preemptionPoint()      a place where a thread with preemption on may lose the CPU: it goes on when the CPU is free
 *
 * One word, 0 while anybody may run. A thread with preemption on shares the CPU step by step and has to say so, at one place at least of each
 * stretch in which it matters; a thread that takes a spinlock there has to disable preemption itself, around it. Stands for preempt_disable(),
 * preempt_enable() of 6.12 and 7.2.
 */
import { acquire, awaitUntil, type Cell, type Steps, store, type World } from "../engine/index.ts";
import { current } from "./current.ts";

const isFree = (value: number): boolean => value === 0;
const take = (): number => 1;

/** From here on the running thread is on the CPU given, with the others that say so. */
export function shareCpu(world: World, cpu: Cell): void {
  current(world).sharedCpu = cpu;
}

/** preempt_disable() */
export function* preemptDisable(world: World): Steps<void> {
  const self = current(world);
  if (self.preemptOff() && self.sharedCpu !== null) {
    yield* acquire(self.sharedCpu, isFree, take, "preempt_disable()");
  }
}

/** preempt_enable() */
export function* preemptEnable(world: World): Steps<void> {
  const self = current(world);
  if (self.preemptOn() && self.sharedCpu !== null) yield* store(self.sharedCpu, 0, "preempt_enable()");
}

/** The thread may be preempted here. */
export function* preemptionPoint(world: World): Steps<void> {
  const { sharedCpu, preemptCount } = current(world);
  if (sharedCpu !== null && preemptCount === 0) yield* awaitUntil(sharedCpu, isFree, "preempted until the CPU is free");
}
