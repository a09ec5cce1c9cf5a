/**
 * Which earlier events the next event of a lane could have come before: the branches that leave an execution.
 *
 * An event touches up to two places: a granule of memory (or what stands for a store buffer), and the life of the object that it lies in. It may
 * conflict with an earlier event in either. When it is to come before event `e` in one place, its schedule also holds what it is ordered
 * after in the other place: what came before `e` there, and of what came after `e` without depending on it, as much as one likes. Each such
 * choice is a branch, as is each choice among accesses of `e`'s kind that commute with `e` (GroupReversal).
 *
 * An access to an object whose life has ended fails; it changes nothing, but is ordered as if it did.
 */
import { assert } from "../assert.ts";
import { accessClass, isReady } from "../effect.ts";
import { AccessClass, conflicts } from "../event-log.ts";
import type { Execution } from "../execution.ts";
import { type Operation, OpKind, type Update } from "../operation.ts";
import { forward } from "../store-buffer.ts";
import type { Task } from "../task.ts";
import { TWO32 } from "../u64.ts";
import {
  type Branch,
  type Conditions,
  findPending,
  type GroupMember,
  type Head,
  holdsAfter,
  isTakenHere,
  type Pending,
  type Reach,
  rankOf,
} from "./reversals.ts";
import { valueAt } from "./rewind.ts";

/** The sequence that is being extended; branches are added to it. */
export interface Sequence {
  readonly heads: readonly Head[];
  /** By event: what was pending before it. */
  readonly pendingAt: readonly (Pending | null)[];
  readonly branches: Branch[];
}

interface Place {
  readonly kind: "memory" | "life" | "buffer";
  readonly location: number;
  /** How the place is touched; None when that depends on the value that is found. */
  readonly access: AccessClass;
}

/** The next event of `lane`, which is or would be the `at`-th. */
interface Candidate {
  readonly lane: number;
  /** Clock row of what happens before it apart from conflicts. */
  readonly row: number;
  readonly at: number;
  /** Null for the draining of a store. */
  readonly op: Operation<unknown> | null;
  /** The operation again, when it is a load that a store buffer may answer. */
  readonly load: Operation<unknown> | null;
  readonly reach: Reach;
  readonly places: readonly Place[];
}

const UNCONDITIONAL: Conditions = { ready: null, oldValue: 0 };

export class RaceFinder {
  private readonly execution: Execution;
  private readonly sequence: Sequence;
  private readonly tasksMax: number;

  constructor(execution: Execution, sequence: Sequence) {
    this.execution = execution;
    this.sequence = sequence;
    this.tasksMax = execution.world.tasksMax;
  }

  /**
   * Adds the branches in which the next event of `lane` (the `at`-th of the sequence) comes earlier.
   * @param row the clock row of what happens before it apart from conflicts
   */
  find(lane: number, row: number, at: number): void {
    const candidate = lane >= this.tasksMax ? this.drainOf(lane, row, at) : this.requestOf(lane, row, at);
    for (const place of candidate.places) this.search(candidate, place);
  }

  private drainOf(lane: number, row: number, at: number): Candidate {
    const { execution } = this;
    const { addr, size } = (execution.buffers[lane - this.tasksMax] as (typeof execution.buffers)[number]).oldest;
    const location = execution.order.history.locationOf(addr);
    const places: Place[] = [{ kind: "memory", location, access: AccessClass.Write }];
    return { lane, row, at, op: null, load: null, reach: { addr, size, ownBuffer: -1, rank: lane }, places };
  }

  private requestOf(lane: number, row: number, at: number): Candidate {
    const { execution } = this;
    const { world } = execution;
    const { history } = execution.order;
    const { op } = world.tasks[lane] as Task;
    const places: Place[] = [];
    if (execution.watchesBufferOf(lane, op)) {
      places.push({ kind: "buffer", location: execution.bufferLocation(op.lo), access: AccessClass.Read });
    } else if (op.kind <= OpKind.ReleaseShared && world.lifeOf(op.addr) !== 0) {
      if (world.watchesBuffers && execution.model === "tso" && op.kind === OpKind.Store) {
        places.push({ kind: "buffer", location: execution.bufferLocation(lane), access: AccessClass.Write });
      }
      if (execution.touchesMemory(lane, op)) {
        places.push({ kind: "memory", location: history.locationOf(op.addr), access: AccessClass.None });
      }
      const life = world.lifeOf(op.addr);
      if (world.isMortal(life)) {
        const location = history.locationOf(life);
        // Without a change of life all that touches the object is in any order.
        if (history.turnsOf(location) > 0) places.push({ kind: "life", location, access: AccessClass.Read });
      }
    } else if (op.kind === OpKind.Lifetime) {
      const location = history.locationOf(world.lifeOf(op.addr));
      places.push({ kind: "life", location, access: AccessClass.Write });
    }
    const load = execution.model === "tso" && isLoad(op.kind) ? op : null;
    const ownBuffer = load === null ? -1 : lane + this.tasksMax;
    const rank = rankOf(lane, op, execution.lanes);
    return { lane, row, at, op, load, reach: { addr: op.addr, size: op.size, ownBuffer, rank }, places };
  }

  /** Goes back over the accesses to a place, to those that the candidate conflicts with. */
  private search(candidate: Candidate, place: Place): void {
    const { order } = this.execution;
    const classes = this.classesOf(place);
    const list = order.listOf(place.location);
    const load = place.kind === "memory" ? candidate.load : null;
    const isInOrder = this.execution.model === "sc";
    const standing = candidate.places.length === 1 ? this.lastStanding(candidate) : -1;
    for (let k = list.length - 1; k >= 0; k--) {
      const e = list[k] as number;
      // A load finds the own store whether or not it has drained, so it is ordered after nothing that the store is after.
      if (order.isOwnDrain(e, load)) return;
      const theirs = classes[e] as number;
      if (order.inRow(e, candidate.row)) {
        if (theirs === AccessClass.Write) return;
        continue;
      }
      if (e <= standing) {
        // To come before a write is to depend on nothing later, so a head that stands there stays: here, and before all that is earlier.
        if (theirs === AccessClass.Write) return;
        // The same before the last of some reads. (A load that a buffer answered is an exception: it stands behind a later event.)
        if (isInOrder && classes[list[k + 1] as number] !== theirs) continue;
      }
      const access = place.access === AccessClass.None ? this.accessBefore(candidate, place, k, theirs) : place.access;
      if (access !== AccessClass.None && conflicts(theirs, access)) this.consider(candidate, place, access, k);
    }
  }

  /** The last head that does not happen before the candidate: a reversal that drops it is not taken here. */
  private lastStanding({ row }: Candidate): number {
    const { heads } = this.sequence;
    const { clocks } = this.execution.order;
    for (let h = heads.length - 1; h >= 0; h--) {
      const head = heads[h] as Head;
      if ((clocks[row + head.lane] as number) < head.nth) return head.at;
    }
    return -1;
  }

  private classesOf(place: Place): Uint8Array {
    const { events } = this.execution;
    return place.kind === "life" ? events.lifeAccess : events.access;
  }

  /** How the candidate would touch the place just before its k-th access, of class `theirs`; None when it could not go ahead. */
  private accessBefore({ op }: Candidate, place: Place, k: number, theirs: number): AccessClass {
    if (op === null) return AccessClass.Write;
    const { lo, hi } = valueAt(this.execution, op, place.location, k);
    // Shared accesses that move to the front with it may make it ready; that is looked at for each such group.
    if (op.ready !== null && theirs !== AccessClass.Shared && !isReady(op, lo, hi)) return AccessClass.None;
    return accessClass(op.kind, op, lo, hi);
  }

  /** Adds the branches in which the candidate comes before event `e`, the k-th access to the place. */
  private consider(candidate: Candidate, place: Place, access: AccessClass, k: number): void {
    const { execution, sequence } = this;
    const { order, events } = execution;
    const { lane, at, reach, places } = candidate;
    const classes = this.classesOf(place);
    const e = order.listOf(place.location)[k] as number;
    const scratch = order.scratchRow(1);
    order.moveRow(candidate.row, scratch);
    const load = place.kind === "memory" ? candidate.load : null;
    order.joinPredecessors(scratch, place.location, k, classes, access, load);
    const other = places.length > 1 ? (places.find((one) => one !== place) ?? null) : null;
    const from = other === null ? 0 : this.joinOther(candidate, other, e, scratch);
    if (order.inRow(e, scratch)) {
      this.assertUnavoidable(candidate, e);
      return;
    }
    const group: GroupMember[] = [];
    if (classes[e] !== AccessClass.Write) this.addGroup(group, place, k, scratch);
    if (other !== null) this.addIndependent(group, candidate, other, e, from, scratch);
    const conditions = this.conditionsOf(candidate, place, k, scratch, from);
    if (group.length > 0) {
      if (!mayHoldHeads(sequence.heads, group, e, order.clocks, scratch)) return;
      const members = byLane(group);
      const choice = members.map(() => 0);
      const row = order.keepRow(scratch);
      sequence.branches.push({ kind: "group", before: e, at, lane, row, reach, ...conditions, members, choice });
      return;
    }
    if (!holdsAfter(conditions, [])) return;
    const was = findPending(sequence.pendingAt[e] ?? null, events.lane[e] as number);
    if (!isTakenHere(sequence.heads, was, e, order.clocks, scratch, reach)) return;
    sequence.branches.push({ kind: "reversal", before: e, at, lane, row: order.keepRow(scratch), reach });
  }

  /** An event may happen before the candidate all the same, by what the candidate is ordered after in its other place, or by its store buffer. */
  private assertUnavoidable(candidate: Candidate, e: number): void {
    // A load that its own buffer answered stands behind its store's drain, which may need what the load's task did after the load.
    const isExpected = candidate.places.length > 1 || isLoad(this.execution.events.kind[e] as OpKind);
    assert(isExpected, "a reversed event happens before its own head");
  }

  // --- the other place -------------------------------------------------------------------------------------------

  /**
   * Joins to the row what the candidate is ordered after in its other place if it comes before event `e`.
   * @returns from where on accesses to the place can be chosen to come before the candidate
   */
  private joinOther(candidate: Candidate, other: Place, e: number, row: number): number {
    const { execution } = this;
    const { order } = execution;
    const list = order.listOf(other.location);
    const end = this.endBefore(other, e, row);
    if (other.kind !== "memory") {
      order.joinPredecessors(row, other.location, end, this.classesOf(other), other.access, null);
      return end;
    }
    const { load } = candidate;
    const own = list.findLastIndex((event, k) => k >= end && order.isOwnDrain(event, load));
    // Until that store drains, the load is answered by the buffer.
    if (own >= 0) return own + 1;
    order.joinPredecessors(row, other.location, end, this.classesOf(other), this.accessAt(candidate, other, end), load);
    return end;
  }

  /** How many accesses to a place come before `e`, or before the candidate anyway, as its clock row says. */
  private endBefore(place: Place, e: number, row: number): number {
    const { order } = this.execution;
    const classes = this.classesOf(place);
    const list = order.listOf(place.location);
    let end = list.findIndex((event) => event > e);
    if (end < 0) return list.length;
    for (let k = end; k < list.length; k++) {
      const event = list[k] as number;
      if (classes[event] === AccessClass.Write && order.inRow(event, row)) end = this.endOfForwarded(list, k);
    }
    return end;
  }

  /** Where the loads end that were answered from the buffer before the k-th access, a store, drained: they stand right behind it. */
  private endOfForwarded(list: readonly number[], k: number): number {
    let end = k + 1;
    while (end < list.length && (list[end] as number) < (list[k] as number)) end++;
    return end;
  }

  private accessAt({ op }: Candidate, place: Place, k: number): AccessClass {
    if (op === null || place.access !== AccessClass.None) return place.access;
    const { lo, hi } = valueAt(this.execution, op, place.location, k);
    return accessClass(op.kind, op, lo, hi);
  }

  /** The accesses to the other place, from the `from`-th on, that conflict with the candidate and do not depend on `e`. */
  private addIndependent(
    members: GroupMember[],
    candidate: Candidate,
    other: Place,
    e: number,
    from: number,
    row: number,
  ): void {
    const { order } = this.execution;
    const classes = this.classesOf(other);
    const list = order.listOf(other.location);
    for (let j = from; j < list.length; j++) {
      const y = list[j] as number;
      if (y < e || order.inRow(e, y * order.lanes) || order.inRow(y, row)) continue;
      const theirs = classes[y] as number;
      if (!conflicts(theirs, other.access === AccessClass.None ? AccessClass.Read : other.access)) continue;
      const member = this.memberOf(y, this.updateOf(candidate, other, y));
      members.push(member);
      // What replaces the value of a store comes after the loads that were answered from the buffer before that drained.
      if (!this.replaces(candidate, other, y)) continue;
      for (let f = j + 1; f < this.endOfForwarded(list, j); f++) {
        const answered = list[f] as number;
        if (answered < e) order.joinKept(member.row, answered * order.lanes);
      }
    }
  }

  /** True when the candidate writes if it finds what store `y` leaves. */
  private replaces({ op, reach }: Candidate, other: Place, y: number): boolean {
    const { events } = this.execution;
    if (other.kind !== "memory") return false;
    if (op === null || events.addr[y] !== reach.addr || events.size[y] !== reach.size) return true;
    return accessClass(op.kind, op, events.lo[y] as number, events.hi[y] as number) !== AccessClass.Read;
  }

  /** What a store makes of the value that the candidate finds. */
  private updateOf(candidate: Candidate, other: Place, y: number): Update | null {
    const { events } = this.execution;
    const { addr, size } = candidate.reach;
    if (other.kind !== "memory" || events.addr[y] !== addr || events.size[y] !== size) return null;
    const value = (events.hi[y] as number) * TWO32 + (events.lo[y] as number);
    return () => value;
  }

  // --- accesses that commute ---------------------------------------------------------------------------------------

  /** The accesses of the k-th one's group that come later in the list and depend neither on it nor are before the candidate anyway. */
  private addGroup(members: GroupMember[], place: Place, k: number, row: number): void {
    const { events, order } = this.execution;
    const classes = this.classesOf(place);
    const list = order.listOf(place.location);
    const e = list[k] as number;
    for (let j = k + 1; j < list.length; j++) {
      const y = list[j] as number;
      if (classes[y] !== classes[e]) break;
      if (order.inRow(e, y * order.lanes) || order.inRow(y, row)) continue;
      const isShared = events.kind[y] === OpKind.AcquireShared || events.kind[y] === OpKind.ReleaseShared;
      members.push(this.memberOf(y, isShared ? (events.update[y] as Update | null) : null));
    }
  }

  private memberOf(y: number, update: Update | null): GroupMember & { readonly row: number[] } {
    const { events, order } = this.execution;
    const id = { at: y, lane: events.lane[y] as number, nth: events.nth[y] as number };
    return { row: order.keepRow(y * order.lanes), id, update };
  }

  /**
   * What must hold for the candidate to go ahead if `e` (the k-th access) and what depends on it were dropped. Its value is that before `e`,
   * and what shared accesses that happen before the candidate (its own task's, say) make of it; members that are chosen change it further.
   * @param from when the memory that it accesses is the other place: how many accesses to that it comes after
   */
  private conditionsOf(candidate: Candidate, place: Place, k: number, row: number, from: number): Conditions {
    const { events, order } = this.execution;
    const { op } = candidate;
    const list = order.listOf(place.location);
    const e = list[k] as number;
    if (op === null || op.ready === null) return UNCONDITIONAL;
    const { ready } = op;
    if (place.kind === "buffer") return { ready, oldValue: events.oldLo[e] as number };
    const memory = candidate.places.find((other) => other.kind === "memory");
    if (memory === undefined) return { ready, oldValue: this.forwarded(candidate.lane, op) };
    if (memory !== place) {
      const { lo, hi } = valueAt(this.execution, op, memory.location, from);
      return { ready, oldValue: hi * TWO32 + lo };
    }
    const { lo, hi } = valueAt(this.execution, op, memory.location, k);
    let oldValue = hi * TWO32 + lo;
    for (let j = k + 1; j < list.length && events.access[e] === AccessClass.Shared; j++) {
      const y = list[j] as number;
      if (events.access[y] !== AccessClass.Shared) break;
      const update = order.inRow(y, row) ? (events.update[y] as Update | null) : null;
      if (update !== null) oldValue = update(oldValue);
    }
    return { ready, oldValue };
  }

  /** What the own buffer answers, now and earlier: the store is older than the candidate and still there. */
  private forwarded(lane: number, op: Operation<unknown>): number {
    const entry = this.execution.buffers[lane]?.newestOverlap(op.addr, op.size) ?? null;
    assert(entry !== null, "an access touches neither memory nor its own store buffer");
    const { lo, hi } = forward(entry, op.addr, op.size);
    return hi * TWO32 + lo;
  }
}

/** False when every choice among the members leaves out a head that stands after `e`: none of them is taken here then. */
function mayHoldHeads(
  heads: readonly Head[],
  group: readonly GroupMember[],
  e: number,
  clocks: Int32Array,
  row: number,
): boolean {
  for (let h = heads.length - 1; h >= 0; h--) {
    const { at, lane, nth } = heads[h] as Head;
    if (at < e) return true;
    if ((clocks[row + lane] as number) < nth && !group.some((one) => (one.row[lane] as number) >= nth)) return false;
  }
  return true;
}

/** The members by lane, those of a lane in order. */
function byLane(group: readonly GroupMember[]): GroupMember[][] {
  const lanes: GroupMember[][] = [];
  for (const member of group) {
    const known = lanes.find(([first]) => first?.id.lane === member.id.lane);
    if (known === undefined) lanes.push([member]);
    else known.push(member);
  }
  for (const ofLane of lanes) if (ofLane.length > 1) ofLane.sort((a, b) => a.id.nth - b.id.nth);
  return lanes;
}

function isLoad(kind: OpKind): boolean {
  return kind === OpKind.Load || kind === OpKind.Await;
}
