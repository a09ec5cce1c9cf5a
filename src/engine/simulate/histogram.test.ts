/** The histogram counts as Node's own HDR histogram does, which is in C. */
import { createHistogram } from "node:perf_hooks";
import fc from "fast-check";
import { expect, test } from "vitest";
import { Histogram } from "./histogram.ts";

const lengthArb = fc.oneof(
  fc.integer({ min: 1, max: 5000 }),
  fc.integer({ min: 1, max: 2 ** 31 }),
  fc.maxSafeInteger().map((value) => 1 + (Math.abs(value) % 2 ** 47)),
  fc
    .integer({ min: 0, max: 46 })
    .chain((bits) => fc.constantFrom(2 ** bits, Math.max(1, 2 ** bits - 1), 2 ** bits + 1)),
);

test("says what Node's histogram says", () => {
  fc.assert(
    fc.property(fc.array(lengthArb, { minLength: 1, maxLength: 300 }), (lengths) => {
      const own = new Histogram();
      const nodes = createHistogram({ lowest: 1, highest: 2 ** 47, figures: 3 });
      for (const length of lengths) {
        own.record(length);
        nodes.record(length);
      }
      for (const share of [0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 1]) {
        expect(own.valueAt(share)).toBe(nodes.percentile(100 * share));
      }
    }),
  );
});

test("is exact to three digits, rounds, and has a shortest and a longest length", () => {
  const only = (ns: number): number => {
    const histogram = new Histogram();
    histogram.record(ns);
    return histogram.valueAt(0.5);
  };
  expect(only(1_234_567) / 1_234_567 - 1).toBeLessThan(0.001);
  expect([only(0), only(17.5), only(2047), only(2048)]).toEqual([1, 18, 2047, 2049]);
  expect(only(1e300)).toBeGreaterThanOrEqual(2 ** 47);
  expect(new Histogram().valueAt(0.5)).toBe(0);
});
