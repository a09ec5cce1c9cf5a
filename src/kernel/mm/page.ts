/**
 * Page frames and their struct page.
 *
 * A frame is a page of the heap; its number is its address divided by the page size, so that the kernel's direct map is the
 * identity. struct page holds the reference count; the frame goes back to the allocator with the last reference.
 *
 * Isolation. What a secondary user (a guest, a kernel mapping) may touch is decided by the host mm: once invalidate_range_start()
 * has returned for a range, nothing there may be touched through an old mapping until the host maps it again. The engine keeps that as
 * the frame's life: revoked, in use again, freed. Every touch of the frame's bytes is checked against it.
 */
import {
  compareExchange,
  fetchAdd,
  load,
  QUIET,
  retire,
  revive,
  type Steps,
  Struct,
  startLoop,
  UsageError,
  u53,
  type View,
  Violation,
  type World,
} from "../../engine/index.ts";
import { type Hpa, hpaToPfn, PAGE_SIZE, type Pfn, pfnToHpa } from "../../machine/index.ts";

const PAGE = new Struct("page", { _refcount: u53 });
export type Page = View<{ _refcount: typeof u53 }>;

export class PageFrames {
  readonly world: World;
  /** struct page by frame; filled in again, the same, whenever a task that allocated is rebuilt. */
  private readonly pages = new Map<Pfn, Page>();
  /** Blocks of several frames. */
  private readonly blocks: { readonly first: Pfn; readonly count: number; readonly page: (index: number) => Page }[] =
    [];

  constructor(world: World) {
    this.world = world;
  }

  /**
   * alloc_pages(): `count` consecutive zeroed frames, naturally aligned, one reference each.
   * @param label what reports call the first of them
   */
  allocate(label: string, count = 1): Pfn {
    const { world } = this;
    const addr = world.allocate(PAGE_SIZE * count, label, null, null, PAGE_SIZE * count);
    if (world.current === null) world.makeMortal(addr);
    const first = hpaToPfn(addr as Hpa);
    if (count > 1) {
      const page = PAGE.allocateArray(world, count, `struct page of ${label}`);
      for (let i = 0; i < count; i++) page(i)._refcount.value = 1;
      this.blocks.push({ first, count, page });
      return first;
    }
    const page = PAGE.allocate(world, `struct page of ${label}`);
    page._refcount.value = 1;
    this.pages.set(first, page);
    return first;
  }

  /** pfn_to_page() */
  pageOf(frame: Pfn): Page {
    const page = this.pages.get(frame) ?? this.pageInBlock(frame);
    if (page === null) throw new UsageError(`frame 0x${frame.toString(16)} was never allocated`);
    return page;
  }

  private pageInBlock(frame: Pfn): Page | null {
    const block = this.blocks.find(({ first, count }) => frame >= first && frame < first + count);
    return block === undefined ? null : block.page(frame - block.first);
  }
}

/** try_get_page(): false when the frame is already on its way back to the allocator. */
export function* tryGetPage(frames: PageFrames, frame: Pfn): Steps<boolean> {
  const { _refcount } = frames.pageOf(frame);
  const again = startLoop(frames.world);
  for (;;) {
    again();
    const count = yield* load(_refcount, QUIET);
    if (count === 0) return false;
    if ((yield* compareExchange(_refcount, count, count + 1, QUIET)) === count) return true;
  }
}

/** put_page(): the last reference frees the frame. */
export function* putPage(frames: PageFrames, frame: Pfn): Steps<void> {
  const { _refcount } = frames.pageOf(frame);
  const before = yield* fetchAdd(_refcount, -1, QUIET);
  if (before === 0) throw new Violation("page-refcount", `${_refcount.name} drops below zero`);
  if (before === 1) yield* retire(frames.world, pfnToHpa(frame), "freed", "isolation");
}

/** The host mm takes the frame away from secondary users: invalidate_range_start() has returned for it. */
export function* revokeFrame(frames: PageFrames, frame: Pfn, because: string): Steps<void> {
  yield* retire(frames.world, pfnToHpa(frame), `${because}: invalidate_range_start() has returned`, "isolation");
}

/** The host mm maps the frame (again). */
export function* allowFrame(frames: PageFrames, frame: Pfn): Steps<void> {
  yield* revive(frames.world, pfnToHpa(frame));
}
