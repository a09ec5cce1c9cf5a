/**
 * Which memslots exist during each operation of a workload, and where memory is in the guest at any time of it.
 *
 * While an operation runs that changes a memslot, the slots before and after it both count: a fault may be served by either.
 * A memslot operation is taken to succeed; a recording of one that failed would say so in its results.
 */
import type { Piece } from "./host-layout.ts";
import { membersOf, type SingleOperation } from "./operation.ts";
import { CONTROL_SLOT, type Workload } from "./workload.ts";

/** Guest frames from `start` to `end`, exclusive. */
export interface GfnRange {
  readonly start: number;
  readonly end: number;
}

const PAGE = 4096;

export class MemslotHistory {
  /** Ranges that exist during operation n; before the first and after the last one at -1 and at the number of operations. */
  private readonly ranges: ReadonlyMap<number, readonly GfnRange[]>;
  /** Of these, the ones that the operation leaves as they were. */
  private readonly kept: ReadonlyMap<number, readonly GfnRange[]>;
  /** Memory to every guest address that it is ever at. */
  private readonly places = new Map<
    number,
    { readonly gpa: number; readonly offset: number; readonly size: number }[]
  >();
  private readonly workload: Workload;

  constructor(workload: Workload) {
    this.workload = workload;
    const slots = new Map<number, GfnRange>();
    this.put(slots, CONTROL_SLOT.slot, CONTROL_SLOT.gpa);
    for (const memory of workload.memory) {
      if (!memory.later) this.put(slots, memory.slot, memory.gpa);
    }
    const ranges = new Map([[-1, [...slots.values()]]]);
    const kept = new Map(ranges);
    workload.ops.forEach((operation, index) => {
      const before = [...slots.values()];
      for (const member of membersOf(operation)) this.apply(slots, member);
      const after = [...slots.values()];
      ranges.set(index, [...before, ...after]);
      kept.set(
        index,
        before.filter((range) => after.includes(range)),
      );
    });
    const last = [...slots.values()];
    ranges.set(workload.ops.length, last);
    kept.set(workload.ops.length, last);
    this.ranges = ranges;
    this.kept = kept;
  }

  private apply(slots: Map<number, GfnRange>, member: SingleOperation): void {
    if (member.kind !== "host") return;
    if (member.host === "slot_delete") slots.delete(member.slot);
    else if (member.host === "slot_move") this.put(slots, member.slot, member.gpa);
    else if (member.host === "slot_create") {
      const memory = this.workload.memory.find((entry) => entry.slot === member.slot);
      this.put(slots, member.slot, member.gpa ?? memory?.gpa ?? CONTROL_SLOT.gpa);
    }
  }

  private put(slots: Map<number, GfnRange>, slot: number, gpa: number): void {
    const memory = this.workload.memory.find((entry) => entry.slot === slot);
    const size = memory?.size ?? CONTROL_SLOT.size;
    slots.set(slot, { start: gpa / PAGE, end: (gpa + size) / PAGE });
    const owner = memory?.alias?.of ?? slot;
    const places = this.places.get(owner) ?? [];
    places.push({ gpa, offset: memory?.alias?.offset ?? 0, size });
    this.places.set(owner, places);
  }

  /** True when one memslot that exists during operation `section` holds all of a range. */
  holds(section: number, gfn: number, pages: number): boolean {
    return (this.ranges.get(section) ?? []).some((range) => gfn >= range.start && gfn + pages <= range.end);
  }

  /** True when a frame is in a memslot all through operation `section`. */
  alwaysHolds(section: number, gfn: number): boolean {
    return (this.kept.get(section) ?? []).some((range) => gfn >= range.start && gfn < range.end);
  }

  /** The guest frames that part of a memory may be seen at, at any time. */
  gfnsOf(piece: Piece): readonly GfnRange[] {
    return (this.places.get(piece.memory) ?? []).flatMap((place) => {
      const from = Math.max(piece.offset - place.offset, 0);
      const to = Math.min(piece.offset + piece.length - place.offset, place.size);
      if (from >= to) return [];
      return [{ start: Math.floor((place.gpa + from) / PAGE), end: Math.ceil((place.gpa + to) / PAGE) }];
    });
  }
}
