/**
 * Tasks that wait by looking again and again.
 *
 * Each number of looks is an execution graph of its own, so partial-order reduction would explore one after the other for ever, each longer than the
 * last. A task that has learned nothing new from so many reads in a row, and has done nothing else, is taken to be one of those.
 */
import type { Execution } from "../execution.ts";
import { OpKind } from "../operation.ts";

/** So many reads of a few places, each with the same answer all the time. */
export interface Spin {
  readonly lane: number;
  readonly reads: number;
  /** By place: its address, its size, what it answered, and the last read of it, counted among the task's operations. */
  readonly places: readonly SpinPlace[];
}

interface SpinPlace {
  readonly addr: number;
  readonly size: number;
  readonly lo: number;
  readonly hi: number;
  readonly nth: number;
}

/** Reads in a row, and how many places a loop may look at. */
const SPIN_READS = 500;
const PLACES_MAX = 8;

/** Events between two looks for such tasks: a power of two. */
export const SPIN_LOOK = 256;

/** The first task that has done nothing else for so long; null when there is none. */
export function findSpin(execution: Execution): Spin | null {
  if (execution.events.length < SPIN_READS) return null;
  const { tasks } = execution.world;
  for (const { lane, finished } of tasks) {
    const spin = finished ? null : spinOf(execution, lane);
    if (spin !== null) return spin;
  }
  return null;
}

function spinOf(execution: Execution, lane: number): Spin | null {
  const { events } = execution;
  const places: SpinPlace[] = [];
  let reads = 0;
  for (let i = execution.lastOf(lane); i >= 0; i = events.previous[i] as number) {
    const kind = events.kind[i] as OpKind;
    if (kind === OpKind.Fence || kind === OpKind.Note) continue;
    if (!isRead(execution, i, kind)) return null;
    const addr = events.addr[i] as number;
    const size = events.size[i] as number;
    const lo = events.resultLo[i] as number;
    const hi = events.resultHi[i] as number;
    const known = places.find((place) => place.addr === addr && place.size === size);
    if (known === undefined) places.push({ addr, size, lo, hi, nth: events.nth[i] as number });
    else if (known.lo !== lo || known.hi !== hi) return null;
    if (places.length > PLACES_MAX) return null;
    if (++reads === SPIN_READS) return { lane, reads, places };
  }
  return null;
}

/** Loads, and a compare-exchange that found another value than it expected. */
function isRead({ events }: Execution, i: number, kind: OpKind): boolean {
  if (kind === OpKind.Load || kind === OpKind.Await) return true;
  if (kind !== OpKind.CompareExchange) return false;
  return events.resultLo[i] !== events.expectedLo[i] || events.resultHi[i] !== events.expectedHi[i];
}
