import { expect, test } from "vitest";
import { duration, progressLine, roughly } from "./progress-text.ts";

test("the progress line", () => {
  const progress = { cells: 3, cellsDone: 1, executions: 12_345, states: 0, inWork: null };
  expect(progressLine(progress, 4_000.4)).toBe("1/3 cells  12345 executions  4000/s");
  expect(progressLine({ ...progress, states: 7, inWork: { done: 2_345, expected: 1_234_567 } }, 4_000)).toBe(
    "1/3 cells  12345 executions  4000/s  7 states  0.2% of about 1.2 million  5 min left",
  );
  expect(progressLine({ ...progress, inWork: { done: 50, expected: 100 } }, 0)).toBe(
    "1/3 cells  12345 executions  0/s  50% of about 100",
  );
});

test.each([
  [0, "0"],
  [73, "73"],
  [12_345, "12000"],
  [999_999, "1000000"],
  [1_234_567, "1.2 million"],
  [362_880_000, "360 million"],
  [5e9, "5.0 thousand million"],
  [7e15, "7000 million million"],
])("%d is about %s", (n, text) => {
  expect(roughly(n)).toBe(text);
});

test.each([
  [0.2, "1 s"],
  [89, "89 s"],
  [600, "10 min"],
  [7_200, "2.0 h"],
  [864_000, "10 days"],
])("%d seconds are %s", (seconds, text) => {
  expect(duration(seconds)).toBe(text);
});
