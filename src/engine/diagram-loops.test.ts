import { expect, test } from "vitest";
import { type DiagramLine, foldLoops } from "./diagram-loops.ts";

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
