/** Planted bugs: each program has a twin in which the bug is mended. The first must fail as it should, the second must be proved clean. */
import { expect } from "vitest";
import {
  type CheckOptions,
  type CheckResult,
  check,
  type MemoryModel,
  type Program,
  parseSchedule,
  replay,
} from "../../../src/engine/index.ts";

export const MODELS: readonly MemoryModel[] = ["sc", "tso"];

const COLUMNS = 72;
const ACROSS_EXECUTIONS = ["lock-order", "irq-unsafe-lock"];

/** The bug is found as `property`, with a diagram that fits into a mail and a schedule that shows it again. */
export async function expectFound<S>(
  program: Program<S>,
  property: string,
  options: CheckOptions = {},
): Promise<CheckResult> {
  const result = await check(program, options);
  expect(result.verdict).toBe("fails");
  const failure = result.failures.find((one) => one.property === property);
  expect(result.failures.map((one) => one.property)).toContain(property);
  if (failure === undefined) return result;
  for (const line of failure.diagram.split("\n")) expect(line.length).toBeLessThanOrEqual(COLUMNS);
  // What lockdep would say rests on two orders, or uses, that need not be in one execution; a lasso goes on for ever.
  if (failure.cycleFrom !== undefined || ACROSS_EXECUTIONS.includes(property)) return result;
  const tasks = Object.keys(program.tasks).length + (program.spawns ?? 0);
  const again = replay(program, parseSchedule(failure.replay, tasks));
  expect(again.failures.map((one) => one.property)).toContain(property);
  return result;
}

/** The mended twin holds in every execution. */
export async function expectClean<S>(program: Program<S>, options: CheckOptions = {}): Promise<CheckResult> {
  const result = await check(program, options);
  expect(result).toMatchObject({ verdict: "holds", complete: true, failures: [] });
  return result;
}
