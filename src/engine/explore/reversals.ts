/**
 * The prefixes that branch off from an execution, as DporExplorer keeps them until their turn.
 *
 * A reversal names the event to delay and what comes before it instead. Reversals with groups of commuting accesses stand for several, which
 * are made one at a time, so that memory stays polynomial in the length of an execution.
 */
import type { Failure } from "../failure.ts";
import type { ClockRow } from "../happens-before.ts";
import { type Operation, OpKind, type Ready, type Update } from "../operation.ts";

/** An event, by its place in the sequence and in its lane. */
export interface EventId {
  readonly at: number;
  readonly lane: number;
  readonly nth: number;
}

/** The bytes that an event accesses. */
export interface Reach {
  readonly addr: number;
  readonly size: number;
  /** The lane of the store buffer that may answer it, when it is a load; else -1. */
  readonly ownBuffer: number;
  /** Of several independent events that could delay the same one, that of the lowest rank does so first. */
  readonly rank: number;
}

/**
 * The rank of a task's next event: its lane, but after all others for changes of life. A store on its way to an object can disable whoever waits
 * there, which the end of the object's life never does: with the life last, it can come whenever it likes while somebody waits.
 */
export function rankOf(lane: number, op: Operation<unknown>, lanes: number): number {
  return op.kind === OpKind.Lifetime ? lane + lanes : lane;
}

/** An event that stands where it is because of a reversal or a choice. */
export interface Head extends EventId {
  readonly reach: Reach | null;
}

/** An event that was delayed by reversals and has not happened yet. */
export interface Pending {
  readonly lane: number;
  /** The heads that it was delayed by, oldest first. */
  readonly delayers: readonly Head[];
  readonly next: Pending | null;
}

/**
 * A prefix still to be explored: the sequence up to event `before`, then the schedule of an event of `head`'s lane, with the lane
 * of `before` pending. The schedule is what `row` says happens before the head.
 */
export interface Reversal {
  readonly kind: "reversal";
  readonly before: number;
  /** Where the schedule ends in the sequence, exclusive, and the lane of the head that follows it. */
  readonly at: number;
  readonly lane: number;
  readonly row: ClockRow;
  readonly reach: Reach;
}

/**
 * The reversals of one event with one group of accesses that commute (the reads between two writes, say). Those of the group that
 * are independent of `before` may come before the head or be dropped; each way is a reversal of its own. They are found one at a time.
 */
export interface GroupReversal extends Conditions {
  readonly kind: "group";
  readonly before: number;
  readonly at: number;
  readonly lane: number;
  readonly row: ClockRow;
  readonly reach: Reach;
  /** By lane: the group's events of that lane in order, as clock rows. A choice is how many of each come before the head. */
  readonly members: readonly (readonly GroupMember[])[];
  /** The next choice to try. */
  readonly choice: number[];
}

export interface GroupMember {
  readonly row: ClockRow;
  readonly id: EventId;
  /** What it makes of the value that the head finds. */
  readonly update: Update | null;
}

/** What must hold for the head to go ahead. */
export interface Conditions {
  readonly ready: Ready | null;
  /** Value of the location when `before` is dropped and none of the members is chosen. */
  readonly oldValue: number;
}

/** Another outcome of a Choose event. */
export interface Alternative {
  readonly kind: "alternative";
  readonly before: number;
  readonly choice: number;
}

export type Branch = Reversal | GroupReversal | Alternative;

/**
 * An execution with data races. Plain accesses are no events: after a reversal they may fall in another order, so that a task reads another value and does
 * something else than it did here.
 */
export interface Course {
  /** By event: see {@link requestOf}. */
  readonly requests: readonly number[];
  readonly races: readonly Failure[];
}

const KINDS = 64;

/** What an event is, as a number. */
export function requestOf(kind: OpKind, addr: number): number {
  return addr * KINDS + kind;
}

/** One prefix with the executions that branch off from its default continuation. */
export interface Frame {
  /** Lanes of the complete default execution of this prefix, with the outcomes of Choose events. */
  readonly lanes: readonly number[];
  readonly choices: readonly number[];
  readonly pendingAt: readonly (Pending | null)[];
  readonly heads: readonly Head[];
  /** What the events were, where data races may have decided it; null where there were none. */
  readonly course: Course | null;
  /** Those still to be taken, the last one first. */
  readonly branches: Branch[];
  /** Where `branches` begins among all that the frame once had. */
  readonly first: number;
  /** The branch that was taken last, counted among all: the way to the next frame. For one of a group, with its choice. */
  taken: number;
  takenChoice: readonly number[] | null;
}

/** Takes the next branch off a frame; null when there is none. */
export function nextBranch(frame: Frame): Reversal | Alternative | null {
  for (;;) {
    const branch = frame.branches.at(-1);
    if (branch === undefined) return null;
    frame.taken = frame.first + frame.branches.length - 1;
    frame.takenChoice = null;
    if (branch.kind !== "group") {
      frame.branches.pop();
      return branch;
    }
    const reversal = nextOfGroup(frame, branch);
    if (reversal !== null) return reversal;
    frame.branches.pop();
  }
}

/** The next reversal of the group that is to be taken here; null when all choices were tried. */
function nextOfGroup(frame: Frame, group: GroupReversal): Reversal | null {
  const { members, choice } = group;
  while (choice.length > 0) {
    const tried = choice.slice();
    advance(members, choice);
    const reversal = reversalOf(frame, group, tried);
    if (reversal === null) continue;
    frame.takenChoice = tried;
    return reversal;
  }
  return null;
}

/** The reversal of a group in which that many accesses of each lane come before the head; null when it is not to be taken here. */
export function reversalOf(frame: Frame, group: GroupReversal, choice: readonly number[]): Reversal | null {
  const { before, at, lane, reach, members } = group;
  const row = group.row.slice();
  const chosen: GroupMember[] = [];
  for (let i = 0; i < choice.length; i++) {
    for (let k = 0; k < (choice[i] as number); k++) {
      const member = (members[i] as readonly GroupMember[])[k] as GroupMember;
      joinInto(row, member.row);
      chosen.push(member);
    }
  }
  if (!isClosed(members, choice, row) || !holdsAfter(group, chosen)) return null;
  const was = findPending(frame.pendingAt[before] ?? null, frame.lanes[before] as number);
  if (!isTakenHere(frame.heads, was, before, row, 0, reach)) return null;
  return { kind: "reversal", before, at, lane, row, reach };
}

/** True when nothing is left of a branch: a group of which every choice was tried. */
export function isSpent(branch: Branch): boolean {
  return branch.kind === "group" && branch.choice.length === 0;
}

/** Moves on to the next choice; empties it after the last. */
function advance(members: readonly (readonly GroupMember[])[], choice: number[]): void {
  for (let i = 0; i < choice.length; i++) {
    if ((choice[i] as number) < (members[i] as readonly GroupMember[]).length) {
      choice[i] = (choice[i] as number) + 1;
      return;
    }
    choice[i] = 0;
  }
  choice.length = 0;
}

/** True when the row holds no member of the group that was not chosen. */
function isClosed(members: readonly (readonly GroupMember[])[], choice: readonly number[], row: ClockRow): boolean {
  return members.every((ofLane, i) => {
    const next = ofLane[choice[i] as number];
    return next === undefined || (row[next.id.lane] as number) < next.id.nth;
  });
}

export function holdsAfter({ ready, oldValue }: Conditions, chosen: GroupMember[]): boolean {
  if (ready === null) return true;
  let value = oldValue;
  chosen.sort((a, b) => a.id.at - b.id.at);
  for (const { update } of chosen) if (update !== null) value = update(value);
  return ready(value);
}

function joinInto(row: number[], other: ClockRow): void {
  for (let k = 0; k < row.length; k++) if ((other[k] as number) > (row[k] as number)) row[k] = other[k] as number;
}

/** Where a clock row is: in a matrix, or kept by itself. */
type Clocks = Int32Array | ClockRow;

/**
 * True when this is the one execution in which the reversal is to be taken: everything that it drops came about by default, and
 * of several independent events that could delay the same one, that of the lowest rank does so first.
 */
export function isTakenHere(
  heads: readonly Head[],
  was: Pending | null,
  before: number,
  clocks: Clocks,
  row: number,
  reach: Reach,
): boolean {
  for (let h = heads.length - 1; h >= 0; h--) {
    const head = heads[h] as Head;
    if (head.at < before) break;
    if ((clocks[row + head.lane] as number) < head.nth) return false;
  }
  return was === null || isLowest(was, reach.rank, clocks, row, reach);
}

/**
 * Goes back over the heads that delayed an event, to the last one that the new head depends on: until there it could have
 * been taken before each of them. A load depends on its own CPU's store there although it is not ordered after it: before that store
 * drained, the load would have been answered by the buffer and would not have delayed anything.
 */
export function isLowest(delayed: Pending, rank: number, clocks: Clocks, row: number, reach: Reach | null): boolean {
  for (let i = delayed.delayers.length - 1; i >= 0; i--) {
    const head = delayed.delayers[i] as Head;
    if (isAnsweredBy(reach, head) || (clocks[row + head.lane] as number) >= head.nth) return true;
    if (rank < (head.reach?.rank ?? head.lane)) return false;
  }
  return true;
}

function isAnsweredBy(load: Reach | null, drain: Head): boolean {
  if (load === null || drain.reach === null || load.ownBuffer !== drain.lane) return false;
  const { addr, size } = drain.reach;
  return addr <= load.addr && load.addr + load.size <= addr + size;
}

export function findPending(list: Pending | null, lane: number): Pending | null {
  for (let p = list; p !== null; p = p.next) if (p.lane === lane) return p;
  return null;
}

export function withoutPending(list: Pending | null, lane: number): Pending | null {
  if (findPending(list, lane) === null) return list;
  const entry = list as Pending;
  if (entry.lane === lane) return entry.next;
  return { lane: entry.lane, delayers: entry.delayers, next: withoutPending(entry.next, lane) };
}
