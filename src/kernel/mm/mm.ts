/**
 * struct mm_struct of the VMM's process: its mappings, its page tables, and who is told when they change.
 *
 * Page tables are up to three levels of 512 entries: the 4K entries of the mapped window, its 2M entries, and, in a process
 * that has 1G pages, its 1G entries; the links between them never change while a process lives and are left out, but for the entry of 2M
 * that says whether a table of 4K entries hangs there (entry.ts).
 *
 *     mmap_lock         the VMAs, and that pages do not come to be mapped elsewhere; held for read by faults and most of madvise()
 *     page_table_lock   every entry, the counts of mappings, the page caches of files. Entries are also looked at without it,
 *                       by get_user_pages_fast_only() and by KVM for the level, so they are written by marked stores
 *
 * What is done with them stands in files of its own: gup.ts and fault.ts bring pages in, zap.ts, mprotect.ts, mremap.ts, madvise.ts, fork.ts,
 * ksm.ts and collapse.ts change what is there.
 */
import { assert, Cell, cell, EngineBug, type Steps, type World } from "../../engine/index.ts";
import { type Hva, hva, PAGE_SIZE, type Pfn } from "../../machine/index.ts";
import { RwLock, SpinLock } from "../locks.ts";
import {
  ENTRIES,
  frameInHuge,
  hasPage,
  isHugePte,
  isPresentPte,
  isWritablePte,
  makePte,
  PMD_SIZE,
  PUD_SIZE,
  pteFrame,
  TABLE_ENTRY,
} from "./entry.ts";
import type { MemFile } from "./file.ts";
import type { MmuNotifierOps, NotifierRange } from "./notifier.ts";
import { type PageFrames, PG_EXCLUSIVE } from "./page.ts";
import { insertVma, type VmaInit, vmaAt } from "./vma.ts";

/** Decides in Linux's place what backs an address: for following a recording of what the host did. */
export interface HostPolicy {
  /** The page at `addr` is about to be looked up; its entry may be changed, and notifiers be called, as a host fault would. */
  beforeLookup(addr: Hva, write: boolean): Steps<void>;
  /** Its mapping's level is about to be looked at. */
  beforeLevel(addr: Hva): Steps<void>;
  /** Somebody wants the page only if it is there, and mapped writable. */
  beforePrefetch(addr: Hva): void;
  /** The frame behind a page that the kernel accesses through the process's page tables; null: as the page tables say. */
  frameForUser(addr: Hva, write: boolean): Pfn | null;
}

export interface MmOptions {
  /** The process may have 2M pages: their entries are looked at wherever that could matter. */
  readonly hugePages?: boolean;
  /** The process has 1G pages: their entries are looked at. */
  readonly gigantic?: boolean;
  /** Pages may be mapped twice: by files, by KSM. Default: as hugePages. */
  readonly sharedPages?: boolean;
  /** The kernel whose choices it makes, where kernels differ. */
  readonly kernel?: "6.12" | "7.2";
}

/** An entry above the 4K ones that maps a page. */
export interface HugeEntry {
  readonly cell: Cell;
  readonly entry: number;
  readonly level: 2 | 3;
}

/** Asked for every entry: the text is made only when it is needed. */
function outsideWindow(addr: Hva): EngineBug {
  return new EngineBug(`0x${addr.toString(16)} is outside the process's window`);
}

export class Mm {
  readonly world: World;
  readonly frames: PageFrames;
  readonly mmapLock: RwLock;
  readonly pageTableLock: SpinLock;
  /** Registered before any thread runs; the list does not change. */
  readonly notifiers: MmuNotifierOps[] = [];
  /** False: who was told of an invalidation that then did not begin is not told of its end (before c2655835fd8c). */
  endsFailedStarts = true;
  /** When set, it sees each notification: for the conformance of runs. */
  onNotify: ((edge: "start" | "end", range: NotifierRange) => void) | null = null;
  /** The window of addresses that the page tables cover. */
  readonly base: Hva;
  readonly pages: number;
  readonly hugePages: boolean;
  readonly gigantic: boolean;
  readonly sharedPages: boolean;
  readonly kernel: "6.12" | "7.2";
  policy: HostPolicy | null = null;
  /** Some VMA has a driver's frames (pfnmap.ts). */
  hasPfnMaps = false;
  /** /sys/kernel/mm/transparent_hugepage: `enabled`, `use_zero_page`. Written with nobody else running. */
  readonly thp: { mode: "always" | "madvise" | "never"; usesZeroPage: boolean } = {
    mode: "madvise",
    usesZeroPage: true,
  };
  /** The first VMA; each names the next. */
  readonly vmaList: Cell;
  /** Files that are mapped; `vm_file` N is the file at N - 1. Opened during set-up. */
  readonly files: MemFile[] = [];
  readonly zeroPage: Pfn;
  /** The first frame of it; 0 in a process without huge pages. */
  readonly hugeZeroPage: Pfn;
  private readonly puds: number;
  private readonly pmds: number;
  private readonly ptes: number;
  /** Regions of 1G that have page tables; null where all have. */
  private readonly tablesIn: Cell[] | null;

  /** @param pages size of the window in 4K pages; `base` is aligned to the largest page */
  constructor(world: World, frames: PageFrames, base: Hva, pages: number, options: MmOptions = {}) {
    this.hugePages = options.hugePages ?? false;
    this.gigantic = options.gigantic ?? false;
    this.sharedPages = options.sharedPages ?? this.hugePages;
    this.kernel = options.kernel ?? "7.2";
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
    this.vmaList = cell(world, "mm->mmap");
    this.zeroPage = frames.allocate("the zero page");
    this.hugeZeroPage = this.hugePages ? frames.allocate("the huge zero page", ENTRIES) : (0 as Pfn);
    const regions = Math.floor((base + pages * PAGE_SIZE - 1) / PUD_SIZE) - Math.floor(base / PUD_SIZE) + 1;
    this.tablesIn = this.hugePages ? Array.from({ length: regions }, (_, i) => cell(world, `mm->pgd[${i}]`)) : null;
  }

  // --- page tables -------------------------------------------------------------------------------------------------

  /** The place of an address's entry among those of 4K. */
  indexOf(addr: Hva): number {
    const index = Math.floor((addr - this.base) / PAGE_SIZE);
    if (index < 0 || index >= this.pages) throw outsideWindow(addr);
    return index;
  }

  pteAt(index: number): Cell {
    return new Cell<number>(this.world, this.ptes + 8 * index, 8, false);
  }

  pteOf(addr: Hva): Cell {
    return this.pteAt(this.indexOf(addr));
  }

  /** The 2M entry above that 4K entry. */
  pmdAbove(index: number): Cell {
    return new Cell<number>(this.world, this.pmds + 8 * (index >>> 9), 8, false);
  }

  pmdOf(addr: Hva): Cell {
    return this.pmdAbove(this.indexOf(addr));
  }

  pudOf(addr: Hva): Cell {
    return new Cell<number>(this.world, this.puds + 8 * Math.floor(this.indexOf(addr) / ENTRIES ** 2), 8, false);
  }

  /** The huge entry that maps `addr`, if there is one. Under the page-table lock. */
  hugeEntryAt(addr: Hva): HugeEntry | null {
    if (this.gigantic) {
      const pud = this.pudOf(addr);
      const entry = pud.value;
      if (isHugePte(entry)) return { cell: pud, entry, level: 3 };
    }
    if (!this.hugePages) return null;
    const pmd = this.pmdOf(addr);
    const entry = pmd.value;
    return isHugePte(entry) ? { cell: pmd, entry, level: 2 } : null;
  }

  /** The zero page, or the huge one: never written, never freed, and not counted. */
  isZeroPage(frame: Pfn): boolean {
    return frame === this.zeroPage || (this.hugePages && frame === this.hugeZeroPage);
  }

  private tablesCell(addr: Hva): Cell | null {
    return this.tablesIn?.[Math.floor(addr / PUD_SIZE) - Math.floor(this.base / PUD_SIZE)] ?? null;
  }

  /** Whether the upper levels reach down to entries of 2M here: where nothing was ever touched, they do not. */
  hasPageTables(addr: Hva): boolean {
    return this.tablesCell(addr)?.value !== 0;
  }

  /** A page was mapped here. Under the page-table lock. */
  notePageTables(addr: Hva): void {
    const tables = this.tablesCell(addr);
    if (tables !== null && tables.value === 0) tables.value = 1;
  }

  /** The frame mapped at `addr` by an entry of whatever level, if there is one. For set-up and oracles. */
  frameAt(addr: Hva): Pfn | null {
    for (const level of this.gigantic ? [3, 2] : [2]) {
      const entry = (level === 3 ? this.pudOf(addr) : this.pmdOf(addr)).peek();
      if (!isHugePte(entry)) continue;
      return isPresentPte(entry) ? frameInHuge(entry, addr, level) : null;
    }
    const pte = this.pteOf(addr).peek();
    return isPresentPte(pte) ? pteFrame(pte) : null;
  }

  /** The same for a copy to or from user memory, which takes no reference: __get_user(). */
  mappedFrame(addr: Hva): Pfn | null {
    return this.frameAt(addr);
  }

  /** Whether the process may write there without a fault. For oracles. */
  isWritableAt(addr: Hva): boolean {
    for (const level of this.gigantic ? [3, 2] : [2]) {
      const entry = (level === 3 ? this.pudOf(addr) : this.pmdOf(addr)).peek();
      if (isHugePte(entry)) return isPresentPte(entry) && isWritablePte(entry);
    }
    const pte = this.pteOf(addr).peek();
    return isPresentPte(pte) && isWritablePte(pte);
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

  // --- set-up ------------------------------------------------------------------------------------------------------

  /** Maps [start, end) during set-up, without any page in it. */
  addVma(start: Hva, end: Hva, prot: number, more: Pick<VmaInit, "flags" | "file" | "pgoff"> = {}): void {
    insertVma(this, { start, end, prot, ...more });
  }

  /** Puts a frame at `addr` during set-up; returns it. */
  populate(addr: Hva, label = `frame@${addr.toString(16)}`, writable = true): Pfn {
    const frame = this.frames.allocate(label);
    assert(!hasPage(this.pteOf(addr).peek()), "a page is populated twice");
    if (this.hugePages) this.pmdOf(addr).value = TABLE_ENTRY;
    this.pteOf(addr).value = makePte(frame, writable);
    this.frames.setFlag(frame, PG_EXCLUSIVE, true);
    this.frames.countMapping(frame, 1);
    this.notePageTables(addr);
    const vma = vmaAt(this, addr);
    if (vma !== null) vma.anon_vma.value = 1;
    return frame;
  }
}
