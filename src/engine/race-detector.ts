/**
 * Data races: a plain access against any other to the same bytes, one of them a write, neither before the other.
 *
 * KCSAN's rule in its strict form (plain aligned writes are not taken to be atomic). See plain-history.ts for why a report is exact.
 */
import { AccessClass, type EventLog } from "./event-log.ts";
import type { Moment } from "./failure.ts";
import type { HappensBefore } from "./happens-before.ts";
import type { AccessSize } from "./heap.ts";
import { PlainHistory } from "./plain-history.ts";
import type { Task } from "./task.ts";
import type { World } from "./world.ts";

/** Two accesses that race. */
export interface Race {
  readonly addr: number;
  /** What to call by name, when it is not the place: the object whose life ends. */
  readonly named?: number;
  /** The later access: "plain write" and so on. */
  readonly what: string;
  readonly lane: number;
  readonly event: number;
  /** The earlier one. */
  readonly theirs: string;
  readonly peer: Moment;
}

/** A race in one line, with its place and its tasks by name. */
export function raceText(world: World, { addr, named = addr, what, lane, theirs, peer }: Race): string {
  const nameOf = (of: number): string => (world.tasks[of % world.tasksMax] as Task).name;
  return `data race on ${world.nameOf(named)}: ${what} by ${nameOf(lane)}, ${theirs} by ${nameOf(peer.lane)}`;
}

export class RaceDetector {
  readonly plain: PlainHistory;
  private readonly order: HappensBefore;

  constructor(order: HappensBefore, heapBytes: number) {
    this.order = order;
    this.plain = new PlainHistory(heapBytes);
  }

  /**
   * A plain access of a task.
   * @param row the clock of what the task has done so far
   * @param completed how many operations it has completed
   */
  plainAccess(
    access: { readonly lane: number; readonly completed: number; readonly row: number },
    addr: number,
    size: AccessSize,
    isWrite: boolean,
    report: (race: Race) => void,
  ): void {
    const { lane, completed, row } = access;
    const what = isWrite ? "plain write" : "plain read";
    const event = this.order.events.length - 1;
    for (let word = addr >>> 2; word < Math.ceil((addr + size) / 4); word++) {
      const other = this.plain.racing(word, lane, this.order.clocks, row, !isWrite);
      if (other >= 0) report({ addr, what, lane, event, theirs: "plain access", peer: this.plain.accessOf(other) });
      this.plain.append(word, lane, completed, isWrite);
    }
    const race = this.againstMarked(addr, lane, row, isWrite);
    if (race !== null) report({ addr, what, lane, event, ...race });
  }

  private againstMarked(
    addr: number,
    lane: number,
    row: number,
    isWrite: boolean,
  ): Pick<Race, "theirs" | "peer"> | null {
    const { order } = this;
    const { events } = order;
    const list = order.listOf(order.history.locationOf(addr));
    for (let k = list.length - 1; k >= 0; k--) {
      const other = list[k] as number;
      const wrote = events.access[other] !== AccessClass.Read;
      const ordered = order.inRow(other, row);
      // The task sees its own store before it drains, whoever stores in between.
      if (!ordered && order.isDrainOf(other, lane)) continue;
      if (!ordered && (wrote || isWrite) && overlaps(events, other, addr)) {
        const peer = { lane: events.lane[other] as number, nth: events.nth[other] as number };
        return { theirs: wrote ? "marked write" : "marked read", peer };
      }
      if (ordered && events.access[other] === AccessClass.Write) return null;
    }
    return null;
  }

  /** A marked access, event `i`, of task `lane`. */
  markedAccess(i: number, addr: number, size: AccessSize, access: number, lane: number): Race | null {
    if (this.plain.length === 0) return null;
    const row = i * this.order.lanes;
    for (let word = addr >>> 2; word < Math.ceil((addr + size) / 4); word++) {
      const other = this.plain.racing(word, lane, this.order.clocks, row, access === AccessClass.Read);
      if (other < 0) continue;
      const what = access === AccessClass.Read ? "marked read" : "marked write";
      return { addr, what, lane, event: i, theirs: "plain access", peer: this.plain.accessOf(other) };
    }
    return null;
  }
}

function overlaps(events: EventLog, event: number, addr: number): boolean {
  const start = events.addr[event] as number;
  return start >>> 2 === addr >>> 2 || (events.size[event] === 8 && start >>> 3 === addr >>> 3);
}
