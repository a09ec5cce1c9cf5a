/**
 * dpor explores exactly as many executions as there are execution graphs, and gives none up.
 *
 * Only rows that take about a second; `node bench/dpor/run.ts` runs all.
 */
import { describe, expect, test } from "vitest";
import { title } from "../../bench/dpor/benchmark.ts";
import { BENCHMARKS } from "../../bench/dpor/benchmarks.ts";
import { walkzap } from "../../bench/dpor/walkzap.ts";
import { check, type MemoryModel } from "../../src/engine/index.ts";

const EXECUTIONS_MAX = 10_000;
const MODELS: readonly MemoryModel[] = ["sc", "tso"];

const rows = BENCHMARKS.flatMap((benchmark) =>
  benchmark.rows.flatMap(({ sizes, ...counts }) =>
    MODELS.map((model) => ({ benchmark, sizes, model, expected: counts[model], name: title(benchmark, sizes) })),
  ),
);

test.each(rows.filter(({ expected }) => expected <= EXECUTIONS_MAX))(
  "$name has $expected executions under $model",
  async ({ benchmark, sizes, model, expected }) => {
    const { executions, blocked, complete, failures } = await check(benchmark.make(...sizes), { model });
    expect({ executions, blocked, complete, failures }).toEqual({
      executions: expected,
      blocked: 0,
      complete: true,
      failures: [],
    });
  },
);

test.each(rows.filter(({ benchmark }) => benchmark.count !== undefined))(
  "$name: the closed form gives $expected under $model",
  ({ benchmark, sizes, model, expected }) => {
    expect(benchmark.count?.(model, ...sizes)).toBe(expected);
  },
);

describe("a lockless walk without its barrier", () => {
  const unfenced = walkzap({ pages: 1, walkers: 1, fenced: false });

  test("fails under TSO, with a diagram that names the late store", async () => {
    const start = performance.now();
    const { failures } = await check(unfenced, { model: "tso" });
    expect(performance.now() - start).toBeLessThan(1000);
    expect(failures.map((failure) => failure.property)).toEqual(["use-after-free"]);
    const { diagram } = failures[0] ?? { diagram: "" };
    expect(diagram.split("\n").length).toBeLessThanOrEqual(20);
    expect(diagram).toContain("vcpu->mode[0] = 3  (buffered)");
    expect(diagram).toContain("page0: freed");
  });

  test("holds under SC", async () => {
    expect(await check(unfenced, { model: "sc" })).toMatchObject({ verdict: "holds", complete: true, executions: 3 });
  });

  test("ten pages are explored in flat memory", async () => {
    const program = walkzap({ pages: 10, walkers: 1, fenced: true });
    const heapUsed: number[] = [];
    const result = await check(program, {
      model: "tso",
      shouldStop: () => {
        heapUsed.push(process.memoryUsage().heapUsed);
        return false;
      },
    });
    expect(result).toMatchObject({ verdict: "holds", complete: true, executions: 1025 });
    expect(Math.max(...heapUsed)).toBeLessThan(200 * 2 ** 20);
  });
});
