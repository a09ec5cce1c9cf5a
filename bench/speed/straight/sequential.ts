/** Counterpart of src/engine/sequential.ts: the thread is a call. */
import { Task, type TaskBody } from "../../../src/engine/task.ts";
import type { World } from "../../../src/engine/world.ts";

const NO_BODY: TaskBody = { value: undefined, resume: () => true };

/** Runs the steps as a task of the given lane and name, and returns what they returned. */
export function runSequentially<T>(world: World, lane: number, name: string, steps: () => T): T {
  const task = new Task(world, lane, name, () => NO_BODY, false);
  task.remembers = false;
  task.unwatched = true;
  task.alone = true;
  task.start();
  world.keepLivePlaces();
  const { current } = world;
  world.current = task;
  try {
    return steps();
  } finally {
    world.current = current;
  }
}
