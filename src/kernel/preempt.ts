/**
 * Preemption, and a CPU that several threads share.
 *
 * Each thread has a CPU of its own, so disabling preemption is mere book-keeping (current.ts), unless a scenario lets threads share one:
 *
 *     runOn()                the thread runs while it has the CPU, from here on to its end
 *     preemptionPoint()      a place where it may lose the CPU, and goes on when it gets it back; not while preemption is off
 *
 * The CPU is one word, 0 while nobody runs. Between two preemption points a thread is not preempted, and one that spins keeps the CPU: a scenario has a
 * point at one place at least of each stretch in which preemption matters. Stands for preempt_disable(), preempt_enable() of 6.12 and 7.2.
 */
import { acquire, type Cell, type Steps, store, type World } from "../engine/index.ts";
import { current } from "./current.ts";

const isFree = (value: number): boolean => value === 0;
const take = (): number => 1;

/** Runs `body` on the CPU given, in turns with the others that are there. */
export function* runOn<T>(world: World, cpu: Cell, body: Steps<T>): Steps<T> {
  current(world).sharedCpu = cpu;
  yield* acquire(cpu, isFree, take, "is scheduled");
  const value = yield* body;
  yield* store(cpu, 0, "schedule()");
  return value;
}

/** Whether the thread could be preempted now; most have a CPU of their own. */
export function mayBePreempted(world: World): boolean {
  const { sharedCpu, preemptCount } = current(world);
  return sharedCpu !== null && preemptCount === 0;
}

/** The thread may be preempted here. */
export function* preemptionPoint(world: World): Steps<void> {
  const { sharedCpu } = current(world);
  if (sharedCpu === null || !mayBePreempted(world)) return;
  yield* store(sharedCpu, 0, "is preempted");
  yield* acquire(sharedCpu, isFree, take, "is scheduled");
}

/** preempt_disable() */
export function preemptDisable(world: World): void {
  current(world).preemptOff();
}

/** preempt_enable() */
export function preemptEnable(world: World): void {
  current(world).preemptOn();
}
