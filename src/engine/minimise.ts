/**
 * The shortest form of a failing execution: fewest context switches, then fewest steps.
 *
 * What does not happen before the failure is left out, and what is left is put in the order (of all orders of the same execution
 * graph) that changes CPU least often. Done for every failing graph, that gives the shortest race of all. Plain accesses that race are no part of
 * the graph: where the order matters to them, a longer form may be needed.
 */
import { assert } from "./assert.ts";
import type { Execution } from "./execution.ts";
import type { Failure, Moment } from "./failure.ts";
import type { Length } from "./failures.ts";
import { OpKind } from "./operation.ts";
import type { Step } from "./schedule.ts";

export interface ShortForm {
  readonly steps: readonly Step[];
  readonly switches: number;
}

/** More partial orders than this are not searched; the execution's own order is kept then. */
const STATES_MAX = 100_000;

/**
 * Schedules of a failing execution, the shortest first, to be tried until one shows the failure: see verify.ts.
 * @param known the length of the shortest one known: none when this one is not shorter, which often shows early
 */
export function* shortForms(execution: Execution, failure: Failure, known: Length | null): Generator<ShortForm> {
  const kept = relevantEvents(execution, failure);
  if (known !== null) {
    const [switches, steps] = known;
    const cpus = new Set(kept.map((event) => cpuOf(execution, event)));
    if (cpus.size - 1 > switches || (cpus.size - 1 === switches && kept.length >= steps)) return;
  }
  const isRace = failure.addr !== undefined;
  const last = failure.event < execution.events.length && !isRace ? kept.at(-1) : undefined;
  const shortest = fewestSwitches(execution, kept, last);
  if (shortest !== null) yield formOf(execution, shortest);
  const other = isRace ? fewestSwitches(execution, kept, kept.at(-1)) : null;
  if (other !== null) yield formOf(execution, other);
  yield formOf(execution, kept);
  const all = Array.from({ length: execution.events.length }, (_, i) => i);
  yield formOf(execution, all.slice(0, failure.event + 1));
}

/** The relevant events of a failure in the order that they had. */
export function plainForm(execution: Execution, failure: Failure): ShortForm {
  return formOf(execution, relevantEvents(execution, failure));
}

function formOf(execution: Execution, order: readonly number[]): ShortForm {
  const { events } = execution;
  const steps = order.map((i) => ({
    lane: events.lane[i] as number,
    choice: events.kind[i] === OpKind.Choose ? (events.resultLo[i] as number) : 0,
  }));
  return { steps, switches: countSwitches(execution, order) };
}

/** The events that happen before the failure, in order. */
function relevantEvents(execution: Execution, failure: Failure): number[] {
  const { events, lanes } = execution;
  const { clocks } = execution.order;
  const all = Array.from({ length: events.length }, (_, i) => i);
  const { sides } = failure;
  if (sides === undefined && failure.event >= events.length) return all;
  const row = new Int32Array(lanes);
  const join = (event: number): void => {
    for (let k = 0; k < lanes; k++) row[k] = Math.max(row[k] as number, clocks[event * lanes + k] as number);
  };
  const joinMoment = ({ lane, nth }: Moment): void => {
    const theirs = all.findLast((i) => events.lane[i] === lane && (events.nth[i] as number) <= nth);
    if (theirs !== undefined) join(theirs);
  };
  if (sides === undefined) {
    // The failure shows in, or after, the last event of its own task; or at once when that was started.
    const isOwn = (i: number): boolean => (events.lane[i] as number) % execution.world.tasksMax === failure.lane;
    const last = all.findLast((i) => i <= failure.event && isOwn(i)) ?? failure.event;
    if (last >= 0) join(last);
    for (const peer of failure.peers ?? []) joinMoment(peer);
  }
  for (const { lane, at } of sides ?? []) joinMoment({ lane, nth: at.at(-1) ?? 0 });
  return all.filter((i) => (events.nth[i] as number) <= (row[events.lane[i] as number] as number));
}

function countSwitches(execution: Execution, order: readonly number[]): number {
  let switches = 0;
  for (let k = 1; k < order.length; k++) {
    if (cpuOf(execution, order[k] as number) !== cpuOf(execution, order[k - 1] as number)) switches++;
  }
  return switches;
}

function cpuOf(execution: Execution, event: number): number {
  return (execution.events.lane[event] as number) % execution.world.tasksMax;
}

interface Place {
  /** How many events of each lane are done. */
  readonly done: readonly number[];
  readonly cpu: number;
  readonly from: Place | null;
  readonly event: number;
}

/**
 * Breadth first over (how far each lane is, which CPU ran last), by number of switches; null when there are too many places.
 * @param failing the event that has to come last
 */
function fewestSwitches(execution: Execution, kept: readonly number[], failing: number | undefined): number[] | null {
  const { lanes } = execution;
  const byLane: number[][] = Array.from({ length: lanes }, () => []);
  for (const i of kept) (byLane[execution.events.lane[i] as number] as number[]).push(i);
  const seen = new Set<string>();
  let current: Place[] = [{ done: byLane.map(() => 0), cpu: -1, from: null, event: -1 }];
  let next: Place[] = [];
  while (current.length > 0) {
    const place = current.pop() as Place;
    const key = `${place.cpu}:${place.done.join(",")}`;
    if (!seen.has(key)) {
      seen.add(key);
      if (seen.size > STATES_MAX) return null;
      if (place.done.every((n, lane) => n === (byLane[lane] as number[]).length)) return unwind(place, kept.length);
      for (let lane = 0; lane < lanes; lane++) {
        const event = (byLane[lane] as number[])[place.done[lane] as number];
        if (event === undefined || !isReady(execution, byLane, place.done, event)) continue;
        if (event === failing && place.done.reduce((a, b) => a + b, 0) < kept.length - 1) continue;
        const cpu = cpuOf(execution, event);
        const done = place.done.map((n, l) => (l === lane ? n + 1 : n));
        (cpu === place.cpu || place.cpu === -1 ? current : next).push({ done, cpu, from: place, event });
      }
    }
    if (current.length === 0) {
      current = next;
      next = [];
    }
  }
  return null;
}

/** True when every kept event that happens before `event` is done. */
function isReady(execution: Execution, byLane: readonly number[][], done: readonly number[], event: number): boolean {
  const { events, lanes } = execution;
  const { clocks } = execution.order;
  const own = events.lane[event] as number;
  return done.every((n, lane) => {
    if (lane === own) return true;
    const following = (byLane[lane] as number[])[n];
    return following === undefined || (events.nth[following] as number) > (clocks[event * lanes + lane] as number);
  });
}

function unwind(end: Place, length: number): number[] {
  const order: number[] = [];
  for (let place: Place | null = end; place !== null && place.event >= 0; place = place.from) order.push(place.event);
  assert(order.length === length, "a minimised execution lost events");
  return order.reverse();
}
