/** The host mm, one operation after the other: which notifier calls it makes, what backs a page then, and that nothing leaks. */
import { beforeEach, describe, expect, test } from "vitest";
import { runSequentially, type Steps, World } from "../../engine/index.ts";
import { type Hva, hva, PAGE_SIZE, type Pfn } from "../../machine/index.ts";
import {
  exitChild,
  fork,
  getUserPage,
  Kernel,
  KsmScan,
  MemFile,
  Mm,
  madviseCollapse,
  madviseDontneed,
  madviseFlags,
  madvisePageout,
  migratePage,
  mmapFixed,
  mprotect,
  mremap,
  munmap,
  PageFrames,
  PROT_NONE,
  PROT_READ,
  PROT_WRITE,
  punchHole,
  putPage,
  VM_HUGEPAGE,
  VM_HUGETLB_2M,
  VM_SHARED,
} from "../index.ts";

const BASE = 0x7f00_0000_0000;
const MB = 1024 * 1024;
const READ_WRITE = PROT_READ | PROT_WRITE;
const at = (offset: number): Hva => hva(BASE + offset);

let world: World;
let mm: Mm;
let calls: string[];

function boot(kernel: "6.12" | "7.2" = "7.2"): void {
  world = new World({ staticBytes: 96 * MB, arenaBytes: PAGE_SIZE, tasksMax: 2 });
  new Kernel(world);
  const frames = new PageFrames(world, { reuse: true });
  mm = new Mm(world, frames, hva(BASE), (16 * MB) / PAGE_SIZE, { hugePages: true, kernel });
  calls = [];
  // Two letters a call, the event, and the range: "(1 200000-400000" ... ")".
  mm.onNotify = (edge, { start, end, event }) => {
    const hex = (addr: number): string => (addr - BASE).toString(16);
    calls.push(edge === "start" ? `(${event} ${hex(start)}-${hex(end)}` : ")");
  };
}

beforeEach(() => boot());

function run<T>(steps: () => Steps<T>): T {
  return runSequentially(world, 0, "vmm", steps);
}

/** The calls since the last time, in one line. */
function told(): string {
  return calls.splice(0).join(" ");
}

/** What KVM would get: `0` for the zero page, else a letter for each frame; `r` or `w`; and the level. */
function see(offset: number, write: boolean): string {
  const page = run(() => getUserPage(mm, at(offset), write));
  if (page === null) return "fault";
  run(() => putPage(mm.frames, page.pfn));
  const isZero = page.pfn === mm.zeroPage || (page.pfn >= mm.hugeZeroPage && page.pfn < mm.hugeZeroPage + 512);
  return `${isZero ? "zero" : "page"} ${page.writable ? "w" : "r"} ${["", "4K", "2M", "1G"][page.level]}`;
}

const frameAt = (offset: number): Pfn | null => mm.frameAt(at(offset));

function write(offset: number, value: number): void {
  see(offset, true);
  world.heap.words[((frameAt(offset) as number) * PAGE_SIZE) / 4] = value;
}

const read = (offset: number): number => {
  see(offset, false);
  return world.heap.words[((frameAt(offset) as number) * PAGE_SIZE) / 4] as number;
};

const map = (flags = 0, file = 0): void => mm.addVma(at(0), at(8 * MB), READ_WRITE, { flags, file, pgoff: 0 });

describe("anonymous memory", () => {
  test("is the zero page until it is written, and then copied under the notifier", () => {
    map();
    expect(see(0, false)).toBe("zero r 4K");
    expect(told()).toBe("");
    expect(see(0, true)).toBe("page w 4K");
    expect(told()).toBe("(1 0-1000 )");
    expect(see(0x1000, true)).toBe("page w 4K");
    expect(told()).toBe("");
  });

  test("is gone after MADV_DONTNEED, and not there after munmap()", () => {
    map();
    write(0, 7);
    run(() => madviseDontneed(mm, at(0), at(0x1000)));
    expect(told()).toBe("(1 0-1000 )");
    expect(read(0)).toBe(0);
    run(() => munmap(mm, at(0), at(0x1000)));
    expect(told()).toBe("(1 0-200000 ) (0 0-1000 )");
    expect(see(0, false)).toBe("fault");
    expect(run(() => madviseDontneed(mm, at(0), at(0x2000)))).toBe(-12);
  });

  test("comes back from swap writable, with its contents", () => {
    map();
    write(0, 7);
    write(0x1000, 8);
    see(0x2000, false);
    run(() => madvisePageout(mm, at(0), at(0x3000)));
    expect(told()).toBe("(1 0-1000 ) (1 1000-2000 )");
    expect(frameAt(0)).toBeNull();
    expect(see(0, false)).toBe("page w 4K");
    expect([read(0), read(0x1000)]).toEqual([7, 8]);
  });

  test("mprotect() cuts the mapping and joins it again; PROT_NONE keeps the page", () => {
    map();
    write(0x5000, 7);
    run(() => mprotect(mm, at(0x5000), at(0x6000), PROT_NONE));
    expect(told()).toBe("(1 0-200000 ) (2 5000-6000 )");
    expect(see(0x5000, false)).toBe("fault");
    run(() => mprotect(mm, at(0x5000), at(0x6000), READ_WRITE));
    expect(told()).toBe("(2 5000-6000 )");
    expect([see(0x5000, false), read(0x5000)]).toEqual(["page w 4K", 7]);
    run(() => mprotect(mm, at(0x5000), at(0x6000), PROT_READ));
    expect(told()).toBe("(1 0-200000 ) (2 5000-6000 )");
    expect([see(0x5000, false), see(0x5000, true)]).toEqual(["page r 4K", "fault"]);
  });

  test("migration moves a page, and leaves one that a child has too", () => {
    map();
    write(0, 7);
    const old = frameAt(0);
    expect(run(() => migratePage(mm, at(0)))).toBe(true);
    expect([told(), read(0), see(0, false)]).toEqual(["(1 0-1000 )", 7, "page w 4K"]);
    expect(frameAt(0)).not.toBe(old);
    run(() => fork(mm));
    expect([run(() => migratePage(mm, at(0))), read(0)]).toEqual([false, 7]);
  });

  test("mremap() moves the pages, over what was there", () => {
    map();
    write(0x5000, 7);
    write(0x9000, 8);
    told();
    run(() => mremap(mm, at(0x5000), PAGE_SIZE, at(0x9000)));
    expect(told()).toBe("(1 0-200000 ) (0 9000-a000 ) (0 5000-6000 ) (0 5000-6000 )");
    expect([see(0x5000, false), read(0x9000)]).toEqual(["fault", 7]);
    expect(run(() => mremap(mm, at(0x9000), 2 * PAGE_SIZE, at(0xa000)))).toBe(-22);
  });

  test("mmap() over nothing tells nobody", () => {
    expect(run(() => mmapFixed(mm, at(0), at(0x4000), READ_WRITE))).toBe(0);
    expect(told()).toBe("");
    write(0x1000, 7);
    run(() => mmapFixed(mm, at(0), at(0x4000), READ_WRITE));
    expect([told(), read(0x1000)]).toEqual(["(0 0-4000 )", 0]);
  });
});

describe("fork", () => {
  test("write-protects; the first write copies, and after the child's exit the page is reused", () => {
    map();
    write(0, 7);
    write(0x1000, 8);
    told();
    const child = run(() => fork(mm));
    expect(told()).toBe("(3 0-800000 )");
    expect(see(0, false)).toBe("page r 4K");
    write(0, 9);
    expect(told()).toBe("(1 0-1000 )");
    expect(world.heap.words[((child.frames[0] as number) * PAGE_SIZE) / 4]).toBe(7);
    run(() => exitChild(mm, child));
    expect([see(0x1000, false), see(0x1000, true), told()]).toEqual(["page r 4K", "page w 4K", ""]);
  });

  test("of memory without pages of its own tells nobody", () => {
    map();
    see(0, false);
    expect(run(() => fork(mm)).frames).toEqual([]);
    expect(told()).toBe("");
  });

  test("splits a huge page at the first write to it", () => {
    map(VM_HUGEPAGE);
    see(0, true);
    run(() => fork(mm));
    told();
    expect(see(0x1000, true)).toBe("page w 4K");
    expect(told()).toBe("(1 0-200000 ) (1 1000-2000 )");
    expect(see(0x2000, false)).toBe("page r 4K");
  });
});

describe("transparent huge pages", () => {
  test.each([
    ["6.12", "page w 4K", "(1 0-200000 ) (1 3000-4000 )"],
    ["7.2", "page w 2M", "(1 0-200000 )"],
  ] as const)("%s: the first write to the huge zero page", (kernel, page, notifications) => {
    boot(kernel);
    map(VM_HUGEPAGE);
    expect(see(0x3000, false)).toBe("zero r 2M");
    expect([see(0x3000, true), told()]).toEqual([page, notifications]);
  });

  test("a part of one is thrown away by splitting it inside the invalidation", () => {
    map(VM_HUGEPAGE);
    write(0x1000, 7);
    expect(run(() => madviseDontneed(mm, at(0x2000), at(0x3000)))).toBe(0);
    expect(told()).toBe("(1 2000-3000 (1 0-200000 ) )");
    expect([see(0x1000, false), read(0x1000), see(0x2000, false)]).toEqual(["page w 4K", 7, "zero r 4K"]);
  });

  test.each([
    ["6.12", "page w 4K"],
    ["7.2", "page w 2M"],
  ] as const)("%s: 2M of small pages, thrown away and touched again", (kernel, page) => {
    boot(kernel);
    map(VM_HUGEPAGE);
    see(0, true);
    run(() => madviseDontneed(mm, at(0), at(0x1000)));
    run(() => madviseDontneed(mm, at(0), at(2 * MB)));
    expect(see(0, true)).toBe(page);
  });

  test("MADV_COLLAPSE keeps the contents", () => {
    map();
    write(0x1000, 7);
    see(0x2000, false);
    told();
    expect(run(() => madviseCollapse(mm, at(0), at(2 * MB)))).toBe(0);
    expect([told(), see(0x1000, false), read(0x1000)]).toEqual(["(1 0-200000 )", "page w 2M", 7]);
    expect(run(() => madviseCollapse(mm, at(2 * MB), at(4 * MB)))).toBe(-22);
    expect(run(() => madviseCollapse(mm, at(0x1000), at(0x3000)))).toBe(-22);
  });

  test("swapping one out gives small pages back", () => {
    map(VM_HUGEPAGE);
    write(0x1000, 7);
    run(() => madvisePageout(mm, at(0), at(2 * MB)));
    expect([told(), see(0x1000, false), read(0x1000)]).toEqual(["(1 0-200000 )", "page w 4K", 7]);
  });

  test("mremap() moves it whole between aligned places, and split otherwise", () => {
    map(VM_HUGEPAGE);
    write(0x1000, 7);
    run(() => mremap(mm, at(0), 2 * MB, at(4 * MB)));
    expect([see(4 * MB, false), read(4 * MB + 0x1000)]).toEqual(["page w 2M", 7]);
    run(() => mremap(mm, at(4 * MB), MB, at(6 * MB)));
    expect([see(6 * MB, false), read(6 * MB + 0x1000)]).toEqual(["page w 4K", 7]);
  });
});

describe("files and huge TLB pages", () => {
  test("shared: writable after a read; a hole is unmapped, and reads as zero", () => {
    mm.files.push(new MemFile(world, mm.frames, "memfd", 2048));
    map(VM_SHARED, 1);
    expect(see(0x1000, false)).toBe("page w 4K");
    write(0x1000, 7);
    const frame = frameAt(0x1000);
    run(() => madviseDontneed(mm, at(0x1000), at(0x2000)));
    expect([told(), read(0x1000), frameAt(0x1000)]).toEqual(["(1 1000-2000 )", 7, frame]);
    run(() => punchHole(mm, 1, { start: 1, end: 3 }));
    expect([told(), read(0x1000)]).toEqual(["(1 1000-3000 )", 0]);
  });

  test("private: read-only until it is copied, and the copy outlives a hole", () => {
    mm.files.push(new MemFile(world, mm.frames, "memfd", 2048));
    map(0, 1);
    expect([see(0x1000, false), see(0x1000, true), told()]).toEqual(["page r 4K", "page w 4K", "(1 1000-2000 )"]);
    write(0x1000, 7);
    expect([see(0x2000, true), told()]).toEqual(["page w 4K", ""]);
    run(() => punchHole(mm, 1, { start: 0, end: 4 }));
    expect([told(), read(0x1000)]).toEqual(["(1 0-4000 )", 7]);
  });

  test("hugetlbfs: read-only after a read, reused at the write, copied whole while a child has it", () => {
    map(VM_HUGETLB_2M);
    expect([see(0x1000, false), see(0x1000, true), told()]).toEqual(["page r 2M", "page w 2M", ""]);
    write(0, 7);
    run(() => fork(mm));
    expect(told()).toBe("(1 0-800000 )");
    write(0, 8);
    expect(told()).toBe("(1 0-200000 )");
    expect(run(() => madviseDontneed(mm, at(0), at(3 * MB)))).toBe(0);
    expect(told()).toBe("(1 0-200000 )");
  });
});

test("KSM merges what stays equal over two rounds, and a write takes it apart", () => {
  map();
  for (const offset of [0, 0x1000, 0x2000]) write(offset, 7);
  write(0x3000, 8);
  run(() => madviseFlags(mm, at(0), at(0x4000), "mergeable"));
  told();
  const scan = new KsmScan();
  run(() => scan.round(mm));
  expect(told()).toBe("");
  run(() => scan.round(mm));
  expect(told()).toBe("(1 1000-2000 ) (1 0-1000 ) (1 0-1000 ) (1 2000-3000 ) (1 2000-3000 )");
  expect(frameAt(0)).toBe(frameAt(0x2000));
  write(0x1000, 9);
  expect([told(), read(0), read(0x2000)]).toEqual(["(1 1000-2000 )", 7, 7]);
  run(() => madviseFlags(mm, at(0), at(0x4000), "unmergeable"));
  expect(frameAt(0)).not.toBe(frameAt(0x2000));
});

test("KSM splits a huge page that it merges parts of, and the rest stays where it is", () => {
  map(VM_HUGEPAGE);
  write(0, 7);
  write(0x1000, 7);
  write(0x2000, 8);
  const frames = [0, 0x1000, 0x2000].map(frameAt);
  run(() => madviseFlags(mm, at(0), at(0x3000), "mergeable"));
  const scan = new KsmScan();
  run(() => scan.round(mm));
  told();
  run(() => scan.round(mm));
  // The mapping was cut, and the huge entry with it; then the page itself, as far as the mapping with its first part goes.
  expect(told()).toBe("(1 0-3000 ) (1 1000-2000 ) (1 0-1000 ) (1 0-1000 )");
  expect([0, 0x1000, 0x2000].map(frameAt)).toEqual([frames[1], frames[1], frames[2]]);
  expect([read(0), read(0x1000), read(0x2000), see(0x3000, false)]).toEqual([7, 7, 8, "page w 4K"]);
});

test("KSM looks into a huge page of a mapping that is mergeable as a whole", () => {
  map(VM_HUGEPAGE);
  for (let i = 0; i < 512; i++) write(i * PAGE_SIZE, 100 + i);
  write(0x5000, 100);
  run(() => madviseFlags(mm, at(0), at(8 * MB), "mergeable"));
  const scan = new KsmScan();
  run(() => scan.round(mm));
  told();
  run(() => scan.round(mm));
  expect(told()).toBe("(1 0-200000 ) (1 0-200000 ) (1 5000-6000 ) (1 0-1000 ) (1 0-1000 )");
  expect([frameAt(0), read(0x4000)]).toEqual([frameAt(0x5000), 104]);
});
