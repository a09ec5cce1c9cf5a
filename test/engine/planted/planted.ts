/** Planted bugs: each program has a twin in which the bug is mended. The first must fail as it should, the second must be proved clean. */
import { expect } from "vitest";
import {
  type CheckFailure,
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

/** The bug is found as `property`, with diagrams that fit into a mail; and whatever is found is shown again by its schedule. */
export async function expectFound<S>(
  program: Program<S>,
  property: string,
  options: CheckOptions = {},
): Promise<CheckResult> {
  const result = await check(program, options);
  expect(result.verdict).toBe("fails");
  expect(result.failures.map((one) => one.property)).toContain(property);
  for (const failure of result.failures) {
    for (const line of failure.diagram.split("\n")) expect(line.length).toBeLessThanOrEqual(COLUMNS);
    expectReplays(program, failure);
  }
  return result;
}

/** The schedule shows the same failure again; that of a lasso can go round as often as one likes. */
function expectReplays<S>(program: Program<S>, { property, message, replay: text, cycleFrom }: CheckFailure): void {
  const tasks = Object.keys(program.tasks).length + (program.spawns ?? 0);
  const schedule = parseSchedule(text, tasks);
  if (cycleFrom === undefined) {
    const again = replay(program, schedule);
    expect(again.failures.map((one) => `${one.property}: ${one.message}`)).toContain(`${property}: ${message}`);
    return;
  }
  const cycle = schedule.steps.slice(cycleFrom);
  const rounds = replay(program, { ...schedule, steps: [...schedule.steps, ...cycle, ...cycle] });
  expect(rounds.execution.events.length).toBe(schedule.steps.length + 2 * cycle.length);
  expect(rounds.failures).toEqual([]);
}

/** The mended twin holds in every execution. */
export async function expectClean<S>(program: Program<S>, options: CheckOptions = {}): Promise<CheckResult> {
  const result = await check(program, options);
  expect(result).toMatchObject({ verdict: "holds", complete: true, failures: [] });
  return result;
}
