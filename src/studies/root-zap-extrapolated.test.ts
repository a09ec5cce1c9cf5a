/** The straight line beyond what can be built, against runs at sizes that can. */
import { describe, expect, test } from "vitest";
import { withParameters } from "./measurement.ts";
import { measurement } from "./root-zap.measure.ts";
import { extrapolated } from "./root-zap-extrapolated.ts";

const at = (variant: string, gib: number, costs: Readonly<Record<string, number>> = {}) =>
  measurement.run(variant, withParameters(measurement, { gib }), costs).metrics;

const LAST = 4;

describe("from 1 GiB and 2 GiB", () => {
  test.for(["Z1", "Z2", "Z3"])("%s at 4 GiB is what a run says", (variant) => {
    const line = extrapolated(
      { atOne: at(variant, 1), atTwo: at(variant, 2), onePass: variant === "Z1", exchangeNs: 7 },
      LAST,
    );
    const run = at(variant, LAST);
    const told = Object.entries(line).filter(([, value]) => value !== null);
    expect(told.map(([name]) => name)).toEqual(expect.arrayContaining(["zap ns", "visited", "tables", "stretch ns"]));
    for (const [name, value] of told) {
      const actual = run[name] ?? 0;
      expect(Math.abs((value ?? 0) - actual), `${name}: ${value} against ${actual}`).toBeLessThanOrEqual(
        Math.max(0.005 * actual, 2_000),
      );
    }
  });

  test("one pass over a full 5-level entry takes about an hour, two passes stay below 100 ms", () => {
    const full = 512 * 512;
    const [one, two] = [at("Z1", full), at("Z2", full)];
    expect((one["stretch ns"] ?? 0) / 1e9).toBeCloseTo(3580, -2);
    expect(one["stalls"]).toBeGreaterThan(50);
    expect(two["stretch ns"]).toBeLessThan(100e6);
    expect(two["stalls"]).toBe(0);
  });

  test("more than an entry has is refused", () => {
    expect(() => at("Z1", 512 * 512 + 1)).toThrow(/name no more than that/);
  });
});
