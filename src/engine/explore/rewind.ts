/** What a place held earlier in an execution, without taking anything back. */
import { AccessClass } from "../event-log.ts";
import type { Execution } from "../execution.ts";
import type { Operation } from "../operation.ts";

export interface Value {
  readonly lo: number;
  readonly hi: number;
}

/**
 * What stood in the place that `op` accesses when its location had been accessed only `k` times. Accesses to one location, that is a granule of 8
 * bytes, need not be to the same bytes.
 */
export function valueAt(execution: Execution, op: Operation<unknown>, location: number, k: number): Value {
  const { events, heap } = execution;
  const list = execution.order.listOf(location);
  const e = list[k];
  if (e === undefined) {
    const lo = heap.read(op.addr, op.size);
    return { lo, hi: heap.high };
  }
  if (events.addr[e] === op.addr && events.size[e] === op.size) {
    return { lo: events.oldLo[e] as number, hi: events.oldHi[e] as number };
  }
  const granule = new DataView(new ArrayBuffer(8));
  const word = (op.addr >>> 3) << 1;
  granule.setUint32(0, execution.heap.words[word] as number, true);
  granule.setUint32(4, execution.heap.words[word + 1] as number, true);
  for (let j = list.length - 1; j >= k; j--) {
    const event = list[j] as number;
    if (events.access[event] === AccessClass.Read) continue;
    const offset = (events.addr[event] as number) & 7;
    put(granule, offset, events.size[event] as number, events.oldLo[event] as number, events.oldHi[event] as number);
  }
  return get(granule, op.addr & 7, op.size);
}

function put(granule: DataView, offset: number, size: number, lo: number, hi: number): void {
  if (size === 1) granule.setUint8(offset, lo);
  else if (size === 2) granule.setUint16(offset, lo, true);
  else granule.setUint32(offset, lo, true);
  if (size === 8) granule.setUint32(4, hi, true);
}

function get(granule: DataView, offset: number, size: number): Value {
  if (size === 1) return { lo: granule.getUint8(offset), hi: 0 };
  if (size === 2) return { lo: granule.getUint16(offset, true), hi: 0 };
  return { lo: granule.getUint32(offset, true), hi: size === 8 ? granule.getUint32(4, true) : 0 };
}
