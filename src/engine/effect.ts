/** What operations do to the word that they access: one place for every driver. */
import { assert } from "./assert.ts";
import { AccessClass } from "./event-log.ts";
import type { AccessSize, Heap } from "./heap.ts";
import { type Operation, OpKind } from "./operation.ts";
import { TWO32 } from "./u64.ts";

/** True when an awaiting operation may go ahead with the value that it finds. */
export function isReady(op: Operation<unknown>, lo: number, hi: number): boolean {
  return op.ready === null || op.ready(hi * TWO32 + lo);
}

/** How an operation would touch a location that holds the given value. */
export function accessClass(kind: OpKind, op: Operation<unknown> | null, oldLo: number, oldHi: number): AccessClass {
  switch (kind) {
    case OpKind.Load:
    case OpKind.Await:
      return AccessClass.Read;
    case OpKind.CompareExchange:
      return op !== null && op.expectedLo === oldLo && (op.size < 8 || op.expectedHi === oldHi)
        ? AccessClass.Write
        : AccessClass.Read;
    case OpKind.AcquireShared:
    case OpKind.ReleaseShared:
      return AccessClass.Shared;
    default:
      return AccessClass.Write;
  }
}

/** Writes what the operation leaves in memory, given what it found there. */
export function writeResult(
  heap: Heap,
  kind: OpKind,
  addr: number,
  size: AccessSize,
  lo: number,
  hi: number,
  op: Operation<unknown> | null,
  oldLo: number,
  oldHi: number,
): void {
  switch (kind) {
    case OpKind.Add: {
      const sum = oldLo + lo;
      heap.write(addr, size, sum >>> 0, (oldHi + hi + (sum >= TWO32 ? 1 : 0)) >>> 0);
      return;
    }
    case OpKind.And:
      heap.write(addr, size, (oldLo & lo) >>> 0, (oldHi & hi) >>> 0);
      return;
    case OpKind.Or:
      heap.write(addr, size, (oldLo | lo) >>> 0, (oldHi | hi) >>> 0);
      return;
    case OpKind.Acquire:
    case OpKind.AcquireShared:
    case OpKind.ReleaseShared: {
      const update = op?.update;
      assert(update !== null && update !== undefined, "an acquiring operation has no update");
      const value = update(oldHi * TWO32 + oldLo);
      heap.write(addr, size, value >>> 0, Math.floor(value / TWO32) >>> 0);
      return;
    }
    default:
      heap.write(addr, size, lo, hi);
  }
}
