import { expect, test } from "vitest";
import { type DiagramLine, foldLoops, foldRepeats } from "./diagram-loops.ts";

const line = (text: string, more: Partial<DiagramLine> = {}): DiagramLine => ({
  cpu: 0,
  heading: "f()",
  text,
  startsCycle: false,
  ...more,
});
const texts = (lines: readonly DiagramLine[]): string[] => foldLoops(lines).map(({ text }) => text);

test("a loop over entries is one line", () => {
  const entries = [0, 1, 2, 3].map((i) => line(`spte(l1 gfn 0 [${i}]) == 5`));
  expect(texts([line("a"), ...entries, line("b")])).toEqual(["a", "spte(l1 gfn 0 [0] to [3]) == 5", "b"]);
});

test("what differs in more than the index stays", () => {
  const lines = [line("t[0] == 1"), line("t[1] == 1"), line("t[2] == 2"), line("t[3] == 2"), line("t[4] == 2")];
  expect(texts(lines)).toEqual(["t[0] == 1", "t[1] == 1", "t[2] to [4] == 2"]);
});

test("two are no loop, and neither is what another CPU, another function or a cycle cuts", () => {
  const t = (i: number, more: Partial<DiagramLine> = {}) => line(`t[${i}]`, more);
  expect(texts([t(0), t(1)])).toHaveLength(2);
  expect(texts([t(0), t(1), t(2, { cpu: 1 }), t(3)])).toHaveLength(4);
  expect(texts([t(0), t(1), t(2, { heading: "g()" })])).toHaveLength(3);
  expect(texts([t(0), t(1), t(2, { startsCycle: true })])).toHaveLength(3);
  expect(texts([t(0), t(1), t(3)])).toHaveLength(3);
});

test("lines that come again and again are there once", () => {
  const said = (names: string): string[] =>
    foldRepeats(names.split("").map((name) => line(name))).map(({ text }) => text);
  expect(said("abbbbc")).toEqual(["a", "b", "(the same 3 times more)", "c"]);
  expect(said("xabcabcabcabcabcay")).toEqual(["x", "a", "b", "c", "(the last 3 lines 4 times more)", "a", "y"]);
  expect(said("ababab")).toHaveLength(6);
});

test("the head of a cycle is no repetition, and neither is what another CPU does", () => {
  const lines = (more: Partial<DiagramLine>): DiagramLine[] =>
    [0, 1, 2, 3, 4].map((i) => line("a", i === 2 ? more : {}));
  expect(foldRepeats(lines({ startsCycle: true }))).toHaveLength(5);
  expect(foldRepeats(lines({ cpu: 1 }))).toHaveLength(5);
  expect(foldRepeats(lines({}))).toHaveLength(2);
});
