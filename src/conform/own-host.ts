/**
 * The host side of a run without a recording: the VMM's process, on the modelled host mm.
 *
 * It maps the workload's memory, writes the guest's tables, and does the host operations that are the host mm's own business: touching memory, madvise,
 * mprotect, munmap, mmap, mremap, holes in files, fork, KSM, swap. What backs a page, and which notifiers are called, follows from the mm alone.
 */
import type { Steps, U64, World } from "../engine/index.ts";
import { numberToU64, u64 } from "../engine/index.ts";
import {
  ADVICE_FLAGS,
  type Child,
  EINVAL,
  exitChild,
  type FlagAdvice,
  followOrFault,
  fork,
  KsmScan,
  MemFile,
  type Mm,
  madviseCold,
  madviseCollapse,
  madviseDontneed,
  madviseFlags,
  madviseFree,
  madvisePageout,
  madvisePopulate,
  mmapFixed,
  mprotect,
  mremap,
  munmap,
  PROT_EXEC,
  PROT_NONE,
  PROT_READ,
  PROT_WRITE,
  punchHole,
  putPage,
  readLock,
  readUnlock,
  unmergeAll,
  VM_HUGEPAGE,
  VM_HUGETLB_1G,
  VM_HUGETLB_2M,
  VM_NOHUGEPAGE,
  VM_SHARED,
} from "../kernel/index.ts";
import { type Hva, hva, PAGE_SIZE, type Pfn, pfnToHpa } from "../machine/index.ts";
import type { HostOperation } from "./operation.ts";
import type { OwnLayout } from "./own-layout.ts";
import { CONTROL_SLOT, type Memory, type Workload } from "./workload.ts";

/**
 * The VMM maps its memory with all rights. The recordings show it: memory that mprotect() has made read-only and then read-write stays apart
 * from its neighbours.
 */
const ALL_RIGHTS = PROT_READ | PROT_WRITE | PROT_EXEC;
/** Bad address: the VMM would have got a signal. */
const EFAULT = 14;
/** What `touch` writes. */
const TOUCHED = numberToU64(0x77);
/** The stub that `exec` jumps to: a jump through a register, back. */
const STUB = u64(0, 0xe3ff);

/** System calls that refuse an address inside a page. */
const NEEDS_ALIGNMENT: ReadonlySet<string> = new Set([
  "madvise",
  "repeat_madvise",
  "mprotect",
  "munmap",
  "mmap_fixed",
  "mremap_swap",
]);

/** What an operation of the VMM returned. */
export interface HostResult {
  readonly host: string;
  readonly rc: number;
  /** What `peek` read. */
  readonly value?: U64;
}

interface KsmState {
  isRunning: boolean;
  sleepMs: number;
  pagesToScan: number;
  readonly scan: KsmScan;
}

/** Runs one thread to its end. */
export type Sequentially = <T>(task: string, steps: () => Steps<T>) => T;

type Range = { readonly mem: number; readonly offset: number; readonly len: number | null };

export class OwnHost {
  private readonly mm: Mm;
  private readonly workload: Workload;
  private readonly layout: OwnLayout;
  private readonly children: Child[] = [];
  /** `vm_file` of the memories that are files. */
  private readonly files = new Map<number, number>();
  private readonly ksm: KsmState = { isRunning: false, sleepMs: 20, pagesToScan: 100, scan: new KsmScan() };

  constructor(mm: Mm, workload: Workload, layout: OwnLayout) {
    this.mm = mm;
    this.workload = workload;
    this.layout = layout;
    for (const { slot, backing, size } of workload.memory) {
      if (backing !== "memfd" && backing !== "fileprivate") continue;
      mm.files.push(new MemFile(mm.world, mm.frames, `memfd ${slot}`, size / PAGE_SIZE));
      this.files.set(slot, mm.files.length);
    }
  }

  private get world(): World {
    return this.mm.world;
  }

  // --- set-up ------------------------------------------------------------------------------------------------------

  /** Reserves a range, and maps a memory over it. */
  *map(slot: number): Steps<void> {
    const place = this.layout.places.find(({ memory }) => memory === slot);
    if (place === undefined) return;
    const { reserved } = place;
    const memory = this.workload.memory.find((each) => each.slot === slot);
    yield* mmapFixed(this.mm, hva(reserved.start), hva(reserved.end), PROT_NONE);
    if (memory === undefined) this.mm.notePageTables(hva(place.hva));
    const flags = memory === undefined ? VM_NOHUGEPAGE : flagsOfBacking(memory);
    const file = this.files.get(slot);
    const more = file === undefined ? { flags } : { flags, file, pgoff: 0 };
    yield* mmapFixed(this.mm, hva(place.hva), hva(place.hva + place.size), ALL_RIGHTS, more);
  }

  /** The VMM writes to its own memory. False when it may not. */
  *store(addr: Hva, value: U64, size: 1 | 2 | 4 | 8): Steps<boolean> {
    if (addr % size !== 0) return yield* this.storeBytes(addr, value, size);
    return yield* this.access(addr, true, (frame) => {
      this.world.plainWrite(
        pfnToHpa(frame) + (addr % PAGE_SIZE),
        size,
        value.lo >>> 0,
        size === 8 ? value.hi >>> 0 : 0,
      );
    });
  }

  /** A store that may cross into another page. */
  private *storeBytes(addr: Hva, value: U64, size: number): Steps<boolean> {
    for (let i = 0; i < size; i++) {
      const word = i < 4 ? value.lo : value.hi;
      if (!(yield* this.store(hva(addr + i), u64(0, (word >>> (8 * (i % 4))) & 0xff), 1))) return false;
    }
    return true;
  }

  private *access(addr: Hva, write: boolean, use: (frame: Pfn) => void): Steps<boolean> {
    const { mm } = this;
    yield* readLock(mm.mmapLock);
    const page = yield* followOrFault(mm, addr, write);
    yield* readUnlock(mm.mmapLock);
    if (page === null) return false;
    use(page.pfn);
    yield* putPage(mm.frames, page.pfn);
    return true;
  }

  // --- operations --------------------------------------------------------------------------------------------------

  /** Does an operation, as far as it is the host mm's. Null when it is none of its business. */
  perform(operation: HostOperation, task: string, sequentially: Sequentially): HostResult | null {
    if (operation.host === "sleep") this.runKsm(operation.ms, sequentially);
    if (operation.host === "write_file") return this.writeSetting(operation.path, operation.value, sequentially);
    if (NEEDS_ALIGNMENT.has(operation.host) && "offset" in operation && operation.offset % PAGE_SIZE !== 0) {
      return { host: operation.host, rc: -EINVAL };
    }
    const steps = this.stepsOf(operation);
    if (steps === null) return null;
    const done = sequentially(task, steps);
    return typeof done === "number" ? { host: operation.host, rc: done } : done;
  }

  private stepsOf(operation: HostOperation): (() => Steps<number | HostResult>) | null {
    switch (operation.host) {
      case "touch":
        return () => this.touch(this.rangeOf(operation), operation.write);
      case "poke":
        return () => this.storeMany(operation, operation.value, 8);
      case "poke_ret":
        return () => this.storeMany(operation, STUB, 2);
      case "peek":
        return () => this.peek(operation);
      case "madvise":
        return () => this.onRange(operation, (start, end) => this.madvise({ start, end }, operation.advice));
      case "repeat_madvise":
        return () => this.repeat(operation);
      case "mprotect":
        return () => this.onRange(operation, (start, end) => this.protect({ start, end }, operation.prot));
      case "munmap":
        return () => this.onRange(operation, (start, end) => munmap(this.mm, start, end));
      case "mmap_fixed":
        return () => this.onRange(operation, (start, end) => mmapFixed(this.mm, start, end, ALL_RIGHTS));
      case "mremap_swap":
        return () =>
          this.onRange(operation, (start, end) =>
            mremap(this.mm, start, end - start, this.rangeOf({ ...operation, offset: operation.to }).start),
          );
      case "punch":
        return () => this.punch(operation);
      case "fork":
        return () => this.forkChild();
      case "fork_exit":
        return () => this.reapChild();
      default:
        return null;
    }
  }

  private rangeOf({ mem, offset, len }: Range): { readonly start: Hva; readonly end: Hva } {
    const memory = this.workload.memory.find(({ slot }) => slot === mem);
    const owner = memory?.alias?.of ?? mem;
    const base = (this.layout.places.find((place) => place.memory === owner)?.hva ?? 0) + (memory?.alias?.offset ?? 0);
    const size = memory?.size ?? CONTROL_SLOT.size;
    return { start: hva(base + offset), end: hva(len === null ? base + size : base + offset + len) };
  }

  private onRange(operation: Range, code: (start: Hva, end: Hva) => Steps<number>): Steps<number> {
    const { start, end } = this.rangeOf(operation);
    return code(start, hva(Math.ceil(end / PAGE_SIZE) * PAGE_SIZE));
  }

  private *touch({ start, end }: { readonly start: Hva; readonly end: Hva }, write: boolean): Steps<number> {
    for (let addr = start; addr < end; addr = hva(addr + PAGE_SIZE)) {
      const done = write ? yield* this.store(addr, TOUCHED, 1) : yield* this.access(addr, false, () => {});
      if (!done) return -EFAULT;
    }
    return 0;
  }

  private *storeMany(
    operation: Range & { readonly count: number; readonly stride: number },
    value: U64,
    size: 2 | 8,
  ): Steps<number> {
    const { start } = this.rangeOf(operation);
    for (let i = 0; i < operation.count; i++) {
      if (!(yield* this.store(hva(start + i * operation.stride), value, size))) return -EFAULT;
    }
    return 0;
  }

  private *peek(operation: Range & { readonly count: number; readonly stride: number }): Steps<HostResult> {
    const { start } = this.rangeOf(operation);
    let value = u64(0, 0);
    let rc = 0;
    for (let i = 0; i < Math.max(1, operation.count); i++) {
      const addr = hva(start + i * operation.stride);
      const done = yield* this.access(addr, false, (frame) => {
        const lo = this.world.plainRead(pfnToHpa(frame) + (addr % PAGE_SIZE), 8);
        value = u64(this.world.heap.high, lo);
      });
      if (!done) rc = -EFAULT;
    }
    return { host: "peek", rc, value };
  }

  private madvise({ start, end }: { readonly start: Hva; readonly end: Hva }, advice: string): Steps<number> {
    const { mm } = this;
    if (advice in ADVICE_FLAGS) return madviseFlags(mm, start, end, advice as FlagAdvice);
    switch (advice) {
      case "dontneed":
      case "dontneed_locked":
        return madviseDontneed(mm, start, end);
      case "free":
        return madviseFree(mm, start, end);
      case "cold":
        return madviseCold(mm, start, end);
      case "pageout":
        return madvisePageout(mm, start, end);
      case "collapse":
        return madviseCollapse(mm, start, end);
      case "populate_read":
        return madvisePopulate(mm, start, end, false);
      case "populate_write":
        return madvisePopulate(mm, start, end, true);
      case "remove":
        return this.remove(start, end);
      default:
        // MADV_WILLNEED reads ahead what was swapped out or is in a file: nobody can tell.
        return done(0);
    }
  }

  private *repeat(operation: Range & { readonly advice: string; readonly times: number }): Steps<number> {
    const range = this.rangeOf(operation);
    let rc = 0;
    for (let i = 0; i < operation.times; i++) rc = yield* this.madvise(range, operation.advice);
    return rc;
  }

  private protect({ start, end }: { readonly start: Hva; readonly end: Hva }, name: string): Steps<number> {
    const bit = (letter: string, right: number): number => (name !== "none" && name.includes(letter) ? right : 0);
    return mprotect(this.mm, start, end, bit("r", PROT_READ) | bit("w", PROT_WRITE) | bit("x", PROT_EXEC));
  }

  private punch(operation: Range): Steps<number> {
    const number = this.files.get(operation.mem);
    if (number === undefined) return done(-EINVAL);
    const size = this.workload.memory.find(({ slot }) => slot === operation.mem)?.size ?? 0;
    const first = Math.ceil(operation.offset / PAGE_SIZE);
    const end = Math.floor((operation.len === null ? size : operation.offset + operation.len) / PAGE_SIZE);
    return this.punchPages(number, first, end);
  }

  private *punchPages(number: number, start: number, end: number): Steps<number> {
    yield* punchHole(this.mm, number, { start, end });
    return 0;
  }

  /** madvise(MADV_REMOVE): a hole in the file, for a shared mapping of one. */
  private remove(start: Hva, end: Hva): Steps<number> {
    const place = this.layout.places.find((each) => start >= each.hva && end <= each.hva + each.size);
    const memory = this.workload.memory.find(({ slot }) => slot === place?.memory);
    if (place === undefined || memory?.backing !== "memfd") return done(-EINVAL);
    const number = this.files.get(place.memory) as number;
    return this.punchPages(number, (start - place.hva) / PAGE_SIZE, (end - place.hva) / PAGE_SIZE);
  }

  private *forkChild(): Steps<number> {
    this.children.push(yield* fork(this.mm));
    return 0;
  }

  private *reapChild(): Steps<number> {
    const child = this.children.shift();
    if (child !== undefined) yield* exitChild(this.mm, child);
    return 0;
  }

  // --- settings ----------------------------------------------------------------------------------------------------

  private writeSetting(path: string, text: string, sequentially: Sequentially): HostResult | null {
    const value = text.trim();
    const ksm = /^\/sys\/kernel\/mm\/ksm\/(\w+)$/.exec(path)?.[1];
    if (ksm === "sleep_millisecs") this.ksm.sleepMs = Number(value);
    else if (ksm === "pages_to_scan") this.ksm.pagesToScan = Number(value);
    else if (ksm === "run") {
      this.ksm.isRunning = value === "1";
      if (value === "2") sequentially("vmm", () => unmergeAll(this.mm));
    } else if (path === "/sys/kernel/mm/transparent_hugepage/enabled") {
      this.mm.thp.mode = value === "always" || value === "never" ? value : "madvise";
    } else if (path === "/sys/kernel/mm/transparent_hugepage/use_zero_page") {
      this.mm.thp.usesZeroPage = value !== "0";
    } else {
      return null;
    }
    return { host: "write_file", rc: 0 };
  }

  /** ksmd, for as many rounds as it gets done in the time; after the third nothing is left to merge that was not written meanwhile. */
  private runKsm(ms: number, sequentially: Sequentially): void {
    const { isRunning, sleepMs, pagesToScan, scan } = this.ksm;
    if (!isRunning) return;
    const wakeups = Math.floor(ms / Math.max(1, sleepMs));
    const pages = this.workload.memory.reduce((sum, { size }) => sum + size / PAGE_SIZE, 0);
    const rounds = Math.min(3, Math.max(wakeups * pagesToScan >= pages ? 3 : 0, Math.floor(wakeups / 2)));
    for (let i = 0; i < rounds; i++) sequentially("ksmd", () => scan.round(this.mm));
  }
}

function* done(rc: number): Steps<number> {
  return rc;
}

function flagsOfBacking({ backing }: Memory): number {
  switch (backing) {
    case "anon4k":
      return VM_NOHUGEPAGE;
    case "thp":
      return VM_HUGEPAGE;
    case "hugetlb2m":
      return VM_HUGETLB_2M;
    case "hugetlb1g":
      return VM_HUGETLB_1G;
    case "memfd":
      return VM_SHARED;
    default:
      return 0;
  }
}
