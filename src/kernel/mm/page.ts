/**
 * Page frames and their struct page.
 *
 * A frame is a page of the heap; its number is its address divided by the page size, so that the kernel's direct map is the
 * identity. struct page holds the reference count; the frame goes back to the allocator with the last reference. Frames that were allocated
 * as one huge page are a folio: they share the reference count of the first, and live and die together.
 *
 *     _refcount   mappings of this and other processes, the page cache, everybody who holds the page for a while
 *     _mapcount   mappings of this process; written under the page-table lock
 *     flags       what the page is to its process; written under the page-table lock
 *
 * Isolation. What a secondary user (a guest, a kernel mapping) may touch is decided by the host mm: once invalidate_range_start()
 * has returned for a range, nothing there may be touched through an old mapping until the host maps it again. The engine keeps that as
 * the frame's life: revoked, in use again, freed. Every touch of the frame's bytes is checked against it. Small frames of a huge page that
 * is unmapped in parts are freed together, and not revoked one by one.
 */
import {
  Cell,
  compareExchange,
  fetchAdd,
  load,
  QUIET,
  retire,
  revive,
  type Steps,
  Struct,
  sameU64,
  startLoop,
  type U64,
  UsageError,
  u53,
  type View,
  Violation,
  type World,
} from "../../engine/index.ts";
import { type Hpa, hpaToPfn, PAGE_SIZE, type Pfn, pfnToHpa } from "../../machine/index.ts";

const PAGE = new Struct("page", { _refcount: u53, _mapcount: u53, flags: u53 });
const REFCOUNT_OFFSET = PAGE.offsets["_refcount"] as number;
export type Page = View<{ _refcount: typeof u53; _mapcount: typeof u53; flags: typeof u53 }>;

/** Anonymous memory that nobody else maps: it may be made writable without a copy (PG_anon_exclusive). */
export const PG_EXCLUSIVE = 1;
/** Merged by KSM: read-only for good. */
export const PG_KSM = 2;
/** In the page cache of a file. */
export const PG_FILE = 4;
/** Of the first frame of a folio: split_huge_page() has made pages of their own of its frames, which still share a count. */
export const PG_SPLIT = 8;

/** Its contents are not what was last written to its swap: it may not be dropped. */
const PG_DIRTY = 16;

/** Frames that were allocated together. */
interface Folio {
  readonly first: Pfn;
  readonly count: number;
  readonly page: (index: number) => Page;
}

const CHUNK = 512;

export interface PageFramesOptions {
  /**
   * Frames that were freed are handed out again. For long runs of one thread after the other; an exploration finds more without, since
   * a freed frame then stays forbidden.
   */
  readonly reuse?: boolean;
  /** Which pages are dirty is kept. */
  readonly dirty?: boolean;
}

export class PageFrames {
  readonly world: World;
  readonly reuse: boolean;
  private readonly keepsDirty: boolean;
  /** Address of struct page, by frame that was allocated alone, else 0; filled in again, the same, whenever a task that allocated is rebuilt. */
  private readonly pages: Uint32Array;
  /** Folios of several frames, by each run of 512 frames that they have a part in. */
  private readonly folios = new Map<number, Folio[]>();
  /** 1 for a frame that is pinned for good. */
  private readonly pinned: Uint8Array;
  /** Freed frames by the size of their folio; only with `reuse`. */
  private readonly free = new Map<number, Pfn[]>();

  constructor(world: World, options: PageFramesOptions = {}) {
    this.world = world;
    this.reuse = options.reuse ?? false;
    this.keepsDirty = options.dirty ?? false;
    this.pages = new Uint32Array(world.heap.bytes / PAGE_SIZE);
    this.pinned = new Uint8Array(this.pages.length);
  }

  /**
   * alloc_pages(): `count` consecutive zeroed frames, naturally aligned, one reference each.
   * @param label what reports call the first of them
   */
  allocate(label: string, count = 1): Pfn {
    const { world } = this;
    const again = this.reuse ? this.free.get(count)?.pop() : undefined;
    if (again !== undefined) return this.recycle(again, count);
    const addr = world.allocate(PAGE_SIZE * count, label, null, null, PAGE_SIZE * count);
    if (world.current === null) world.makeMortal(addr);
    const first = hpaToPfn(addr as Hpa);
    if (count > 1) {
      const page = PAGE.allocateArray(world, count, `struct page of ${label}`);
      for (let i = 0; i < count; i++) page(i)._refcount.value = 1;
      this.addFolio({ first, count, page });
      return first;
    }
    const page = PAGE.allocate(world, `struct page of ${label}`);
    page._refcount.value = 1;
    this.pages[first] = page.addr;
    return first;
  }

  private addFolio(folio: Folio): void {
    const last = folio.first + folio.count - 1;
    for (let chunk = Math.floor(folio.first / CHUNK); chunk <= Math.floor(last / CHUNK); chunk++) {
      this.folios.set(chunk, [...(this.folios.get(chunk) ?? []), folio]);
    }
  }

  private recycle(first: Pfn, count: number): Pfn {
    const { world } = this;
    world.makeMortal(pfnToHpa(first));
    world.heap.fillFresh(pfnToHpa(first), PAGE_SIZE * count, null);
    for (let i = 0; i < count; i++) {
      const page = this.pageOf((first + i) as Pfn);
      page._refcount.value = 1;
      page._mapcount.value = 0;
      page.flags.value = 0;
    }
    return first;
  }

  /** The last reference is gone. */
  noteFreed(frame: Pfn): void {
    if (!this.reuse) return;
    const folio = this.folioOf(frame);
    const count = folio?.count ?? 1;
    const list = this.free.get(count);
    if (list === undefined) this.free.set(count, [folio?.first ?? frame]);
    else list.push(folio?.first ?? frame);
  }

  /** pfn_to_page() */
  pageOf(frame: Pfn): Page {
    const page = this.pages[frame] ?? 0;
    if (page !== 0) return PAGE.at(this.world, page);
    const folio = this.folioOf(frame);
    if (folio === null) throw new UsageError(`frame 0x${frame.toString(16)} was never allocated`);
    return folio.page(frame - folio.first);
  }

  /** page_folio(): the struct page that counts for the frame. */
  headOf(frame: Pfn): Page {
    const page = this.pages[frame] ?? 0;
    return page !== 0 ? PAGE.at(this.world, page) : this.pageOf(this.folioOf(frame)?.first ?? frame);
  }

  /** page_ref_count()'s word. Taken and given back at every look-up of a page: without a view on the rest of struct page. */
  refcountOf(frame: Pfn): Cell {
    const page = this.pages[frame] ?? 0;
    return page !== 0 ? new Cell<number>(this.world, page + REFCOUNT_OFFSET, 8, false) : this.headOf(frame)._refcount;
  }

  /** The folio of several frames that the frame is part of; null for a frame of its own. */
  private folioOf(frame: Pfn): Folio | null {
    const candidates = this.folios.get(Math.floor(frame / CHUNK)) ?? [];
    return candidates.find(({ first, count }) => frame >= first && frame < first + count) ?? null;
  }

  /**
   * pin_user_pages() during set-up, for good: the reference that is held means that no other can be the last, so what comes and goes besides is not counted.
   * A bounded exploration is spared the orders of counts that nobody can tell apart. Not for frames that the host looks at the count of.
   */
  pin(frame: Pfn): void {
    this.headOf(frame)._refcount.value += 1;
    this.pinned[frame] = 1;
  }

  isPinned(frame: Pfn): boolean {
    return this.pinned[frame] === 1;
  }

  /** How many frames were allocated together with this one. */
  folioPages(frame: Pfn): number {
    return (this.pages[frame] ?? 0) !== 0 ? 1 : (this.folioOf(frame)?.count ?? 1);
  }

  /** The first of the frames that were allocated together with this one. */
  folioStart(frame: Pfn): Pfn {
    return (this.pages[frame] ?? 0) !== 0 ? frame : (this.folioOf(frame)?.first ?? frame);
  }

  hasFlag(frame: Pfn, flag: number): boolean {
    return (this.pageOf(frame).flags.value & flag) !== 0;
  }

  /** Under the page-table lock. */
  setFlag(frame: Pfn, flag: number, on: boolean): void {
    const { flags } = this.pageOf(frame);
    const old = flags.value;
    const wanted = on ? old | flag : old & ~flag;
    if (wanted !== old) flags.value = wanted;
  }

  /** set_page_dirty(), by whoever; atomic, and seen by nobody but who looks at the end. */
  markDirty(frame: Pfn): void {
    if (!this.keepsDirty || this.world.current?.ghost === true) return;
    const { flags } = this.pageOf(frame);
    this.world.heap.write(flags.addr, 8, flags.peek() | PG_DIRTY, 0);
  }

  /** PageDirty(). For oracles. */
  isMarkedDirty(frame: Pfn): boolean {
    return (this.pageOf(frame).flags.peek() & PG_DIRTY) !== 0;
  }

  /** This process maps the frame (once more), or no longer. Under the page-table lock. */
  countMapping(frame: Pfn, delta: number): void {
    const { _mapcount } = this.headOf(frame);
    _mapcount.value = _mapcount.value + delta;
  }
}

/** The word of a frame that stands for all of it where a race with its users is looked for. */
const firstWord = (frames: PageFrames, frame: Pfn): Cell<U64> => new Cell<U64>(frames.world, pfnToHpa(frame), 8, true);
const REST = 8;

/**
 * copy_user_highpage(): the bytes of `count` frames. The first word is read by a step of its own, so that a write by the source's users which comes
 * too late is seen to do so; the rest goes along.
 */
export function* copyPages(frames: PageFrames, from: Pfn, to: Pfn, count = 1): Steps<void> {
  const first = yield* load(firstWord(frames, from), QUIET);
  copyRevokedPages(frames, from, to, count);
  const { world } = frames;
  if (!world.current?.ghost) world.heap.write(pfnToHpa(to), 8, first.lo, first.hi);
}

/** The same for frames that the host has taken away from everybody else: it may read them, and a write that comes too late is a touch of its own. */
export function copyRevokedPages(frames: PageFrames, from: Pfn, to: Pfn, count = 1): void {
  const { world } = frames;
  if (world.current?.ghost) return;
  const { heap } = world;
  const source = pfnToHpa(from);
  const target = pfnToHpa(to);
  for (let offset = 0; offset < PAGE_SIZE * count; offset += 8) {
    const lo = heap.read(source + offset, 8);
    const { high } = heap;
    if (heap.read(target + offset, 8) !== lo || heap.high !== high) heap.write(target + offset, 8, lo, high);
  }
}

/** memcmp_pages(): whether two frames have the same bytes. Others may write meanwhile, as in Linux: who compares protects before the last time. */
export function* arePagesEqual(frames: PageFrames, a: Pfn, b: Pfn): Steps<boolean> {
  const firstOfA = yield* load(firstWord(frames, a), QUIET);
  const firstOfB = yield* load(firstWord(frames, b), QUIET);
  if (!sameU64(firstOfA, firstOfB)) return false;
  const isSame = remembered(frames.world, ({ heap }) => {
    for (let offset = REST; offset < PAGE_SIZE; offset += 8) {
      const lo = heap.read(pfnToHpa(a) + offset, 8);
      const { high } = heap;
      if (heap.read(pfnToHpa(b) + offset, 8) !== lo || heap.high !== high) return 0;
    }
    return 1;
  });
  return isSame === 1;
}

/** calc_checksum() */
export function* checksumOf(frames: PageFrames, frame: Pfn): Steps<number> {
  const first = yield* load(firstWord(frames, frame), QUIET);
  return remembered(frames.world, ({ heap }) => {
    let sum = Math.imul(first.lo, 31) + first.hi;
    for (let offset = REST; offset < PAGE_SIZE; offset += 8) {
      sum = (Math.imul(sum, 31) + heap.read(pfnToHpa(frame) + offset, 8)) | 0;
      sum = (Math.imul(sum, 31) + heap.high) | 0;
    }
    return sum >>> 0;
  });
}

/** What memory says at this moment; the same again when the task is rebuilt later. */
function remembered(world: World, look: (world: World) => number): number {
  const task = world.current;
  if (task?.ghost) return task.replay();
  const value = look(world);
  task?.record(value, 0);
  return value;
}

/** try_get_page(): false when the frame is already on its way back to the allocator. */
export function* tryGetPage(frames: PageFrames, frame: Pfn): Steps<boolean> {
  if (frames.isPinned(frame)) return true;
  const refcount = frames.refcountOf(frame);
  const again = startLoop(frames.world);
  for (;;) {
    again();
    const count = yield* load(refcount, QUIET);
    if (count === 0) return false;
    if ((yield* compareExchange(refcount, count, count + 1, QUIET)) === count) return true;
  }
}

/** put_page(): the last reference frees the frame. */
export function* putPage(frames: PageFrames, frame: Pfn): Steps<void> {
  if (frames.isPinned(frame)) return;
  const refcount = frames.refcountOf(frame);
  const before = yield* fetchAdd(refcount, -1, QUIET);
  if (before <= 1) yield* freePage(frames, frame, before);
}

function* freePage(frames: PageFrames, frame: Pfn, references: number): Steps<void> {
  if (references === 0) {
    throw new Violation("page-refcount", `${frames.refcountOf(frame).name} drops below zero`);
  }
  yield* retire(frames.world, pfnToHpa(frame), "freed", "isolation");
  frames.noteFreed(frame);
}

/** Several references at once: a huge mapping becomes small ones. */
export function* addPageReferences(frames: PageFrames, frame: Pfn, count: number): Steps<void> {
  yield* fetchAdd(frames.refcountOf(frame), count, QUIET);
}

/** The host mm takes the frame away from secondary users: invalidate_range_start() has returned for it. */
export function* revokeFrame(frames: PageFrames, frame: Pfn, because: string): Steps<void> {
  yield* retire(frames.world, pfnToHpa(frame), `${because}: invalidate_range_start() has returned`, "isolation");
}

/** The host mm maps the frame (again). */
export function* allowFrame(frames: PageFrames, frame: Pfn): Steps<void> {
  yield* revive(frames.world, pfnToHpa(frame));
}
