/** Exploring a program: the engine's front door. */
import { Execution, type MemoryModel } from "./execution.ts";
import { DporExplorer } from "./explore/dpor.ts";
import type { Program, Results } from "./program.ts";
import { GeneratorBody } from "./task.ts";
import { World } from "./world.ts";

/** Builds a program's world, with its tasks, not yet started. */
export function makeWorld<S>(program: Program<S>): { world: World; state: S } {
  const names = Object.keys(program.tasks);
  const world = new World({ ...program.memory, tasksMax: names.length + (program.spawns ?? 0) });
  const state = program.setup(world);
  for (const name of names) {
    const body = program.tasks[name] as (typeof program.tasks)[string];
    world.addTask(name, (task) => new GeneratorBody(body(state, task)), program.daemons?.includes(name) ?? false);
  }
  return { world, state };
}

/** Ends an execution: looks for tasks that wait for ever, and asks the program's final predicate. */
export function finish<S>(program: Program<S>, state: S, execution: Execution): "complete" | "stuck" {
  const { tasks } = execution.world;
  const waiting = tasks.filter((task) => task.started && !task.finished && !task.daemon);
  if (waiting.length > 0) {
    if (!program.mayBlock) {
      const what = waiting.map((task) => `${task.name} waits for ${execution.world.nameOf(task.op.addr)}`);
      execution.fail("deadlock", what.join("; "), (waiting[0] as (typeof waiting)[number]).lane);
    }
    return "stuck";
  }
  const results: Results = Object.fromEntries(tasks.map((task) => [task.name, task.value]));
  const verdict = program.final?.(state, results);
  if (verdict === false) execution.fail("final", "the final predicate is false", -1);
  else if (typeof verdict === "string") execution.fail("final", verdict, -1);
  return "complete";
}

export function count<S>(program: Program<S>, model: MemoryModel, onEnd?: (s: S, r: Results, e: Execution) => void): { executions: number; blocked: number; stuck: number; failures: string[] } {
  const { world, state } = makeWorld(program);
  const execution = new Execution(world, model, { pick: () => -1, choose: () => 0 });
  const explorer = new DporExplorer(execution);
  execution.start();
  let executions = 0;
  let blocked = 0;
  let stuck = 0;
  const failures = new Set<string>();
  explorer.explore({
    onExecution(e) {
      if (finish(program, state, e) === "stuck") stuck++;
      else executions++;
      for (const f of e.failures) failures.add(`${f.property}: ${f.message}`);
      onEnd?.(state, Object.fromEntries(world.tasks.map((t) => [t.name, t.value])), e);
      return true;
    },
    onBlocked() {
      blocked++;
    },
  });
  return { executions, blocked, stuck, failures: [...failures] };
}
