/**
 * Parts of an exploration tree, as they are handed from thread to thread and written to disk.
 *
 * The explorer walks a tree: a node is an execution, its children are the branches that were found in it. What is left to explore is at any moment
 * the open branches along one path from the root. So it can be cut into pieces anywhere, each again the open branches along a path, and a
 * piece can be written down as that path: the number of the branch taken at each node. Whoever reads it makes the executions on the path
 * again, finds the same branches there, and goes on. Nothing depends on how often that happened before.
 *
 *     { "turns": [[4], [2,0,1]], "open": [[0,3], [5,5], [0,2,1,0]] }
 *
 *     From the first execution branch 4 was taken, and in what came of it branch 2, a group, with 0 and 1 accesses of its lanes first. Still open
 *     are branches 0 to 2 of the first; none of the second; 0 and 1 of the third, where of the group 1 the choices before (1, 0) were tried.
 */
import { UsageError } from "../assert.ts";
import type { DporExplorer, DporHooks } from "./dpor.ts";
import { type Alternative, type Frame, isSpent, type Reversal, reversalOf } from "./reversals.ts";

export interface Subtree {
  /** By node of the path, but the last: the branch taken to the next one; of a group, with its choice. */
  readonly turns: readonly (readonly number[])[];
  /** By node of the path: the first open branch, the one behind the last, and when that is a group, its next choice. */
  readonly open: readonly (readonly number[])[];
}

export const WHOLE_TREE: Subtree = { turns: [], open: [] };

const QUIET: DporHooks = { onExecution: () => true, onBlocked: () => undefined };

/**
 * Divides the open branches of a path into up to `pieces` pieces, those nearest to the root first: they are the largest. Later ones branch off
 * further down, so whoever explores the last piece first never has more to remember than the branches along one path.
 */
export function divide(frames: readonly Frame[], pieces: number): Frame[][] {
  const open: { readonly frame: number; readonly branch: number }[] = [];
  for (const [f, frame] of frames.entries()) {
    for (const [b, branch] of frame.branches.entries()) if (!isSpent(branch)) open.push({ frame: f, branch: b });
  }
  const count = Math.min(pieces, open.length);
  return Array.from({ length: count }, (_, p) => {
    const mine = open.slice(Math.floor((open.length * p) / count), Math.floor((open.length * (p + 1)) / count));
    const last = mine.at(-1)?.frame ?? -1;
    return frames.slice(0, last + 1).map((frame, f) => {
      const places = mine.filter((place) => place.frame === f).map((place) => place.branch);
      const from = places[0] ?? 0;
      return { ...frame, first: frame.first + from, branches: frame.branches.slice(from, from + places.length) };
    });
  });
}

/** Writes down what is left; null stands for everything. */
export function writeSubtree(frames: readonly Frame[] | null): Subtree {
  if (frames === null) return WHOLE_TREE;
  const turns = frames.slice(0, -1).map((frame) => [frame.taken, ...(frame.takenChoice ?? [])]);
  const open = frames.map(({ first, branches }) => {
    const left = branches.filter((branch) => !isSpent(branch));
    const last = left.at(-1);
    return [first, first + left.length, ...(last?.kind === "group" ? last.choice : [])];
  });
  return { turns, open };
}

/**
 * Makes the explorer's path again, so that it goes on with what is open there.
 * @throws UsageError when the program has no such path: it is not the one that this was written for
 */
export function readSubtree(explorer: DporExplorer, { turns, open }: Subtree): Frame[] | null {
  if (open.length === 0) return null;
  if (turns.length !== open.length - 1) throw strange();
  const frames: Frame[] = [];
  let frame = explorer.visitFirst(QUIET);
  for (const [i, [from, to, ...choice]] of open.entries()) {
    if (frame === null || from === undefined || to === undefined || from > to || to > frame.branches.length) {
      throw strange();
    }
    const turn = turns[i];
    const whole: Frame = frame;
    const branches = whole.branches.slice(from, to);
    const last = branches.at(-1);
    const path = { ...whole, first: from, branches };
    frames.push(path);
    if (turn !== undefined) {
      const [index = -1, ...taken] = turn;
      path.taken = index;
      path.takenChoice = taken.length > 0 ? taken : null;
      frame = explorer.visit(whole, branchAt(whole, index, taken), QUIET);
    }
    if (last?.kind === "group") {
      if (choice.length !== last.choice.length) throw strange();
      last.choice.splice(0, choice.length, ...choice);
    } else if (choice.length > 0) {
      throw strange();
    }
  }
  return frames;
}

function branchAt(frame: Frame, index: number, choice: readonly number[]): Reversal | Alternative {
  const branch = frame.branches[index];
  if (branch === undefined) throw strange();
  if (branch.kind !== "group") return branch;
  if (choice.length !== branch.members.length) throw strange();
  const reversal = reversalOf(frame, branch, choice);
  if (reversal === null) throw strange();
  return reversal;
}

function strange(): UsageError {
  return new UsageError("the exploration cannot go on from there: it was written for another program; begin it anew");
}
