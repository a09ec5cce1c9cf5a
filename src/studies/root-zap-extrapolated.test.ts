/** What is said of roots of 5 levels that cannot be built, against roots of 5 levels that can: full of 4K pages, and as wide as one entry of a root. */
import { describe, expect, test } from "vitest";
import type { Figures } from "./measurement.ts";
import { withParameters } from "./measurement.ts";
import { measurement } from "./root-zap.measure.ts";
import { extrapolated } from "./root-zap-extrapolated.ts";

type Numbers = Readonly<Record<string, number>>;

const at = (variant: string, set: Numbers, costs: Numbers = {}): Figures =>
  measurement.run(variant, withParameters(measurement, set), costs).metrics;

const NOTIFIER_NS = 1_000_000;

interface Size {
  readonly level: number;
  /** GiB from which it is told. */
  readonly unit: number;
  readonly gib: number;
  readonly regions: number;
}

/** What is predicted for a root of 5 levels, and what a run says. */
function both(variant: string, { level, unit, gib, regions }: Size, costs: Numbers = {}) {
  const built = { levels: 5, level };
  const runs = {
    atOne: at(variant, { ...built, gib: unit }, costs),
    atTwo: at(variant, { ...built, gib: 2 * unit }, costs),
    atTwoApart: at(variant, { ...built, gib: 2 * unit, regions: 2 }, costs),
  };
  const told = extrapolated(runs, { onePass: variant === "Z1", unit, gib, regions, letsInNs: NOTIFIER_NS });
  const run = at(variant, { ...built, gib, regions }, costs);
  return { told: (name: string) => told[name] ?? Number.NaN, run: (name: string) => run[name] ?? Number.NaN };
}

/** Exactly as often, but for the entries at which the walk started again after it had let somebody in: a few each time. */
const COUNTS = ["tables", "visited", "visited again"];
/** To two thousandths: what somebody else has in his cache is fetched, whenever he comes. */
const TIMES = ["zap ns", "call ns", "CPU ns"];
const TOLERANCE = 0.002;
/** Of a step, which a fault meanwhile makes longer by some cache lines. */
const LINES_NS = 10_000;

const SIZES: readonly Size[] = [
  { level: 1, unit: 1 / 8, gib: 1 / 2, regions: 1 },
  { level: 1, unit: 1 / 8, gib: 1, regions: 8 },
  { level: 2, unit: 1, gib: 64, regions: 1 },
  { level: 2, unit: 1, gib: 64, regions: 32 },
  // Tables of level 3 under all 512 entries of one of level 4: the last step of 256 TiB.
  { level: 3, unit: 1, gib: 512, regions: 512 },
];

describe("from three small runs under a root of 5 levels", () => {
  // What two passes zap in one step is a GiB: of less than that nothing is told about more.
  const designs = ({ unit, regions }: Size) => (unit < 1 && regions === 1 ? ["Z1", "Z3"] : ["Z1", "Z2", "Z3"]);
  const cases = SIZES.flatMap((size) => designs(size).map((variant) => ({ variant, ...size })));

  test.for(cases)("$variant: $gib GiB of level $level in $regions parts", ({ variant, ...size }) => {
    const { told, run } = both(variant, size);
    for (const name of COUNTS) expect(Math.abs(told(name) - run(name)), name).toBeLessThanOrEqual(20);
    for (const name of TIMES) expect(Math.abs(told(name) / run(name) - 1), name).toBeLessThan(TOLERANCE);
    expect(Math.abs(told("last step ns") - run("last step ns"))).toBeLessThan(LINES_NS);
    expect(Math.abs(told("step ns") - run("step ns"))).toBeLessThan(LINES_NS);
    if (variant === "Z1") expect(Math.abs(told("stretch ns") / run("stretch ns") - 1)).toBeLessThan(TOLERANCE);
    else {
      // The section in which the longest step is: nobody knows how long before that the walk has let somebody in.
      const longest = Math.max(told("stretch ns"), NOTIFIER_NS + told("step ns"));
      expect(run("stretch ns")).toBeLessThan(longest * (1 + TOLERANCE));
      expect(run("stretch ns")).toBeGreaterThan(told("last step ns"));
    }
  });

  test("one pass keeps everybody waiting as long as the line says", () => {
    // Leaves that take a microsecond: each of these is longer than the shortest grace period.
    const slow = { "zap a leaf": 1_000 };
    const { told, run } = both("Z1", { level: 1, unit: 1 / 8, gib: 1, regions: 8 }, slow);
    for (const name of ["grace ns", "lock wait ns", "zap holds ns", "fault max ns", "preempt-off ns"]) {
      expect(Math.abs(told(name) / run(name) - 1), name).toBeLessThan(TOLERANCE);
    }
  });

  test("one pass over a full 5-level entry takes about an hour, two passes stay below 100 ms", () => {
    const full = 512 * 512;
    const [one, two] = [at("Z1", { gib: full }), at("Z2", { gib: full })];
    expect((one["stretch ns"] ?? 0) / 1e9).toBeCloseTo(3580, -2);
    expect(one["stalls"]).toBeGreaterThan(50);
    expect(two["stretch ns"]).toBeLessThan(100e6);
    expect(two["stalls"]).toBe(0);
  });

  test("more than an entry has is refused", () => {
    expect(() => at("Z1", { gib: 512 * 512 + 1 })).toThrow(/name no more than that/);
  });
});
