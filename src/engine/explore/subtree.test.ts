/** Trees that are cut into pieces anywhere, again and again, and put together by others: each execution graph is still found once. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { FLAVOURS, sizeFor } from "../../../test/engine/flavours.ts";
import { parseTiny, showTiny, type Tiny } from "../../../test/engine/tiny.ts";
import { tinyArb } from "../../../test/engine/tiny-arbitrary.ts";
import { tinyProgram } from "../../../test/engine/tiny-program.ts";
import { Execution, type MemoryModel } from "../execution.ts";
import { makeWorld } from "../program.ts";
import { Random } from "../random.ts";
import { graphOf } from "./brute.ts";
import { DporExplorer } from "./dpor.ts";
import { divide, readSubtree, type Subtree, WHOLE_TREE, writeSubtree } from "./subtree.ts";

const IDLE = { pick: () => -1, choose: () => 0 };

function explorerOf(tiny: Tiny, model: MemoryModel): { explorer: DporExplorer; execution: Execution } {
  const execution = new Execution(makeWorld(tinyProgram(tiny)).world, model, IDLE);
  execution.start();
  return { explorer: new DporExplorer(execution), execution };
}

/** The graphs of a part, in the order in which they are found; stopped after so many. */
function graphsOf(tiny: Tiny, model: MemoryModel, part: Subtree, max: number) {
  const { explorer, execution } = explorerOf(tiny, model);
  const graphs: string[] = [];
  explorer.resume(readSubtree(explorer, part));
  explorer.explore({
    onExecution: () => {
      graphs.push(graphOf(execution));
      return graphs.length < max;
    },
    onBlocked: () => undefined,
  });
  return { graphs, rest: explorer.rest ?? [] };
}

test.each(
  (["accesses", "waits", "rwlocks", "lifetimes"] as const).flatMap((kind) => [
    [kind, "sc"] as const,
    [kind, "tso"] as const,
  ]),
)("pieces of a tree are the tree: %s under %s", (kind, model) => {
  const flavour = FLAVOURS[kind];
  if (flavour === undefined) throw new Error(`no kind ${kind}`);
  const random = new Random(3);
  let pieces = 0;
  for (const tiny of fc.sample(tinyArb(sizeFor(flavour, model)), { numRuns: 40, seed: 7 })) {
    const whole = graphsOf(tiny, model, WHOLE_TREE, Number.POSITIVE_INFINITY).graphs;
    if (whole.length > 500) continue;
    const found: string[] = [];
    const open: Subtree[] = [WHOLE_TREE];
    for (let part = open.pop(); part !== undefined; part = open.pop()) {
      const { graphs, rest } = graphsOf(tiny, model, part, 1 + random.below(4));
      found.push(...graphs);
      // As it comes out of a file.
      for (const piece of divide(rest, 1 + random.below(3))) {
        open.push(JSON.parse(JSON.stringify(writeSubtree(piece))) as Subtree);
        pieces++;
      }
    }
    expect(found.sort(), showTiny(tiny)).toEqual(whole.sort());
  }
  expect(pieces).toBeGreaterThan(20);
});

test("a path that the program does not have is refused", () => {
  const tiny = parseTiny("x=1; r0=y || y=1; r0=x");
  const read = (part: Subtree): unknown => readSubtree(explorerOf(tiny, "sc").explorer, part);
  for (const part of [
    { turns: [], open: [[0, 99]] },
    {
      turns: [[99]],
      open: [
        [0, 0],
        [0, 1],
      ],
    },
    {
      turns: [[0, 1]],
      open: [
        [0, 0],
        [0, 7],
      ],
    },
    {
      turns: [],
      open: [
        [0, 1],
        [0, 1],
      ],
    },
    { turns: [], open: [[]] },
  ]) {
    expect(() => read(part), JSON.stringify(part)).toThrow(/written for another program/);
  }
});
