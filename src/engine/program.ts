/**
 * What is explored: the one contract between those who write programs and those who explore them.
 *
 * A program sets up shared state once, names its tasks, and says what must hold. A task is a generator that asks for operations;
 * it may keep what it likes in its own locals, but whatever it shares lives in the world's heap. A property fails when a task
 * throws a Violation (`assertThat`), when `final` objects, or when the engine finds one of the errors that it looks for unasked.
 */
import { Violation } from "./assert.ts";
import type { Execution } from "./execution.ts";
import type { Steps } from "./operation.ts";
import { GeneratorBody, type Task } from "./task.ts";
import { World, type WorldOptions } from "./world.ts";

/** What the tasks returned, by name. */
export type Results = Readonly<Record<string, unknown>>;

/** A task's code. (Declared as a method, so that a program of some state is also a program of unknown state.) */
export type TaskCode<S> = { code(state: S, task: Task): Steps<unknown> }["code"];

export interface Program<S = unknown> {
  readonly name: string;
  /** Makes the shared state. Runs once; what it allocates and writes is the initial state. */
  setup(world: World): S;
  /** The tasks, by name, in the order of their lanes. */
  readonly tasks: Readonly<Record<string, TaskCode<S>>>;
  /** Tasks that serve the others and need not end. */
  readonly daemons?: readonly string[];
  /** How many tasks may be spawned in all. */
  readonly spawns?: number;
  /** Sees the end of each complete execution: false, or a message, is a failure of the property "final". */
  final?(state: S, results: Results): boolean | string | undefined;
  /** True when tasks that wait for ever are no error: their executions are then counted as blocked, not as failures. */
  readonly mayBlock?: boolean;
  readonly memory?: Pick<WorldOptions, "staticBytes" | "arenaBytes">;
}

/** Fails the execution when `condition` is false. */
export function assertThat(condition: boolean, message: string, property = "assertion"): asserts condition {
  if (!condition) throw new Violation(property, message);
}

/** Helps TypeScript infer the type of the state. */
export function program<S>(definition: Program<S>): Program<S> {
  return definition;
}

/** Builds a program's world, with its tasks, not yet started. */
export function makeWorld<S>(program: Program<S>): { world: World; state: S } {
  const names = Object.keys(program.tasks);
  const world = new World({ ...program.memory, tasksMax: names.length + (program.spawns ?? 0) });
  const state = program.setup(world);
  for (const name of names) {
    const body = program.tasks[name] as TaskCode<S>;
    world.addTask(name, (task) => new GeneratorBody(body(state, task)), program.daemons?.includes(name) ?? false);
  }
  return { world, state };
}

/** What came of an execution that can go no further. */
export type Outcome = "complete" | "waiting" | "stopped";

/** Ends an execution: looks for tasks that wait for ever, and asks the program's final predicate. */
export function finish<S>(program: Program<S>, state: S, execution: Execution): Outcome {
  const { tasks } = execution.world;
  if (tasks.some((task) => execution.isStopped(task))) return "stopped";
  const waiting = tasks.filter((task) => task.started && !task.finished && !task.daemon);
  const first = waiting[0];
  if (first !== undefined) {
    if (!program.mayBlock && !tasks.some((task) => task.halted)) {
      const what = waiting.map((task) => `${task.name} waits for ${execution.world.nameOf(task.op.addr)}`);
      execution.failAtEnd("deadlock", what.join("; "), first.lane);
    }
    return "waiting";
  }
  if (tasks.some((task) => task.halted)) return "complete";
  for (const check of execution.world.endChecks) {
    check((property, message, lane) => execution.failAtEnd(property, message, lane));
  }
  if (program.final === undefined) return "complete";
  const results: Results = Object.fromEntries(tasks.map((task) => [task.name, task.value]));
  const verdict = program.final(state, results);
  if (verdict === false) execution.failAtEnd("final", "the final predicate is false", -1);
  else if (typeof verdict === "string") execution.failAtEnd("final", verdict, -1);
  return "complete";
}
