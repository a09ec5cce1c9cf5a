/** The kernel that lends KVM its services: one for each world. */
import { deepCall, type Steps, type World } from "../engine/index.ts";
import { Current, current } from "./current.ts";
import { LockJudge } from "./lock-facts.ts";
import { Rcu } from "./rcu.ts";
import { ThreadStates } from "./wait-queue.ts";

export class Kernel {
  readonly world: World;
  readonly rcu: Rcu;
  readonly states: ThreadStates;

  constructor(world: World) {
    this.world = world;
    this.rcu = new Rcu(world);
    this.states = new ThreadStates(world);
    const judge = new LockJudge(({ local }) => (local instanceof Current ? local.facts.list : []));
    world.makeLocal = (task) => new Current(task, judge);
    world.factJudge = judge;
    world.endChecks.push((fail) => {
      for (const { local, lane } of world.tasks) {
        if (local instanceof Current) local.whatIsLeft((property, message) => fail(property, message, lane));
      }
    });
  }
}

/** A kernel thread's body: what it does, and the checks at its end. */
export function* kthread<T>(world: World, body: Steps<T>): Steps<T> {
  const value = yield* deepCall(world, body);
  current(world).checkExit();
  return value;
}
