/**
 * The host's memory management of the VMM's process: mappings, page tables, faults, and the MMU notifiers that tell secondary users.
 *
 * Stands for what KVM relies on of mm/: mmap_lock, VMAs, the process's page tables, get_user_pages (fast and slow), munmap(), mprotect(),
 * madvise(MADV_DONTNEED). Page tables are up to three levels of 512 entries: the 4K entries of the mapped window, its 2M entries, and, in a process
 * that has 1G pages, its 1G entries; the links between them never change while a process lives and are left out. An entry is
 *
 *     bits 12..51  frame        bit 7  huge (above the 4K entries)      bit 1  writable      bit 0  present
 *
 * Order in munmap() and madvise(), as the contract of the notifiers allows at its widest: start(), entries cleared, frames freed, end().
 */
import {
  assert,
  Cell,
  exchange,
  load,
  type Steps,
  Struct,
  store,
  u53,
  type View,
  type World,
} from "../../engine/index.ts";
import { type Hva, hva, PAGE_SIZE, type Pfn } from "../../machine/index.ts";
import { current } from "../current.ts";
import { RwLock, readLock, readUnlock, SpinLock, spinLock, spinUnlock, writeLock, writeUnlock } from "../locks.ts";
import { allowFrame, type PageFrames, putPage, revokeFrame, tryGetPage } from "./page.ts";

export const PROT_NONE = 0;
export const PROT_READ = 1;
export const PROT_WRITE = 2;

/** Why the host mm invalidates (enum mmu_notifier_event). */
export const MMU_NOTIFY_UNMAP = 0;
export const MMU_NOTIFY_CLEAR = 1;
export const MMU_NOTIFY_PROTECTION_VMA = 2;
export const MMU_NOTIFY_PROTECTION_PAGE = 3;

/** struct mmu_notifier_range; `end` is exclusive. */
export interface NotifierRange {
  readonly start: Hva;
  readonly end: Hva;
  readonly event: number;
}

/** struct mmu_notifier_ops: what a secondary user registers. */
export interface MmuNotifierOps {
  invalidateRangeStart(range: NotifierRange): Steps<void>;
  invalidateRangeEnd(range: NotifierRange): Steps<void>;
  /** Was the range used since the last call? Clears the marks; and flushes TLBs, where the architecture wants it. */
  clearFlushYoung(start: Hva, end: Hva): Steps<boolean>;
  /** The same without a flush. */
  clearYoung(start: Hva, end: Hva): Steps<boolean>;
  /** The same without clearing. */
  testYoung(addr: Hva): Steps<boolean>;
}

/** What get_user_pages found. */
export interface UserPage {
  readonly pfn: Pfn;
  readonly writable: boolean;
  /** Level of the host's mapping: 1 for 4K, 2 for 2M, 3 for 1G. */
  readonly level: number;
}

const VMA = new Struct("vm_area_struct", { vm_start: u53, vm_end: u53, vm_prot: u53 });
type Vma = View<{ vm_start: typeof u53; vm_end: typeof u53; vm_prot: typeof u53 }>;

const PTE_PRESENT = 1;
const PTE_WRITABLE = 2;
const PTE_HUGE = 0x80;
const ENTRIES = 512;
const PMD_SIZE = PAGE_SIZE * ENTRIES;
const PUD_SIZE = PMD_SIZE * ENTRIES;

const pteFrame = (pte: number): Pfn => Math.floor(pte / PAGE_SIZE) as Pfn;
const makePte = (frame: Pfn, writable: boolean, huge = false): number =>
  frame * PAGE_SIZE + PTE_PRESENT + (writable ? PTE_WRITABLE : 0) + (huge ? PTE_HUGE : 0);

/** Decides in Linux's place what backs an address: for following a recording of what the host did. */
export interface HostPolicy {
  /** The page at `addr` is about to be looked up; its entry may be changed, and notifiers be called, as a host fault would. */
  beforeLookup(addr: Hva, write: boolean): Steps<void>;
  /** Its mapping's level is about to be looked at. */
  beforeLevel(addr: Hva): Steps<void>;
}

export interface MmOptions {
  /** The process has 1G pages: their entries are looked at. */
  readonly gigantic?: boolean;
}

export class Mm {
  readonly world: World;
  readonly frames: PageFrames;
  readonly mmapLock: RwLock;
  readonly pageTableLock: SpinLock;
  /** Registered before any thread runs; the list does not change. */
  readonly notifiers: MmuNotifierOps[] = [];
  /** The window of addresses that the page tables cover. */
  readonly base: Hva;
  readonly pages: number;
  readonly gigantic: boolean;
  policy: HostPolicy | null = null;
  private readonly vmas: Vma[] = [];
  private readonly puds: number;
  private readonly pmds: number;
  private readonly ptes: number;

  /** @param pages size of the window in 4K pages; `base` is aligned to the largest page */
  constructor(world: World, frames: PageFrames, base: Hva, pages: number, options: MmOptions = {}) {
    this.gigantic = options.gigantic ?? false;
    assert(base % (this.gigantic ? PUD_SIZE : PMD_SIZE) === 0, "the window of an mm is aligned to its largest page");
    this.world = world;
    this.frames = frames;
    this.base = base;
    this.pages = pages;
    this.mmapLock = new RwLock(world, "mm->mmap_lock", true);
    this.pageTableLock = new SpinLock(world, "mm->page_table_lock");
    const tables = Math.ceil(pages / ENTRIES);
    const directories = Math.ceil(tables / ENTRIES);
    const label = (level: string, size: number) => (offset: number) =>
      `${level}[${(base + (offset / 8) * size).toString(16)}]`;
    this.puds = this.gigantic ? world.allocate(8 * directories, "", label("pud", PUD_SIZE)) : 0;
    this.pmds = world.allocate(8 * tables, "", label("pmd", PMD_SIZE));
    this.ptes = world.allocate(8 * pages, "", label("pte", PAGE_SIZE));
  }

  private indexOf(addr: Hva): number {
    const index = Math.floor((addr - this.base) / PAGE_SIZE);
    assert(index >= 0 && index < this.pages, `0x${addr.toString(16)} is outside the process's window`);
    return index;
  }

  pteOf(addr: Hva): Cell {
    return new Cell<number>(this.world, this.ptes + 8 * this.indexOf(addr), 8, false);
  }

  pmdOf(addr: Hva): Cell {
    return new Cell<number>(this.world, this.pmds + 8 * Math.floor(this.indexOf(addr) / ENTRIES), 8, false);
  }

  pudOf(addr: Hva): Cell {
    return new Cell<number>(this.world, this.puds + 8 * Math.floor(this.indexOf(addr) / ENTRIES ** 2), 8, false);
  }

  /** The 4K frame mapped at `addr`, if there is one. For set-up and oracles. */
  frameAt(addr: Hva): Pfn | null {
    const pte = this.pteOf(addr).peek();
    return (pte & PTE_PRESENT) === 0 ? null : pteFrame(pte);
  }

  /** Whether the window covers the address. */
  covers(addr: Hva): boolean {
    return addr >= this.base && addr < this.base + this.pages * PAGE_SIZE;
  }

  /** Puts a page of a level in place, over whatever smaller ones were there. With nobody else running. */
  install(addr: Hva, frame: Pfn, level: number, writable: boolean): void {
    if (this.gigantic) this.pudOf(addr).value = level === 3 ? makePte(frame, writable, true) : 0;
    this.pmdOf(addr).value = level === 2 ? makePte(frame, writable, true) : 0;
    if (level === 1) this.pteOf(addr).value = makePte(frame, writable);
  }

  /** Takes every page of a range out of the tables; huge ones that it cuts go as a whole. With nobody else running. */
  clear(start: Hva, end: Hva): void {
    for (let addr = start; addr < end; addr = hva(addr + PAGE_SIZE)) {
      if (this.gigantic) this.pudOf(addr).value = 0;
      this.pmdOf(addr).value = 0;
      this.pteOf(addr).value = 0;
    }
  }

  // --- set-up ----------------------------------------------------------------------------------------------------

  /** Maps [start, end) during set-up, without any page in it. */
  addVma(start: Hva, end: Hva, prot: number): void {
    const vma = VMA.allocate(this.world, `vma[0x${start.toString(16)}]`);
    vma.vm_start.value = start;
    vma.vm_end.value = end;
    vma.vm_prot.value = prot;
    this.vmas.push(vma);
  }

  /** Puts a frame at `addr` during set-up; returns it. */
  populate(addr: Hva, label = `frame@${addr.toString(16)}`, writable = true): Pfn {
    const frame = this.frames.allocate(label);
    this.pteOf(addr).value = makePte(frame, writable);
    return frame;
  }

  // --- lookups -----------------------------------------------------------------------------------------------------

  /** vma_lookup(): under mmap_lock. */
  private vmaAt(addr: Hva): Vma | null {
    for (const vma of this.vmas) {
      if (addr >= vma.vm_start.value && addr < vma.vm_end.value) return vma;
    }
    return null;
  }

  protAt(addr: Hva): number {
    return this.vmaAt(addr)?.vm_prot.value ?? PROT_NONE;
  }

  *changeVma(start: Hva, end: Hva, prot: number): Steps<void> {
    assert(current(this.world).holds(this.mmapLock, "exclusive"), "VMAs change under mmap_lock held for write");
    for (const vma of this.vmas) {
      const inside = vma.vm_start.value >= start && vma.vm_end.value <= end;
      if (inside) vma.vm_prot.value = prot;
    }
  }
}

// --- get_user_pages --------------------------------------------------------------------------------------------------

/**
 * get_user_pages_fast_only(): looks at the page tables with interrupts off and no lock. The frame may be unmapped and freed at any moment,
 * so a reference is taken only if there is one left, and the entry is read again afterwards.
 */
export function* getUserPageFast(mm: Mm, addr: Hva, write: boolean): Steps<UserPage | null> {
  const index = Math.floor((addr - mm.base) / PAGE_SIZE);
  for (const level of mm.gigantic ? [3, 2] : [2]) {
    const cell = level === 3 ? mm.pudOf(addr) : mm.pmdOf(addr);
    const entry = yield* load(cell);
    if ((entry & PTE_HUGE) === 0) continue;
    if (write && (entry & PTE_WRITABLE) === 0) return null;
    const frame = (pteFrame(entry) + (index % ENTRIES ** (level - 1))) as Pfn;
    return yield* grabStable(mm, cell, entry, frame, level);
  }
  const cell = mm.pteOf(addr);
  const pte = yield* load(cell);
  if ((pte & PTE_PRESENT) === 0 || (write && (pte & PTE_WRITABLE) === 0)) return null;
  return yield* grabStable(mm, cell, pte, pteFrame(pte), 1);
}

/** host_pfn_mapping_level(): the level of the host's own mapping, looked at without a lock; a hint, checked by the caller's sequence number. */
export function* hostMappingLevel(mm: Mm, addr: Hva): Steps<number> {
  if (mm.policy !== null) yield* mm.policy.beforeLevel(addr);
  if (mm.gigantic && ((yield* load(mm.pudOf(addr))) & PTE_HUGE) !== 0) return 3;
  return ((yield* load(mm.pmdOf(addr))) & PTE_HUGE) !== 0 ? 2 : 1;
}

function* grabStable(mm: Mm, cell: Cell, entry: number, frame: Pfn, level: number): Steps<UserPage | null> {
  if (!(yield* tryGetPage(mm.frames, frame))) return null;
  if ((yield* load(cell)) !== entry) {
    yield* putPage(mm.frames, frame);
    return null;
  }
  return { pfn: frame, writable: (entry & PTE_WRITABLE) !== 0, level };
}

/** get_user_pages_unlocked(): under mmap_lock; brings the page in if need be. Null when the address is not mapped that way. */
export function* getUserPage(mm: Mm, addr: Hva, write: boolean): Steps<UserPage | null> {
  if (mm.policy !== null) yield* mm.policy.beforeLookup(addr, write);
  const fast = yield* getUserPageFast(mm, addr, write);
  if (fast !== null) return fast;
  yield* readLock(mm.mmapLock);
  const page = yield* followOrFault(mm, addr, write);
  yield* readUnlock(mm.mmapLock);
  return page;
}

function* followOrFault(mm: Mm, addr: Hva, write: boolean): Steps<UserPage | null> {
  const prot = mm.protAt(addr);
  if ((prot & (write ? PROT_WRITE : PROT_READ)) === 0) return null;
  const cell = mm.pteOf(addr);
  yield* spinLock(mm.pageTableLock);
  let pte = yield* load(cell);
  if ((pte & PTE_PRESENT) === 0) {
    // do_anonymous_page(): a fresh zeroed frame, mapped as the VMA allows.
    const frame = mm.frames.allocate(`frame@${addr.toString(16)}`);
    pte = makePte(frame, (prot & PROT_WRITE) !== 0);
    yield* store(cell, pte);
  } else if (write && (pte & PTE_WRITABLE) === 0) {
    pte = makePte(pteFrame(pte), true);
    yield* store(cell, pte);
  }
  const frame = pteFrame(pte);
  const got = yield* tryGetPage(mm.frames, frame);
  yield* spinUnlock(mm.pageTableLock);
  assert(got, "a mapped frame has no reference");
  return { pfn: frame, writable: (pte & PTE_WRITABLE) !== 0, level: 1 };
}

// --- changing mappings -----------------------------------------------------------------------------------------------

/** mmu_notifier_invalidate_range_start() */
export function* notifyStart(mm: Mm, range: NotifierRange): Steps<void> {
  for (const ops of mm.notifiers) yield* ops.invalidateRangeStart(range);
}

/** mmu_notifier_invalidate_range_end() */
export function* notifyEnd(mm: Mm, range: NotifierRange): Steps<void> {
  for (const ops of mm.notifiers) yield* ops.invalidateRangeEnd(range);
}

/** From the moment when start() has returned, nobody may touch what is mapped in the range. */
function* revokeRange(mm: Mm, range: NotifierRange, because: string): Steps<void> {
  for (let addr = range.start; addr < range.end; addr = hva(addr + PAGE_SIZE)) {
    const pte = yield* load(mm.pteOf(addr));
    if ((pte & PTE_PRESENT) !== 0) yield* revokeFrame(mm.frames, pteFrame(pte), because);
  }
}

/**
 * zap_page_range_single(): start(), clear the entries, free the frames, end().
 * @param started done when start() has returned; for scenarios
 */
export function* zapRange(
  mm: Mm,
  range: NotifierRange,
  because: string,
  started: (() => Steps<void>) | null = null,
): Steps<void> {
  yield* notifyStart(mm, range);
  yield* revokeRange(mm, range, because);
  if (started !== null) yield* started();
  yield* spinLock(mm.pageTableLock);
  const freed: Pfn[] = [];
  for (let addr = range.start; addr < range.end; addr = hva(addr + PAGE_SIZE)) {
    const pte = yield* exchange(mm.pteOf(addr), 0);
    if ((pte & PTE_PRESENT) !== 0) freed.push(pteFrame(pte));
  }
  yield* spinUnlock(mm.pageTableLock);
  for (const frame of freed) yield* putPage(mm.frames, frame);
  yield* notifyEnd(mm, range);
}

/** madvise(MADV_DONTNEED): the pages go, the mapping stays. */
export function* madviseDontneed(mm: Mm, start: Hva, end: Hva): Steps<void> {
  yield* readLock(mm.mmapLock);
  yield* zapRange(mm, { start, end, event: MMU_NOTIFY_CLEAR }, "madvise(MADV_DONTNEED)");
  yield* readUnlock(mm.mmapLock);
}

/** munmap(): the mapping goes, then its pages. */
export function* munmap(mm: Mm, start: Hva, end: Hva): Steps<void> {
  yield* writeLock(mm.mmapLock);
  yield* mm.changeVma(start, end, PROT_NONE);
  yield* zapRange(mm, { start, end, event: MMU_NOTIFY_UNMAP }, "munmap()");
  yield* writeUnlock(mm.mmapLock);
}

/** mmap(MAP_FIXED) of fresh anonymous memory over what was there. */
export function* mmapFixed(mm: Mm, start: Hva, end: Hva, prot: number): Steps<void> {
  yield* writeLock(mm.mmapLock);
  yield* zapRange(mm, { start, end, event: MMU_NOTIFY_UNMAP }, "mmap(MAP_FIXED)");
  yield* mm.changeVma(start, end, prot);
  yield* writeUnlock(mm.mmapLock);
}

/** mprotect(): PROT_NONE takes the pages away from secondary users; other protections give them (back). */
export function* mprotect(mm: Mm, start: Hva, end: Hva, prot: number): Steps<void> {
  yield* writeLock(mm.mmapLock);
  yield* mm.changeVma(start, end, prot);
  const range: NotifierRange = { start, end, event: MMU_NOTIFY_PROTECTION_VMA };
  yield* notifyStart(mm, range);
  if (prot === PROT_NONE) yield* revokeRange(mm, range, "mprotect(PROT_NONE)");
  yield* spinLock(mm.pageTableLock);
  for (let addr = start; addr < end; addr = hva(addr + PAGE_SIZE)) yield* protectPage(mm, addr, prot);
  yield* spinUnlock(mm.pageTableLock);
  yield* notifyEnd(mm, range);
  yield* writeUnlock(mm.mmapLock);
}

/** Frames of pages that mprotect(PROT_NONE) hides stay in their entries, as in Linux; only the present bit goes. */
function* protectPage(mm: Mm, addr: Hva, prot: number): Steps<void> {
  const cell = mm.pteOf(addr);
  const pte = yield* load(cell);
  const frame = pteFrame(pte);
  if (frame === 0) return;
  const readable = (prot & PROT_READ) !== 0;
  const wasHidden = (pte & PTE_PRESENT) === 0;
  yield* store(cell, readable ? makePte(frame, (prot & PROT_WRITE) !== 0) : frame * PAGE_SIZE);
  if (readable && wasHidden) yield* allowFrame(mm.frames, frame);
}

/** A bare invalidation of a range in which nothing changes: what an unrelated thread's invalidations are to everybody else. */
export function* invalidateRange(mm: Mm, start: Hva, end: Hva): Steps<void> {
  const range: NotifierRange = { start, end, event: MMU_NOTIFY_CLEAR };
  yield* notifyStart(mm, range);
  yield* notifyEnd(mm, range);
}
