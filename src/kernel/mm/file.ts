/**
 * A file in memory (memfd): its page cache, and holes punched into it.
 *
 * Stands for shmem: a page that is missing is made, zeroed, by the first access. The cache holds one reference to each of its pages, each mapping another.
 * It is read and changed under the page-table lock of the one process that there is.
 */
import { Cell, type Steps, type World } from "../../engine/index.ts";
import { hva, PAGE_SIZE, type Pfn } from "../../machine/index.ts";
import { readLock, readUnlock, spinLock, spinUnlock } from "../locks.ts";
import type { Mm } from "./mm.ts";
import { MMU_NOTIFY_CLEAR } from "./notifier.ts";
import { type PageFrames, PG_FILE, putPage } from "./page.ts";
import { vmasIn } from "./vma.ts";
import { zapRange } from "./zap.ts";

export class MemFile {
  readonly world: World;
  readonly frames: PageFrames;
  readonly name: string;
  readonly pages: number;
  private readonly slots: number;

  /** Set-up only. */
  constructor(world: World, frames: PageFrames, name: string, pages: number) {
    this.world = world;
    this.frames = frames;
    this.name = name;
    this.pages = pages;
    this.slots = world.allocate(8 * pages, name, (offset) => `[${offset / 8}]`);
  }

  /** The frame of a page in the cache; 0 for a hole. */
  slot(index: number): Cell {
    return new Cell<number>(this.world, this.slots + 8 * index, 8, false);
  }

  /** shmem_get_folio(): the page, made if it is missing. */
  getPage(index: number): Pfn {
    const slot = this.slot(index);
    if (slot.value !== 0) return slot.value as Pfn;
    const frame = this.frames.allocate(`${this.name}[${index}]`);
    this.frames.setFlag(frame, PG_FILE, true);
    slot.value = frame;
    return frame;
  }
}

/**
 * fallocate(FALLOC_FL_PUNCH_HOLE), as shmem_fallocate() does it: the hole is unmapped wherever the file is mapped, then its pages go. Copies that
 * a private mapping has made stay.
 * @param hole pages of the file, `end` exclusive
 */
export function* punchHole(
  mm: Mm,
  number: number,
  hole: { readonly start: number; readonly end: number },
): Steps<void> {
  const file = mm.files[number - 1] as MemFile;
  // Linux holds the file's i_mmap_rwsem here, which keeps its mappings as they are.
  yield* readLock(mm.mmapLock);
  for (const vma of vmasIn(mm, mm.base, hva(mm.base + mm.pages * PAGE_SIZE))) {
    if (vma.vm_file.value !== number) continue;
    const pgoff = vma.vm_pgoff.value;
    const pages = (vma.vm_end.value - vma.vm_start.value) / PAGE_SIZE;
    const first = Math.max(hole.start, pgoff);
    const end = Math.min(hole.end, pgoff + pages);
    if (first >= end) continue;
    const addr = (index: number) => hva(vma.vm_start.value + (index - pgoff) * PAGE_SIZE);
    const range = { start: addr(first), end: addr(end), event: MMU_NOTIFY_CLEAR };
    yield* zapRange(mm, range, "a hole punched in the file", null, "file pages");
  }
  yield* readUnlock(mm.mmapLock);
  yield* truncate(mm, file, hole);
}

/** shmem_truncate_range() */
function* truncate(mm: Mm, file: MemFile, hole: { readonly start: number; readonly end: number }): Steps<void> {
  const freed: Pfn[] = [];
  yield* spinLock(mm.pageTableLock);
  for (let index = hole.start; index < Math.min(hole.end, file.pages); index++) {
    const slot = file.slot(index);
    if (slot.value === 0) continue;
    freed.push(slot.value as Pfn);
    slot.value = 0;
  }
  yield* spinUnlock(mm.pageTableLock);
  for (const frame of freed) yield* putPage(mm.frames, frame);
}
