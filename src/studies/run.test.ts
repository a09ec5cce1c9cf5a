/** Runs of a study: the same for any number of workers, and for one that was interrupted and goes on. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { check } from "../engine/index.ts";
import type { SavedWork } from "./cell-work.ts";
import { type CellReport, planCells, type Selection } from "./cells.ts";
import { type LoadedStudy, loadStudy } from "./load.ts";
import { type Running, type RunOptions, runCells, type StudyRun } from "./run.ts";
import type { StudyCell } from "./study.ts";

const folder = mkdtempSync(join(tmpdir(), "racewalk-run-"));
let loaded: LoadedStudy;

/** Fails in one execution of many, holds under SC; spawns a task late; and a graph. */
const SOURCE = `
import { cell, program, study } from "racewalk";
import { cell as variable, choose, load, spawn, store } from "racewalk/engine";

const buffering = (size) => () => program({
  name: "sb",
  memory: { staticBytes: 16384, arenaBytes: 4096 },
  setup: (world) => ({ x: variable(world, "x"), y: variable(world, "y") }),
  tasks: {
    *left({ x, y }) { let sum = 0; for (let i = 1; i <= size; i++) { yield* store(x, i); sum += yield* load(y); } return sum; },
    *right({ x, y }) { let sum = 0; for (let i = 1; i <= size; i++) { yield* store(y, i); sum += yield* load(x); } return sum; },
  },
  final: (_cells, { left, right }) => left + right > 0,
});

const spawning = () => program({
  name: "spawning",
  spawns: 2,
  memory: { staticBytes: 16384, arenaBytes: 4096 },
  setup: (world) => ({ world, x: variable(world, "x") }),
  tasks: {
    *first({ world, x }) {
      for (let i = 1; i <= 4; i++) yield* store(x, i);
      if ((yield* choose(world, 2)) === 1) yield* spawn(world, "late", function* () { yield* store(x, 11); });
    },
    *second({ world, x }) {
      const seen = yield* load(x);
      for (let i = 0; i < 2; i++) yield* load(x);
      // By default first runs first: that this one does comes up when most is explored.
      if (seen === 0) yield* spawn(world, "later", function* () { yield* store(x, 12); });
    },
    *third({ x }) { yield* store(x, 20); },
  },
});

export default study({
  id: "runs", title: "t", source: "s",
  variants: { sb: "store buffering", spawn: "spawns late" },
  cells: [
    cell({ variant: "sb", scenario: "small", property: "final", expected: "holds", program: buffering(2) }),
    cell({ variant: "sb", property: "final", expected: "holds", program: buffering(5) }),
    cell({ variant: "sb", property: "final", expected: "fails", model: "tso", program: buffering(4) }),
    cell({ variant: "sb", property: "final", expected: "holds", strategy: "graph", program: buffering(3) }),
    cell({ variant: "spawn", property: "final", expected: "holds", program: spawning }),
  ],
});
`;

beforeAll(async () => {
  const file = join(folder, "runs.ts");
  writeFileSync(file, SOURCE);
  loaded = await loadStudy(file);
});
afterAll(() => rmSync(folder, { recursive: true }));

const SELECTION: Selection = { variants: [], model: null, strategy: null, bounds: {} };

function run(
  options: Partial<RunOptions> = {},
  selection: Partial<Selection> = {},
  watch?: (running: Running) => void,
): Promise<StudyRun> {
  const plan = planCells(loaded.study, { ...SELECTION, ...selection });
  const defaults = { workers: 1, allSteps: false, signal: new AbortController().signal, resume: null };
  return runCells(loaded, plan, { ...defaults, ...options }, watch);
}

/** Without what depends on the machine. */
function essence(cells: readonly CellReport[]): unknown {
  return cells.map((cell) => ({ ...cell, seconds: 0, estimate: null }));
}

test("any number of workers gives the same result", async () => {
  const runs: Running[] = [];
  const one = await run({}, {}, (running) => runs.push(running));
  expect(one.cells.map(({ ok, complete }) => ok && complete)).toEqual([true, true, true, true, true]);
  // Tasks that are spawned where the first job did not come must be numbered alike by all.
  expect(runs[0]?.save().map(({ alone }) => alone)).toEqual([false, false, false, false, true]);
  expect(one.cells.map(({ executions }) => executions).slice(0, 3)).toEqual([19, 8953, 4116]);
  const spawning = loaded.study.cells[4] as StudyCell;
  expect(one.cells[4]?.executions).toBe((await check(spawning.program())).executions);
  for (const workers of [2, 3]) expect(essence((await run({ workers })).cells)).toEqual(essence(one.cells));
});

test("a run that is interrupted at any time goes on from where it was", async () => {
  const undisturbed = await run();
  let saved: readonly SavedWork[] | null = null;
  let goneOn = 0;
  for (let at = 6; ; at += 6) {
    const controller = new AbortController();
    let running: Running | null = null;
    // Looked at after so many answers of workers: sooner or later in the run.
    let looks = 0;
    const timer = setInterval(() => {
      if (++looks >= at) controller.abort("interrupted");
    }, 30);
    const { cells, stopped } = await run({ workers: 2, signal: controller.signal, resume: saved }, {}, (started) => {
      running = started;
    });
    clearInterval(timer);
    if (stopped === null) {
      expect(essence(cells)).toEqual(essence(undisturbed.cells));
      break;
    }
    goneOn++;
    // As it comes back from a file.
    saved = JSON.parse(JSON.stringify((running as unknown as Running).save())) as readonly SavedWork[];
  }
  expect(goneOn).toBeGreaterThan(0);
});

test.each(["random", "pct"] as const)("samples are the same for any number of workers: %s", async (strategy) => {
  const selection = { strategy, bounds: { runs: 600, seed: 3 } } as const;
  const one = await run({}, selection);
  expect(essence((await run({ workers: 3 }, selection)).cells)).toEqual(essence(one.cells));
  const [small] = one.cells;
  expect(small).toMatchObject({ verdict: "unknown", ok: true, executions: 600 });
  if (strategy === "pct") {
    expect(small?.detection).toEqual({ depth: 3, lanes: 2, steps: 8, probability: 1 / (2 * 8 * 8) });
    expect(small?.message).toContain("1/(2*8^2)");
  } else {
    expect(small?.message).toContain("proves nothing");
  }
});

test("a bounded search that finds nothing says what it left out", async () => {
  const { cells } = await run({}, { variants: ["sb"], bounds: { preemptions: 0, taskSteps: 6 } });
  expect(cells[0]).toMatchObject({ verdict: "unknown", ok: true, complete: false, cutShort: 0 });
  expect(cells[0]?.message).toMatch(
    /^nothing failed within 0 preemptions; \d+ sub-trees that need more were left out$/,
  );
  expect(cells[1]?.cutShort).toBeGreaterThan(0);
  expect(cells[1]?.message).toContain("while no task made more than 6 steps");
  // Bounds say nothing of a state graph.
  expect(cells[3]).toMatchObject({ strategy: "graph", verdict: "holds", complete: true });
});
