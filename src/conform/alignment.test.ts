import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { align } from "./alignment.ts";

/** The length of the longest common subsequence, by the textbook's table. */
function longest(left: readonly string[], right: readonly string[]): number {
  let row: number[] = Array.from({ length: right.length + 1 }, () => 0);
  for (const a of left) {
    const next = [0];
    right.forEach((b, j) => {
      next.push(a === b ? (row[j] as number) + 1 : Math.max(row[j + 1] as number, next[j] as number));
    });
    row = next;
  }
  return row[right.length] as number;
}

const letters = (text: string) => text.split("");
const same = (count: number) => Array.from({ length: count }, () => "same");

describe("align", () => {
  test.each([
    ["", "", 0],
    ["abc", "abc", 3],
    ["abc", "", 0],
    ["abcd", "abd", 3],
    ["abdc", "abcd", 3],
    ["xaybz", "ab", 2],
  ])("%s with %s matches %i", (left, right, expected) => {
    expect(align(letters(left), letters(right))).toHaveLength(expected);
  });

  test("matches as many as can be, in order", () => {
    const list = fc.array(fc.constantFrom("a", "b", "c", "d"), { maxLength: 30 });
    fc.assert(
      fc.property(list, list, (left, right) => {
        const matches = align(left, right);
        expect(matches).toHaveLength(longest(left, right));
        matches.forEach(([i, j], at) => {
          expect(left[i]).toBe(right[j]);
          const before = matches[at - 1];
          if (before !== undefined) expect(before[0] < i && before[1] < j).toBe(true);
        });
      }),
      { seed: 1, numRuns: 500 },
    );
  });

  test("stays fast where thousands of lines are equal", () => {
    const left = ["start", ...same(5000), "end", "tail"];
    const right = ["other", ...same(4000), "end", "rest"];
    expect(align(left, right)).toHaveLength(4001);
  });
});
