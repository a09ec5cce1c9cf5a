import { describe, expect, test } from "vitest";
import { makeWorld, program, Simulator, type Steps } from "../engine/index.ts";
import { callRcu, Kernel, kthread, rcuReadLock, rcuReadUnlock, rcuThread } from "./index.ts";
import { batchLimit, stallWarnings } from "./rcu-softirq.ts";

const COSTS = {
  "RCU grace period": 1e6,
  "raise a softirq": 100,
  "wake ksoftirqd": 5_000,
  "free a table": 200,
  work: 1,
};

/** One thread queues callbacks; a reader has a section of that length, which began before. */
function simulate(callbacks: number, section: number) {
  const { world, state } = makeWorld(
    program({
      name: "callbacks",
      setup: (w) => {
        const kernel = new Kernel(w);
        const invoked: number[] = [];
        const handler = kernel.rcu.register(function* (object): Steps<void> {
          invoked.push(object);
        });
        return { world: w, rcu: kernel.rcu, invoked, handler };
      },
      tasks: {
        reader: ({ world: w, rcu }) =>
          kthread(
            w,
            (function* (): Steps<void> {
              yield* rcuReadLock(rcu);
              w.clock?.spend("work", section);
              yield* rcuReadUnlock(rcu);
              // Until all is freed.
              w.clock?.spend("work", 1e9);
              yield* rcuReadLock(rcu);
              yield* rcuReadUnlock(rcu);
            })(),
          ),
        updater: ({ world: w, rcu, handler }) =>
          kthread(
            w,
            (function* (): Steps<void> {
              w.clock?.spend("work", 1000);
              for (let i = 1; i <= callbacks; i++) yield* callRcu(rcu, i, handler);
            })(),
          ),
        rcu: ({ rcu }) => rcuThread(rcu),
      },
      daemons: ["rcu"],
      memory: { arenaBytes: 2 ** 21 },
    }),
  );
  const metrics = new Simulator(world, { costs: COSTS }).run();
  return { metrics, invoked: state.invoked };
}

describe("RCU's callbacks in virtual time", () => {
  test("are invoked in softirqs of limited length", () => {
    const { metrics, invoked } = simulate(1_001, 10);
    expect([...invoked].sort((a, b) => a - b)).toEqual(Array.from({ length: 1_001 }, (_, i) => i + 1));
    // The first callback has a grace period of its own; the 1000 others come ten at a time.
    const softirqs = metrics.sections.get("RCU softirq");
    expect(softirqs?.count).toBe(1 + 100);
    expect(softirqs?.longest).toBeLessThan(10 * 200 + 500);
    expect(metrics.spent.get("wake ksoftirqd")).toBe(9);
    expect(metrics.gauges.get("RCU callbacks")).toMatchObject({ highest: 1_001, now: 0 });
  });

  test("come in larger batches when there are many", () => {
    expect(batchLimit(5)).toBe(10);
    expect(batchLimit(5_000)).toBe(39);
    expect(batchLimit(10_001)).toBe(10_000);
  });

  test("wait for the section that was there before them, and say so after 21 s", () => {
    const short = simulate(1, 20e9).metrics;
    expect(short.sections.get("grace period")?.longest).toBeGreaterThan(19e9);
    expect(short.gauges.get("RCU stall warnings")?.highest).toBe(0);
    expect(simulate(1, 22e9).metrics.gauges.get("RCU stall warnings")?.highest).toBe(1);
    expect(stallWarnings(88e9)).toBe(2);
  });
});
