/**
 * Deep calls: what keeps long chains of `yield*` cheap where tasks take turns at every operation.
 *
 * A generator that is suspended below ten others is resumed through all ten. In virtual time most operations are such turns, so a function below which
 * much happens is called by
 *
 *     const exit = yield* deepCall(world, vmrun(guest));
 *
 * Its caller gives up control once, until the callee has ended; meanwhile only the callee and what it calls are resumed. Where no clock runs (exploring,
 * following a recording), and where one task runs alone, a deep call is a call like any other. It is no step: nobody gets in at it.
 */
import type { Operation, Steps } from "./operation.ts";
import { GeneratorBody } from "./task.ts";
import type { World } from "./world.ts";

/** Steps of a callee, as `yield*` takes them. */
export interface Callee<T> {
  [Symbol.iterator](): Iterator<Operation<unknown>, T, void>;
}

/** Calls `steps` so that they can go on without their callers being resumed. Use as `yield* deepCall(world, f())`. */
export function deepCall<T>(world: World, steps: Steps<T>): Callee<T> {
  if (world.clock === null || !world.clock.takesTurns) return steps;
  const body = world.current?.body;
  return body instanceof GeneratorBody ? new DeepCall(body, steps) : steps;
}

class DeepCall<T> implements Callee<T>, Iterator<Operation<unknown>, T, void> {
  private readonly body: GeneratorBody;
  private readonly steps: Steps<T>;
  private called = false;

  constructor(body: GeneratorBody, steps: Steps<T>) {
    this.body = body;
    this.steps = steps;
  }

  [Symbol.iterator](): this {
    return this;
  }

  /** First asks the task's body to run the callee; when that has ended, its value is what the `yield*` gives. */
  next(): IteratorResult<Operation<unknown>, T> {
    if (this.called) return { done: true, value: this.body.returned as T };
    this.called = true;
    return this.body.enter(this.steps);
  }

  /** The callee has thrown. */
  throw(error: unknown): never {
    throw error;
  }
}
