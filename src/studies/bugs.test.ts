/** Bugs that Linux has fixed are found without their fixes, and absent with them; and their races can be run again. */
import { describe, expect, test } from "vitest";
import { check } from "../engine/index.ts";
import { builtInIds, builtInStudy } from "./registry.ts";
import { formatReplay, reproduce } from "./reproduce.ts";
import type { Study, StudyCell } from "./study.ts";

const WIDTH = 72;

async function explore(study: Study, { program, model, strategy, ...cell }: StudyCell): Promise<void> {
  const { variant, scenario, expected, property } = cell;
  const isFound = expected === "fails";
  let { verdict, complete, failures } = await check(program(), { model, strategy, stopAtFirst: isFound });
  if (isFound && failures.every((each) => each.property !== property)) {
    // It failed in another way first.
    ({ verdict, complete, failures } = await check(program(), { model, strategy }));
  }
  expect(verdict, failures[0]?.message).toBe(expected);
  if (expected === "holds") {
    expect(complete).toBe(true);
    return;
  }
  const failure = failures.find((each) => each.property === property);
  if (failure === undefined) throw new Error(`fails only in ${failures.map((each) => each.property).join(", ")}`);
  const longest = Math.max(...failure.diagram.split("\n").map((line) => line.length));
  expect(longest).toBeLessThanOrEqual(WIDTH);
  const schedule = `${scenario}:${formatReplay(failure.replay, failure.cycleFrom ?? null)}`;
  expect(reproduce(study, variant, schedule).failures.map((each) => each.property)).toContain(property);
}

const ids = builtInIds().filter((id) => id.startsWith("bugs-"));
const studies = await Promise.all(ids.map(builtInStudy));

for (const study of studies) {
  describe(study.id, () => {
    test.each(study.cells)("$variant, $scenario under $model: $expected", (each) => explore(study, each));
  });
}
