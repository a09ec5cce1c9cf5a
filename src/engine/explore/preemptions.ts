/**
 * How often a task must be preempted: the bound of preemption-bounded exploration.
 *
 * A preemption is a change from a task that could have gone on to another task. A change from one that has ended or waits is free, and so is a
 * store buffer that drains, which is the hardware's doing. An execution graph needs as many as the best of its orders has.
 *
 * What an explorer on its way down the tree may rely on is the part of the graph that its reversals stand for: their heads and all that happens
 * before these. Everything further down contains that part, with each task's events of it first. So if every order of the part has more
 * preemptions than allowed, so has every order of everything further down, and the sub-tree can be left out; no graph within the bound is
 * ever lost. (Marmanis, Kokologiannakis and Vafeiadis, "Reconciling preemption bounding with DPOR", TACAS 2023, need some slack for that,
 * because the graphs that they pass through are not parts of those that they arrive at.)
 */
import type { Execution } from "../execution.ts";
import { OpKind } from "../operation.ts";
import type { EventId } from "./reversals.ts";

/** True when every order of the heads, and of what happens before them, has more than `max` preemptions. */
export function needsMorePreemptions(execution: Execution, heads: readonly EventId[], max: number): boolean {
  return new Part(execution, heads).needsMoreThan(max);
}

/** How many events of each lane are done, and the task that ran last. */
interface Place {
  readonly done: readonly number[];
  readonly current: number;
}

class Part {
  private readonly execution: Execution;
  /** By lane: its events that are in the part, in order. */
  private readonly byLane: readonly (readonly number[])[];

  constructor(execution: Execution, heads: readonly EventId[]) {
    this.execution = execution;
    const { events, lanes, order } = execution;
    const row = new Int32Array(lanes);
    for (const { at } of heads) {
      for (let k = 0; k < lanes; k++) row[k] = Math.max(row[k] as number, order.clocks[at * lanes + k] as number);
    }
    const byLane: number[][] = Array.from({ length: lanes }, () => []);
    for (let i = 0; i < events.length; i++) {
      const lane = events.lane[i] as number;
      if ((events.nth[i] as number) <= (row[lane] as number)) (byLane[lane] as number[]).push(i);
    }
    this.byLane = byLane;
  }

  /** Breadth first by number of preemptions, in no place twice. */
  needsMoreThan(max: number): boolean {
    const seen = new Set<string>();
    let places: Place[] = [{ done: this.byLane.map(() => 0), current: -1 }];
    for (let preemptions = 0; preemptions <= max && places.length > 0; preemptions++) {
      const next: Place[] = [];
      while (places.length > 0) {
        const place = places.pop() as Place;
        const key = `${place.current}:${place.done.join(",")}`;
        if (seen.has(key)) continue;
        seen.add(key);
        if (place.done.every((n, lane) => n === (this.byLane[lane] as readonly number[]).length)) return false;
        this.expand(place, places, next);
      }
      places = next;
    }
    return true;
  }

  private expand(place: Place, free: Place[], costly: Place[]): void {
    const { tasksMax } = this.execution.world;
    const { done, current } = place;
    const stays = current >= 0 && this.couldGoOn(place);
    for (const [lane, list] of this.byLane.entries()) {
      const event = list[done[lane] as number];
      if (event === undefined || this.misses(event, done, lane)) continue;
      const isBuffer = lane >= tasksMax;
      const after: Place = {
        done: done.map((n, l) => (l === lane ? n + 1 : n)),
        current: isBuffer ? current : lane,
      };
      (stays && !isBuffer && lane !== current ? costly : free).push(after);
    }
  }

  /** True when the current task has more to do here, and nothing that it waits for is still to come. */
  private couldGoOn({ done, current }: Place): boolean {
    const event = (this.byLane[current] as readonly number[])[done[current] as number];
    if (event === undefined) return false;
    if (!this.misses(event, done, current)) return true;
    const { events, world } = this.execution;
    return !mayWait(events.kind[event] as number) && !this.missesOf(event, done, current + world.tasksMax);
  }

  /** True when something that happens before the event is not done. */
  private misses(event: number, done: readonly number[], own: number): boolean {
    for (let lane = 0; lane < done.length; lane++) if (lane !== own && this.missesOf(event, done, lane)) return true;
    return false;
  }

  private missesOf(event: number, done: readonly number[], lane: number): boolean {
    const { events, lanes, order } = this.execution;
    const following = this.byLane[lane]?.[done[lane] as number];
    return (
      following !== undefined && (events.nth[following] as number) <= (order.clocks[event * lanes + lane] as number)
    );
  }
}

/** Operations that can disable a task, apart from waiting for its own store buffer. */
function mayWait(kind: number): boolean {
  return (
    kind === OpKind.Await ||
    kind === OpKind.Acquire ||
    kind === OpKind.AcquireShared ||
    kind === OpKind.Join ||
    kind === OpKind.Fence
  );
}
