/** What the measurement of root-zap can do besides zapping one root of 4 levels. */
import { describe, expect, test } from "vitest";
import { withParameters } from "./measurement.ts";
import { measurement } from "./root-zap.measure.ts";

type Settings = Readonly<Record<string, number>>;

function measured(variant: string, set: Settings): (name: string) => number {
  const { metrics } = measurement.run(variant, withParameters(measurement, set), {});
  return (name) => metrics[name] ?? Number.NaN;
}

const between = (value: number, low: number, high: number): void => {
  expect(value).toBeGreaterThan(low);
  expect(value).toBeLessThan(high);
};

describe("Z4: workers zap", () => {
  test("the call returns at once, and the zap has the CPU time that it has in the call", () => {
    const [worker, caller] = [measured("Z4", { gib: 1 / 2 }), measured("Z2", { gib: 1 / 2 })];
    expect(caller("call ns")).toBe(caller("zap ns"));
    expect(caller("CPU ns")).toBe(caller("zap ns"));
    expect(worker("call ns")).toBeLessThan(10_000);
    between(worker("CPU ns") / caller("CPU ns"), 0.99, 1.01);
    between(worker("CPUs"), 0.99, 1.01);
  });

  test("two roots have two CPUs at a time, for half as long", () => {
    const [workers, caller] = [measured("Z4", { gib: 1 / 2, roots: 2 }), measured("Z2", { gib: 1 / 2, roots: 2 })];
    expect(caller("tables")).toBe(2 * 258);
    expect(workers("tables")).toBe(caller("tables"));
    expect(caller("CPUs")).toBe(1);
    between(workers("CPUs"), 1.98, 2.01);
    between(workers("zap ns") / caller("zap ns"), 0.49, 0.51);
    between(workers("CPU ns") / caller("CPU ns"), 0.99, 1.02);
  });
});

describe("Z7: a fault puts a page of 1G in the place of a GiB's tables", () => {
  test("the vCPU's fault is as long as Z2's longest section, and others wait for it", () => {
    const [fault, zap] = [measured("Z7", {}), measured("Z2", { gib: 1 })];
    expect(fault("backlog")).toBeGreaterThanOrEqual(513);
    between(fault("stretch ns") / zap("stretch ns"), 0.99, 1.01);
    between(fault("fault max ns"), fault("stretch ns"), fault("stretch ns") + 20_000);
    between(fault("lock wait ns") / fault("stretch ns"), 0.85, 1);
  });

  test("of 2M pages there is a table to replace, too; of 1G none", () => {
    between(measured("Z7", { level: 2 })("stretch ns"), 20_000, 40_000);
    expect(() => measured("Z7", { level: 3 })).toThrow(/no table that Z7 could replace/);
  });
});

describe("roots of 5 levels", () => {
  test.for(["Z1", "Z2", "Z3"])("%s: one table more, and the entries of it", (variant) => {
    const [four, five] = [measured(variant, { gib: 1 / 4 }), measured(variant, { gib: 1 / 4, levels: 5 })];
    expect(five("tables")).toBe(four("tables") + 1);
    between(five("stretch ns") / four("stretch ns"), 0.99, 1.01);
  });

  test("level by level: the passes after the first look at every entry above theirs again", () => {
    // A table of level 1 for each 2M; 16 entries of the root are all that 52 bits of address have. Nobody makes the walk start again.
    const five = measured("Z3", { gib: 1 / 8, levels: 5, notifier: 0, vcpus: 0 });
    const [root, upper] = [16, 512];
    expect(five("visited again")).toBe(root + upper + upper + upper + (root + upper + upper) + root);
    expect(five("visited") - five("visited again")).toBe(root + upper + upper + upper + 64 * 512);
  });
});

test.for([
  [{ levels: 6 }, /levels=6: roots have 4 or 5 levels/],
  [{ level: 4 }, /level=4/],
  [{ roots: 3 }, /roots=3/],
  [{ regions: 1.5 }, /regions=1.5: name a whole number/],
  [{ level: 2, gib: 1, regions: 2, apart: 513 / 1024 }, /begin with a page of level 2/],
  [{ gib: 1, regions: 3 }, /whole pages of level 1/],
  [{ gib: 4, regions: 2, apart: 1 }, /would overlap/],
  [{ gib: 600, regions: 2 }, /name no more than 512 GiB with it/],
  [{ gib: 4, regions: 4, apart: 2 ** 17 }, /a root of 4 levels maps 262144 GiB/],
] as const)("%j is refused", ([set, message]) => {
  expect(() => measured("Z1", set)).toThrow(message);
});
