/** Preemption-bounded exploration against every interleaving: no execution graph within the bound may be lost. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { BENCHMARKS } from "../../../bench/dpor/benchmarks.ts";
import { FLAVOURS, sizeFor } from "../../../test/engine/flavours.ts";
import { parseTiny, showTiny, type Tiny } from "../../../test/engine/tiny.ts";
import { tinyArb } from "../../../test/engine/tiny-arbitrary.ts";
import { tinyProgram } from "../../../test/engine/tiny-program.ts";
import { check } from "../check.ts";
import { Execution, type MemoryModel } from "../execution.ts";
import { OpKind } from "../operation.ts";
import { makeWorld, type Program } from "../program.ts";
import { graphOf } from "./brute.ts";
import { DporExplorer } from "./dpor.ts";

const IDLE = { pick: () => -1, choose: () => 0 };

function start(tiny: Tiny, model: MemoryModel): Execution {
  const execution = new Execution(makeWorld(tinyProgram(tiny)).world, model, IDLE);
  execution.start();
  return execution;
}

/** By graph, the fewest preemptions of its interleavings; null when there are too many of these. */
function byInterleaving(tiny: Tiny, model: MemoryModel, limit: number): Map<string, number> | null {
  const execution = start(tiny, model);
  const { tasks, tasksMax } = execution.world;
  const fewest = new Map<string, number>();
  let ends = 0;
  let next = { lane: -1, choice: 0 };
  execution.scheduler = {
    pick: () => {
      const { lane } = next;
      next = { ...next, lane: -1 };
      return lane;
    },
    choose: () => next.choice,
  };
  const go = (current: number, preemptions: number): void => {
    if (ends > limit) return;
    const at = execution.events.length;
    const mayStay = current >= 0 && execution.isEnabled(current);
    const enabled = Array.from({ length: execution.lanes }, (_, lane) => lane).filter((l) => execution.isEnabled(l));
    for (const lane of enabled) {
      const op = tasks[lane]?.op;
      const outcomes = op?.kind === OpKind.Choose ? op.lo : 1;
      for (let choice = 0; choice < outcomes; choice++) {
        next = { lane, choice };
        execution.run();
        const isTask = lane < tasksMax;
        go(isTask ? lane : current, preemptions + (isTask && mayStay && lane !== current ? 1 : 0));
        execution.rollback(at);
      }
    }
    if (enabled.length > 0) return;
    ends++;
    const graph = graphOf(execution);
    fewest.set(graph, Math.min(preemptions, fewest.get(graph) ?? preemptions));
  };
  go(-1, 0);
  return ends > limit ? null : fewest;
}

function byBoundedDpor(tiny: Tiny, model: MemoryModel, max: number): { graphs: Set<string>; leftOut: number } {
  const execution = start(tiny, model);
  const explorer = new DporExplorer(execution);
  explorer.preemptionsMax = max;
  const graphs = new Set<string>();
  let leftOut = 0;
  explorer.explore({
    onExecution: () => {
      graphs.add(graphOf(execution));
      return true;
    },
    onBlocked: () => undefined,
    onCut: () => {
      leftOut++;
    },
  });
  return { graphs, leftOut };
}

test.each(
  (["accesses", "waits", "locks", "rwlocks", "lifetimes"] as const).flatMap((kind) => [
    [kind, "sc"] as const,
    [kind, "tso"] as const,
  ]),
)("no graph within the bound is lost: %s under %s", (kind, model) => {
  const flavour = FLAVOURS[kind];
  if (flavour === undefined) throw new Error(`no kind ${kind}`);
  for (const tiny of fc.sample(tinyArb(sizeFor(flavour, model)), { numRuns: 40, seed: 11 })) {
    const all = byInterleaving(tiny, model, 1_000);
    if (all === null) continue;
    for (const max of [0, 1, 2]) {
      const { graphs, leftOut } = byBoundedDpor(tiny, model, max);
      const lost = [...all].filter(([graph, fewest]) => fewest <= max && !graphs.has(graph));
      expect(lost, `${showTiny(tiny)}, ${max} preemptions`).toEqual([]);
      expect(leftOut > 0 || graphs.size === all.size, showTiny(tiny)).toBe(true);
    }
  }
});

test.each([
  [0, 91],
  [1, 406],
  [2, 1351],
  [99, 8953],
])("with %d preemptions mp(5) has %d executions", async (preemptions, executions) => {
  const mp = BENCHMARKS.find(({ name }) => name === "mp");
  expect(await check(mp?.make(5) as Program, { preemptions })).toMatchObject({ executions });
});

test("what is left out makes the result incomplete, and a failure within the bound is a failure", async () => {
  const program = tinyProgram(parseTiny("x=1; x=2; x=3 || r0=x; r1=x; r2=x || r0=x; y=r0"));
  const whole = await check(program);
  const bounded = await check(program, { preemptions: 0 });
  expect(whole).toMatchObject({ verdict: "holds", complete: true, leftOut: 0 });
  expect(bounded).toMatchObject({ verdict: "unknown", complete: false });
  expect(bounded.executions).toBeLessThan(whole.executions);
  expect(bounded.leftOut).toBeGreaterThan(0);
  const generous = await check(program, { preemptions: 9 });
  expect(generous).toMatchObject({ verdict: "holds", complete: true, executions: whole.executions });
});
