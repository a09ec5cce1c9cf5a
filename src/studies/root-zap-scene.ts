/**
 * The VM of root-zap's measurement: guests whose tables are really built, entry by entry.
 *
 *     frames of the VMM that vCPUs fault on     memslot 1, from frame 0 on
 *     the guest's memory                        from 1 GiB on: one memslot, or several a given way apart, each with tables of its own
 *
 * Nobody touches the guest's memory, so the host need not have it; only Z7's first GiB is there, as one page of 1G. A second root is that of nested
 * guests (guest_mode), with the same memory.
 */
import {
  type Cell,
  cell,
  runSequentially,
  type Steps,
  store,
  type U64,
  UsageError,
  type World,
} from "../engine/index.ts";
import { Kernel, Mm, PageFrames, PROT_READ, PROT_WRITE, readLock, readUnlock } from "../kernel/index.ts";
import { Kvm } from "../kvm/kvm.ts";
import { type KvmMmuPage, spGfn, spLevel } from "../kvm/mmu-page.ts";
import { kvmMmuLoad } from "../kvm/mmu-roots.ts";
import { childRole } from "../kvm/role.ts";
import { isShadowPresentPte, makeNonleafSpte, makeSpte, spteToPfn } from "../kvm/spte.ts";
import { kvmTdpMmuAllocRoot, kvmTdpMmuPutRoot } from "../kvm/tdp-roots.ts";
import { type KvmVariants, LINUX_7_2 } from "../kvm/variants.ts";
import { Vm } from "../kvm/vm.ts";
import {
  ENTRIES_PER_TABLE,
  type Gfn,
  gfn,
  type Hva,
  hva,
  Interrupts,
  PAGE_SIZE,
  type Pfn,
  PG_LEVEL_1G,
  pagesPerLevel,
  pfn,
  tableIndex,
} from "../machine/index.ts";
import type { MeasuredScene } from "./measured-vm.ts";

/** Frames that the vCPUs fault on meanwhile. */
export const FAULTING = 512;
export const FRAMES_OF_GIB = 2 ** 18;
const GIB = 2 ** 30;
/** Where the VMM has its memory; a boundary of 1G. */
const BASE = hva(2 ** 46);
/** The frame of the guest that Z7 does not have yet, whose page of 1G then is mapped. */
export const MISSING = gfn(FRAMES_OF_GIB + 77);
/** GiB that a root of so many levels maps. */
const GIB_OF_ROOT = { 4: 2 ** 18, 5: 2 ** 22 } as const;

export interface Parameters {
  readonly gib: number;
  readonly level: number;
  readonly levels: number;
  readonly regions: number;
  readonly apart: number;
  readonly roots: number;
  readonly vcpus: number;
  /** Microseconds between two invalidations of the notifier thread; 0: there is none. */
  readonly notifier: number;
}

export interface Scene extends MeasuredScene {
  readonly mm: Mm;
  readonly vm: Vm;
  /** Where the VMM has the pages that vCPUs fault on. */
  readonly faultingAt: Hva;
  /** Tables below the roots. */
  tables: number;
  over: boolean;
  /** When all was zapped; the tables are freed later. */
  zapped: number;
  /** Roots whose worker has not ended. */
  rootsLeft: number;
  /** rcu_barrier(): set by a callback that comes after those of the tables. */
  readonly freed: Cell;
  readonly setFreed: number;
}

/** @throws UsageError for what no root maps */
export function checkParameters({ gib, level, levels, regions, apart, roots }: Parameters): void {
  if (levels !== 4 && levels !== 5) throw new UsageError(`levels=${levels}: roots have 4 or 5 levels`);
  if (![1, 2, 3].includes(level)) throw new UsageError(`level=${level}: pages are of level 1 (4K), 2 (2M) or 3 (1G)`);
  if (roots !== 1 && roots !== 2)
    throw new UsageError(`roots=${roots}: there is the guests' root, and with 2 that of nested guests`);
  const frames = (gib * FRAMES_OF_GIB) / regions;
  if (!Number.isInteger(regions) || regions < 1)
    throw new UsageError(`regions=${regions}: name a whole number, 1 or more`);
  if (!(frames >= 1) || frames % pagesPerLevel(level) !== 0) {
    throw new UsageError(`gib=${gib} in regions=${regions}: each has to consist of whole pages of level ${level}`);
  }
  if ((apart * FRAMES_OF_GIB) % pagesPerLevel(level) !== 0) {
    throw new UsageError(
      `apart=${apart}: regions have to begin with a page of level ${level}; name a multiple of its size`,
    );
  }
  if (regions > 1 && apart * FRAMES_OF_GIB < frames) {
    throw new UsageError(`apart=${apart}: regions of ${gib / regions} GiB would overlap; name at least that many GiB`);
  }
  const end = 1 + (regions - 1) * apart + gib / regions;
  if (end > GIB_OF_ROOT[levels]) {
    throw new UsageError(
      `regions=${regions}, ${apart} GiB apart: a root of ${levels} levels maps ${GIB_OF_ROOT[levels]} GiB`,
    );
  }
}

/** @param replaces the first GiB is backed by one page of 1G, and all of it but one frame mapped by small ones */
export function makeScene(
  world: World,
  design: Partial<KvmVariants>,
  parameters: Parameters,
  replaces: boolean,
): Scene {
  const { gib, regions, apart, roots, levels, vcpus } = parameters;
  const before = replaces ? FRAMES_OF_GIB : 0;
  const mm = new Mm(world, new PageFrames(world), BASE, before + FAULTING, { hugePages: replaces, gigantic: replaces });
  if (replaces) {
    mm.addVma(BASE, hva(BASE + GIB), PROT_READ | PROT_WRITE);
    mm.install(BASE, mm.frames.allocate("the page of 1G", FRAMES_OF_GIB), PG_LEVEL_1G, true);
  }
  const faultingAt = hva(BASE + before * PAGE_SIZE);
  mm.addVma(faultingAt, hva(faultingAt + FAULTING * PAGE_SIZE), PROT_READ | PROT_WRITE);
  const variants = {
    ...LINUX_7_2,
    yields: true,
    maxTdpLevel: levels === 5 ? 5 : 4,
    maxPhyAddr: levels === 5 ? 52 : 48,
    ...design,
  } as const;
  const kvm = new Kvm(world, new Kernel(world), mm, variants);
  const vm = new Vm(kvm, new Interrupts(world, world.tasksMax));
  kvm.memslots.addDuringSetup({ id: 1, baseGfn: gfn(0), npages: FAULTING, userspaceAddr: faultingAt, flags: 0 });
  // A root needs a vCPU that loads it; Z7's fault is that of one more.
  for (let i = 0; i < (replaces ? vcpus + 1 : Math.max(1, vcpus)); i++) vm.addVcpu(i);
  const [first] = vm.vcpus as [Vm["vcpus"][number]];
  for (const vcpu of vm.vcpus) runSequentially(world, vcpu.id, `vcpu${vcpu.id}`, () => kvmMmuLoad(vcpu));
  const freed = cell(world, "all tables are freed");
  const setFreed = kvm.kernel.rcu.register(function* () {
    yield* store(freed, 1);
  });
  const scene: Scene = {
    world,
    kvm,
    mm,
    vm,
    faultingAt,
    tables: 0,
    over: false,
    zapped: 0,
    rootsLeft: roots,
    freed,
    setFreed,
  };
  const all = [vm.tdp.pages.ofEntry(first.rootHpa.value)];
  if (roots === 2) all.push(runSequentially(world, 0, "vcpu0", () => nestedRoot(vm)));
  const npages = (gib * FRAMES_OF_GIB) / regions;
  for (let region = 0; region < regions; region++) {
    const baseGfn = gfn((1 + region * apart) * FRAMES_OF_GIB);
    // Elsewhere in the VMM for Z7's other memory: nobody asks for it.
    const userspaceAddr = region === 0 && replaces ? BASE : hva(2 * BASE + region * npages * PAGE_SIZE);
    kvm.memslots.addDuringSetup({ id: 2 + region, baseGfn, npages, userspaceAddr, flags: 0 });
    for (const root of all) populate(scene, root, baseGfn, gfn(baseGfn + npages), parameters.level);
  }
  if (replaces) unmapMissing(scene, all[0] as KvmMmuPage, parameters.level);
  return scene;
}

/** The root of nested guests, which no vCPU has loaded now: only the TDP MMU has a reference. */
function* nestedRoot({ kvm, tdp }: Vm): Steps<KvmMmuPage> {
  yield* readLock(kvm.mmuLock);
  const root = yield* kvmTdpMmuAllocRoot(tdp, true);
  yield* kvmTdpMmuPutRoot(tdp, root);
  yield* readUnlock(kvm.mmuLock);
  return root;
}

/** Fills the tables below `sp` with pages of `leaf` level for the frames from `start` to `end`, as faults would have. */
function populate(scene: Scene, sp: KvmMmuPage, start: Gfn, end: Gfn, leaf: number): void {
  const { world, vm } = scene;
  const { layout } = vm.tdp;
  const { words } = world.heap;
  const level = spLevel(sp);
  const span = pagesPerLevel(level);
  const table = sp.spt.value / 4;
  const base = spGfn(sp);
  const last = Math.min(ENTRIES_PER_TABLE, Math.ceil((end - base) / span));
  for (let i = Math.max(0, Math.floor((start - base) / span)); i < last; i++) {
    const first = gfn(base + i * span);
    let spte: U64;
    if (level === leaf) spte = leafSpte(scene, level, pfn(first));
    else {
      const child = childAt(scene, table + 2 * i) ?? newTable(scene, sp, i, first);
      populate(scene, child, start, end, leaf);
      spte = makeNonleafSpte(layout, (child.spt.value / PAGE_SIZE) as Pfn);
    }
    words[table + 2 * i] = spte.lo;
    words[table + 2 * i + 1] = spte.hi;
  }
}

/** The table that the entry at `word` leads to, if there is one already. */
function childAt({ world, vm }: Scene, word: number): KvmMmuPage | null {
  const { words } = world.heap;
  const spte = { hi: words[word + 1] as number, lo: words[word] as number };
  return isShadowPresentPte(spte) ? vm.tdp.pages.ofFrame(spteToPfn(spte)) : null;
}

function newTable(scene: Scene, parent: KvmMmuPage, index: number, base: Gfn): KvmMmuPage {
  scene.tables++;
  return scene.vm.tdp.pages.allocate(childRole(parent.role.value), base, parent.spt.value + 8 * index);
}

function leafSpte({ vm }: Scene, level: number, frame: Pfn): U64 {
  const { layout } = vm.tdp;
  return makeSpte(layout, {
    level,
    pfn: frame,
    hostWritable: true,
    exec: true,
    user: true,
    write: true,
    prefetch: false,
    synchronizing: false,
    mayWrite: true,
    old: layout.nonPresent,
    nxHugePages: false,
  });
}

/** Takes the page away that maps the missing frame. */
function unmapMissing({ world, vm }: Scene, root: KvmMmuPage, leaf: number): void {
  const { layout, pages } = vm.tdp;
  let sp = root;
  for (let level = spLevel(root); ; level--) {
    const word = sp.spt.value / 4 + 2 * tableIndex(MISSING, level);
    if (level === leaf) {
      world.heap.words[word] = layout.nonPresent.lo;
      world.heap.words[word + 1] = layout.nonPresent.hi;
      return;
    }
    sp = pages.ofFrame(spteToPfn({ hi: world.heap.words[word + 1] as number, lo: world.heap.words[word] as number }));
  }
}
