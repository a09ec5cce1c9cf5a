/**
 * Brute force: every interleaving of a small program, one after the other.
 *
 * The peer against which the other explorers are held. It shares the execution of single operations with them, but neither
 * clocks nor races nor schedules: it names the class of an execution from the order of conflicting accesses in the sequence itself.
 */
import { AccessClass, conflicts, type EventLog } from "../event-log.ts";
import type { Execution, Scheduler } from "../execution.ts";
import { OpKind } from "../operation.ts";
import type { Task } from "../task.ts";

export class BruteForceExplorer implements Scheduler {
  private readonly execution: Execution;
  private next = -1;
  private nextChoice = 0;

  constructor(execution: Execution) {
    this.execution = execution;
    execution.scheduler = this;
  }

  /** Calls `onEnd` at the end of every interleaving. */
  explore(onEnd: (execution: Execution) => void): void {
    const { execution } = this;
    const { events } = execution;
    let ended = true;
    for (let lane = 0; lane < execution.lanes; lane++) {
      if (!execution.isEnabled(lane)) continue;
      ended = false;
      const at = events.length;
      const outcomes = this.outcomesOf(lane);
      for (let choice = 0; choice < outcomes; choice++) {
        this.next = lane;
        this.nextChoice = choice;
        execution.run();
        this.explore(onEnd);
        execution.rollback(at);
      }
    }
    if (ended) onEnd(execution);
  }

  private outcomesOf(lane: number): number {
    const task = this.execution.world.tasks[lane] as Task | undefined;
    return task !== undefined && task.op.kind === OpKind.Choose ? task.op.lo : 1;
  }

  pick(): number {
    const lane = this.next;
    this.next = -1;
    return lane;
  }

  choose(): number {
    return this.nextChoice;
  }
}

/** A text that is the same for two executions exactly when they are one execution graph. */
export function graphOf(execution: Execution): string {
  const { events } = execution;
  // Without store buffers, an order of lanes that no lane reaches.
  const tasksMax = execution.model === "tso" ? execution.world.tasksMax : Number.POSITIVE_INFINITY;
  const lines: string[] = [];
  for (let b = 0; b < events.length; b++) {
    const after: string[] = [];
    for (let a = 0; a < events.length; a++) {
      if (a !== b && comesBefore(events, tasksMax, a, b)) after.push(nameOf(events, a));
    }
    const outcome = events.kind[b] === OpKind.Choose ? `=${events.resultLo[b]}` : "";
    lines.push(`${nameOf(events, b)}${outcome}<${after.sort().join(",")}`);
  }
  return lines.sort().join(";");
}

function nameOf(events: EventLog, i: number): string {
  return `${events.lane[i]}.${events.nth[i]}`;
}

/** True when the two events conflict and the order of `a` before `b` is part of the execution graph. */
function comesBefore(events: EventLog, tasksMax: number, a: number, b: number): boolean {
  const lifeConflict =
    events.life[a] !== 0 &&
    events.life[a] === events.life[b] &&
    conflicts(events.lifeAccess[a] as number, events.lifeAccess[b] as number);
  if (lifeConflict) return a < b;
  if (events.location[a] === 0 || events.location[a] !== events.location[b]) return false;
  if (events.access[a] === AccessClass.None || events.access[b] === AccessClass.None) return false;
  if (!conflicts(events.access[a] as number, events.access[b] as number)) return false;
  // A load that reads its own CPU's store: the store's drain is not ordered with it, and it stands right after that drain.
  if (isOwnStore(events, tasksMax, a, b) || isOwnStore(events, tasksMax, b, a)) return false;
  return placeOf(events, tasksMax, a) < placeOf(events, tasksMax, b);
}

/** True when the own buffer of `load` would have answered it from `store`, if that had not drained. */
function isOwnStore(events: EventLog, tasksMax: number, store: number, load: number): boolean {
  const isOwn = (events.lane[store] as number) - tasksMax === events.lane[load];
  return isOwn && isLoad(events, load) && contains(events, store, load);
}

function isLoad(events: EventLog, i: number): boolean {
  return events.kind[i] === OpKind.Load || events.kind[i] === OpKind.Await;
}

/** Where in the order of memory the event stands: a load of an own store that has yet to drain stands just after that drain. */
function placeOf(events: EventLog, tasksMax: number, i: number): number {
  if (tasksMax === Number.POSITIVE_INFINITY || !isLoad(events, i)) return i;
  const lane = events.lane[i] as number;
  // The own stores to the location issued before the load, in order, drain in that order.
  let issued = 0;
  for (let k = 0; k < i; k++) {
    if (events.lane[k] === lane && events.kind[k] === OpKind.Store && contains(events, k, i)) issued++;
  }
  if (issued === 0) return i;
  for (let k = 0; k < events.length; k++) {
    if (events.lane[k] !== lane + tasksMax || !contains(events, k, i)) continue;
    issued--;
    if (issued === 0) return k < i ? i : k + 0.5;
  }
  return i;
}

function contains(events: EventLog, store: number, load: number): boolean {
  const addr = events.addr[store] as number;
  const from = events.addr[load] as number;
  return addr <= from && from + (events.size[load] as number) <= addr + (events.size[store] as number);
}
