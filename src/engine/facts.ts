/**
 * What is right by itself and wrong together: two locks taken in both orders, a lock used in interrupts and with interrupts on.
 *
 * Each task notes what it does (a fact); a judge says which facts do not go together. Those of one execution are a failure of that execution, whose
 * schedule shows all sides. Those of all executions are judged when the exploration has ended, so that a fact of one execution and one of another
 * are found too, whichever thread explored them.
 */
import type { Execution } from "./execution.ts";
import type { Failure, Side } from "./failure.ts";
import type { Task } from "./task.ts";

export interface Fact extends Side {
  /** What the judge goes by: the same for the same fact, in whatever execution it is noted. */
  readonly key: string;
}

export interface Judgement {
  readonly property: string;
  readonly message: string;
  /** Keys of the facts that do not go together. */
  readonly keys: readonly string[];
}

export interface FactJudge {
  /** What the task has noted so far. Facts of operations that were taken back meanwhile may be among them. */
  factsOf(task: Task): readonly Fact[];
  /** A function of the keys alone. */
  judge(keys: readonly string[]): readonly Judgement[];
}

/** The facts of the execution as it stands, one for each key. */
export function factsOf({ world }: Pick<Execution, "world">): readonly Fact[] {
  const { factJudge, tasks } = world;
  if (factJudge === null) return [];
  const facts: Fact[] = [];
  for (const task of tasks) {
    if (!task.started) continue;
    for (const fact of factJudge.factsOf(task)) {
      // The last of its operations is done, or is the one that the task asks for.
      if ((fact.at.at(-1) ?? 0) > task.completed + 1) continue;
      if (!facts.some(({ key }) => key === fact.key)) facts.push(fact);
    }
  }
  return facts;
}

/** Adds to the execution's failures what its facts come to. */
export function judgeFacts(execution: Execution, facts: readonly Fact[]): void {
  if (facts.length < 2) return;
  const judgements = execution.world.factJudge?.judge(facts.map(({ key }) => key)) ?? [];
  for (const { property, message, keys } of judgements) {
    const sides = facts.filter(({ key }) => keys.includes(key));
    execution.failures.push(failureOf(execution, property, message, sides));
  }
}

/** A failure that the sides make together. */
export function failureOf(execution: Execution, property: string, message: string, sides: readonly Side[]): Failure {
  return { property, message, event: execution.events.length, lane: sides[0]?.lane ?? -1, sides };
}
