/**
 * struct tdp_iter: a walk over the entries of a TDP root that map a range of guest frames, in order, parents before children.
 *
 * Each entry is read once when the walk gets there (`oldSpte`); whoever changes it must expect it to have changed since. `yielded` says that
 * the locks were dropped at this entry: the next step starts again from the root, towards the same frame.
 * Stands for tdp_iter.c of 6.12 and 7.2. Runs inside an RCU read-side section, which keeps the tables that it is in allocated.
 */
import { Cell, loadEntry, type Steps, type U64, u64, type World } from "../engine/index.ts";
import { type Gfn, PAGE_SIZE, pagesPerLevel, tableIndex } from "../machine/index.ts";
import { type KvmMmuPage, spGfn, spLevel } from "./mmu-page.ts";
import { isLastSpte, isShadowPresentPte, spteToPfn } from "./spte.ts";

const ENTRY_BYTES = 8;
/** Offset of the last entry of a table. */
const LAST_ENTRY = PAGE_SIZE - ENTRY_BYTES;

export class TdpIter {
  readonly world: World;
  readonly root: KvmMmuPage;
  readonly rootLevel: number;
  readonly minLevel: number;
  readonly start: Gfn;
  /** First frame after the range. */
  readonly end: Gfn;
  readonly asId = 0;
  /** The frame that the walk is on its way to. */
  nextLastLevelGfn: Gfn;
  /** Where the locks were dropped last: they are not dropped twice at one frame. */
  yieldedGfn: Gfn;
  level = 0;
  /** First frame that the entry covers. */
  gfn: Gfn;
  /** The table the entry is in, by level; 0 where the walk has not been. */
  readonly ptPath: number[] = [0, 0, 0, 0, 0, 0];
  /** Address of the entry. */
  sptepAddr = 0;
  /** Halves of {@link oldSpte}: a walk over many entries keeps no object of each. */
  private oldHi = 0;
  private oldLo = 0;
  valid = true;
  yielded = false;

  constructor(world: World, root: KvmMmuPage, minLevel: number, start: Gfn, end: Gfn) {
    this.world = world;
    this.root = root;
    this.rootLevel = spLevel(root);
    this.minLevel = minLevel;
    this.start = start;
    this.end = end;
    this.nextLastLevelGfn = start;
    this.yieldedGfn = start;
    this.gfn = spGfn(root);
  }

  /** The entry as the walk has read it last. */
  get oldSpte(): U64 {
    return u64(this.oldHi, this.oldLo);
  }

  set oldSpte({ hi, lo }: U64) {
    this.oldHi = hi;
    this.oldLo = lo;
  }

  /** All that the rest of the walk depends on, besides what it reads. */
  position(): number[] {
    const { level, gfn, nextLastLevelGfn, yieldedGfn, oldSpte, yielded } = this;
    const path = this.ptPath.slice(level);
    return [level, gfn, nextLastLevelGfn, yieldedGfn, oldSpte.hi, oldSpte.lo, yielded ? 1 : 0, ...path];
  }

  get sptep(): Cell<U64> {
    return new Cell<U64>(this.world, this.sptepAddr, 8, true);
  }
}

function roundDown(frame: Gfn, level: number): Gfn {
  return (frame - (frame % pagesPerLevel(level))) as Gfn;
}

function* readSpte(iter: TdpIter): Steps<void> {
  iter.oldSpte = yield* loadEntry(iter.world, iter.sptepAddr);
}

/** tdp_iter_refresh_sptep() */
function* refreshSptep(iter: TdpIter): Steps<void> {
  iter.sptepAddr = (iter.ptPath[iter.level] as number) + ENTRY_BYTES * tableIndex(iter.gfn, iter.level);
  yield* readSpte(iter);
}

/** tdp_iter_start() */
export function* tdpIterStart(world: World, root: KvmMmuPage, minLevel: number, start: Gfn, end: Gfn): Steps<TdpIter> {
  const iter = new TdpIter(world, root, minLevel, start, end);
  yield* tdpIterRestart(iter);
  return iter;
}

/** tdp_iter_restart(): again from the root, towards the same frame. */
export function* tdpIterRestart(iter: TdpIter): Steps<void> {
  iter.yielded = false;
  iter.yieldedGfn = iter.nextLastLevelGfn;
  iter.level = iter.rootLevel;
  iter.gfn = roundDown(iter.nextLastLevelGfn, iter.level);
  iter.ptPath[iter.level] = iter.root.spt.value;
  yield* refreshSptep(iter);
  iter.valid = true;
}

/** tdp_iter_next(): down if there is a table below, else on to the next entry, else up. */
export function* tdpIterNext(iter: TdpIter): Steps<void> {
  if (iter.yielded) {
    yield* tdpIterRestart(iter);
    return;
  }
  if (yield* tryStepDown(iter)) return;
  do {
    if (yield* tryStepSide(iter)) {
      // The range ends inside a table: what lies beyond it is not visited.
      if (iter.gfn >= iter.end) iter.valid = false;
      return;
    }
  } while (yield* tryStepUp(iter));
  iter.valid = false;
}

function* tryStepDown(iter: TdpIter): Steps<boolean> {
  if (iter.level === iter.minLevel) return false;
  // The entry is read again: it may have been changed by whoever runs the walk.
  yield* readSpte(iter);
  if (!isShadowPresentPte(iter.oldSpte) || isLastSpte(iter.oldSpte, iter.level)) return false;
  const child = spteToPfn(iter.oldSpte) * PAGE_SIZE;
  iter.level--;
  iter.ptPath[iter.level] = child;
  iter.gfn = roundDown(iter.nextLastLevelGfn, iter.level);
  yield* refreshSptep(iter);
  return true;
}

function* tryStepSide(iter: TdpIter): Steps<boolean> {
  if ((iter.sptepAddr & (PAGE_SIZE - 1)) === LAST_ENTRY) return false;
  const next = (iter.gfn + pagesPerLevel(iter.level)) as Gfn;
  iter.gfn = next;
  iter.nextLastLevelGfn = next;
  iter.sptepAddr += ENTRY_BYTES;
  if (next < iter.end) yield* readSpte(iter);
  return true;
}

function* tryStepUp(iter: TdpIter): Steps<boolean> {
  if (iter.level === iter.rootLevel) return false;
  iter.level++;
  iter.gfn = roundDown(iter.gfn, iter.level);
  yield* refreshSptep(iter);
  return true;
}
