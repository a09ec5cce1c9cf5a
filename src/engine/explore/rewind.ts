/** What a place held earlier in an execution, without taking anything back. */
import { AccessClass } from "../event-log.ts";
import type { Execution } from "../execution.ts";
import { type Operation, OpKind } from "../operation.ts";

/**
 * What stood, just before event `e`, in the place that `op` accesses. The two share a location, that is a granule of 8 bytes, but perhaps not
 * the bytes.
 */
export function valueBefore(
  execution: Execution,
  e: number,
  op: Operation<unknown> | null,
): { lo: number; hi: number } {
  const { events } = execution;
  const { history } = execution.order;
  const isSame = op === null || (events.addr[e] === op.addr && events.size[e] === op.size);
  // A location that stands for a store buffer has a number for a value, whatever is accessed there.
  if (isSame || op.kind > OpKind.ReleaseShared || events.location[e] !== history.locationOf(op.addr)) {
    return { lo: events.oldLo[e] as number, hi: events.oldHi[e] as number };
  }
  const granule = new DataView(new ArrayBuffer(8));
  const word = (op.addr >>> 3) << 1;
  granule.setUint32(0, execution.heap.words[word] as number, true);
  granule.setUint32(4, execution.heap.words[word + 1] as number, true);
  const list = execution.order.listOf(events.location[e] as number);
  for (let k = list.length - 1; k >= 0; k--) {
    const event = list[k] as number;
    if (events.access[event] !== AccessClass.Read) {
      const lo = events.oldLo[event] as number;
      put(granule, (events.addr[event] as number) & 7, events.size[event] as number, lo, events.oldHi[event] as number);
    }
    if (event === e) break;
  }
  return get(granule, op.addr & 7, op.size);
}

function put(granule: DataView, offset: number, size: number, lo: number, hi: number): void {
  if (size === 1) granule.setUint8(offset, lo);
  else if (size === 2) granule.setUint16(offset, lo, true);
  else granule.setUint32(offset, lo, true);
  if (size === 8) granule.setUint32(4, hi, true);
}

function get(granule: DataView, offset: number, size: number): { lo: number; hi: number } {
  if (size === 1) return { lo: granule.getUint8(offset), hi: 0 };
  if (size === 2) return { lo: granule.getUint16(offset, true), hi: 0 };
  return { lo: granule.getUint32(offset, true), hi: size === 8 ? granule.getUint32(4, true) : 0 };
}
