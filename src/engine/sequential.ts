/**
 * Running one task after the other: for set-up that is code of the model itself, and for following a recorded workload.
 *
 * Operations are carried out where they stand, without clocks, journals or choices. An operation that would wait is an error: with nobody else
 * running, it would wait for ever.
 */
import { EngineBug, UsageError } from "./assert.ts";
import { accessClass, isReady, writeResult } from "./effect.ts";
import { AccessClass } from "./event-log.ts";
import { OpKind, type Steps } from "./operation.ts";
import { GeneratorBody, Task } from "./task.ts";
import type { Driver, World } from "./world.ts";

class SequentialDriver implements Driver {
  readonly world: World;
  constructor(world: World) {
    this.world = world;
  }

  offer(task: Task): boolean {
    const { op } = task;
    op.resultLo = 0;
    op.resultHi = 0;
    if (op.kind <= OpKind.ReleaseShared) this.access(task);
    else if (op.kind === OpKind.Lifetime) this.world.heap.write(this.world.lifeOf(op.addr), 8, op.lo, 0);
    else if (op.kind === OpKind.Spawn || op.kind === OpKind.Join) throw new EngineBug("a sequential run has one task");
    return true;
  }

  private access(task: Task): void {
    const { op } = task;
    const { heap } = this.world;
    const death = this.world.deathOf(op.addr);
    if (death !== null) throw new EngineBug(`${task.name} touches ${this.world.nameOf(op.addr)}: ${death.because}`);
    const oldLo = heap.read(op.addr, op.size);
    const oldHi = heap.high;
    if (!isReady(op, oldLo, oldHi)) {
      throw new UsageError(`${task.name} would wait for ever for ${this.world.nameOf(op.addr)}: nobody else runs`);
    }
    op.resultLo = oldLo;
    op.resultHi = oldHi;
    if (accessClass(op.kind, op, oldLo, oldHi) === AccessClass.Read) return;
    writeResult(heap, op.kind, op.addr, op.size, op.lo, op.hi, op, oldLo, oldHi);
  }

  plainAccess(): void {}
}

/**
 * Runs `steps` to the end as a task of the given lane and name, and returns what it returned.
 * @param lane the task, or CPU, that it stands for
 * @throws UsageError when it would wait
 */
export function runSequentially<T>(world: World, lane: number, name: string, steps: () => Steps<T>): T {
  const { driver } = world;
  world.driver = new SequentialDriver(world);
  const task = new Task(world, lane, name, () => new GeneratorBody(steps()), false);
  task.remembers = false;
  task.unwatched = true;
  task.alone = true;
  try {
    task.start();
    return task.value as T;
  } finally {
    world.driver = driver;
  }
}
