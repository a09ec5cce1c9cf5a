import { describe, expect, test } from "vitest";
import { Gauge } from "./gauge.ts";

describe("a gauge", () => {
  test("keeps what it showed, and when", () => {
    const gauge = new Gauge();
    gauge.add(3, 500);
    gauge.add(-1, 800);
    gauge.add(4, 5_200);
    expect(gauge.now).toBe(6);
    expect(gauge.highest).toBe(6);
    expect(gauge.history()).toEqual([
      [0, 3],
      [1_000, 2],
      [5_000, 6],
      [6_000, 6],
    ]);
  });

  test("loses no peak when there are too many changes to keep", () => {
    const gauge = new Gauge();
    for (let i = 0; i < 100_000; i++) {
      gauge.add(1, i * 1_000);
      if (i === 70_000) gauge.add(1_000_000, i * 1_000);
      if (i === 70_000) gauge.add(-1_000_000, i * 1_000);
      if (i % 2 === 1) gauge.add(-2, i * 1_000);
    }
    const history = gauge.history();
    expect(history.length).toBeLessThanOrEqual(2 * 512);
    const peak = history.find(([, value]) => value > 1_000);
    expect(peak?.[1]).toBe(1_000_001);
    expect(Math.abs((peak?.[0] ?? 0) - 70_000_000)).toBeLessThan(300_000);
    expect(history.at(-1)?.[1]).toBe(gauge.now);
    for (const [i, [time]] of history.entries()) expect(time).toBeGreaterThanOrEqual(history[i - 1]?.[0] ?? 0);
  });
});
