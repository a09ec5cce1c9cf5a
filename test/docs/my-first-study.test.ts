import { check } from "racewalk";
import { expect, test } from "vitest";
import study from "../../examples/my-first-study.ts";

test.each(study.cells)("$variant under $model $expected", async ({ program, model, strategy, expected, property }) => {
  const { verdict, complete, failures } = await check(program(), { model, strategy });
  expect(complete).toBe(true);
  expect(verdict, failures[0]?.diagram).toBe(expected);
  if (expected === "fails") expect(failures.map((failure) => failure.property)).toContain(property);
});
