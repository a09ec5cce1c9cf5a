/**
 * The TDP MMU at work, one thread after the other: page faults one frame after the other, and the zap of a whole root.
 *
 * What runs is the MMU of src/kvm, over the modelled host mm, with its locks, RCU, references to pages, statistics and tracepoints (which nobody
 * listens to).
 */
import { runSequentially, World } from "../../src/engine/index.ts";
import { Kernel, Mm, mutexLock, mutexUnlock, PageFrames, PROT_READ, PROT_WRITE } from "../../src/kernel/index.ts";
import { Kvm } from "../../src/kvm/kvm.ts";
import { kvmMmuPageFault } from "../../src/kvm/mmu.ts";
import type { KvmMmuPage } from "../../src/kvm/mmu-page.ts";
import { kvmMmuFreeObsoleteRoots, kvmMmuLoad } from "../../src/kvm/mmu-roots.ts";
import { kvmMmuZapAllFast } from "../../src/kvm/mmu-zap.ts";
import { childRole } from "../../src/kvm/role.ts";
import { makeNonleafSpte, makeSpte } from "../../src/kvm/spte.ts";
import { LINUX_7_2 } from "../../src/kvm/variants.ts";
import { kvmArchVcpuIoctlRun, type Vcpu } from "../../src/kvm/vcpu.ts";
import { Vm } from "../../src/kvm/vm.ts";
import {
  ENTRIES_PER_TABLE,
  type Gfn,
  gfn,
  hva,
  Interrupts,
  PAGE_SIZE,
  PFERR_GUEST_FINAL,
  PFERR_USER,
  PFERR_WRITE,
  type Pfn,
  pagesPerLevel,
  pfn,
  touch,
} from "../../src/machine/index.ts";

const BASE = 2 ** 40;
const FRAMES_OF_GIB = 2 ** 18;
const WRITE_FAULT = PFERR_GUEST_FINAL + PFERR_USER + PFERR_WRITE;

export interface Speed {
  readonly done: number;
  /** User CPU time. */
  readonly seconds: number;
  /** The same of what was prepared before. */
  readonly setUpSeconds: number;
  /** Bytes of page tables. */
  readonly tableBytes: number;
}

interface Machine {
  readonly world: World;
  readonly vm: Vm;
  readonly vcpu: Vcpu;
}

function makeMachine(staticBytes: number, arenaBytes: number, frames: number, guestFrames: number): Machine {
  const world = new World({ staticBytes, arenaBytes, tasksMax: 3 });
  world.onEvent = () => {};
  world.tracepoints = false;
  const mm = new Mm(world, new PageFrames(world), hva(BASE), Math.max(512, frames));
  mm.addVma(hva(BASE), hva(BASE + frames * PAGE_SIZE), PROT_READ | PROT_WRITE);
  for (let i = 0; i < frames; i++) mm.populate(hva(BASE + i * PAGE_SIZE), "guest memory");
  const kvm = new Kvm(world, new Kernel(world), mm, LINUX_7_2);
  const vm = new Vm(kvm, new Interrupts(world, 3));
  const npages = Math.max(frames, guestFrames);
  kvm.memslots.addDuringSetup({ id: 0, baseGfn: gfn(0), npages, userspaceAddr: hva(BASE), flags: 0 });
  const vcpu = vm.addVcpu(0);
  runSequentially(world, 0, "vcpu0", () => kvmMmuLoad(vcpu));
  return { world, vm, vcpu };
}

function userSeconds(since: NodeJS.CpuUsage): number {
  return process.cpuUsage(since).user / 1e6;
}

function timed(code: () => void): number {
  const before = process.cpuUsage();
  code();
  return userSeconds(before);
}

/** Write faults on frames that the host has: from the exit to the entry in the tables, each a call of kvm_mmu_page_fault(). */
export function faults(count: number, runs: number): Speed[] {
  return rounds(count, runs, newRoot, ({ world, vcpu }) => {
    runSequentially(world, 0, "vcpu0", function* () {
      for (let i = 0; i < count; i++) {
        const { kind } = yield* kvmMmuPageFault(vcpu, i * PAGE_SIZE, WRITE_FAULT);
        if (kind !== "resume") throw new Error(`fault ${i}: ${kind}`);
      }
    });
  });
}

/** The same from the guest: it writes, the hardware walks the tables, exits, KVM maps the frame, and the guest writes. */
export function touches(count: number, runs: number): Speed[] {
  const instructions = Array.from({ length: count }, (_, i) => touch(i, "write"));
  // The vCPU was asked to drop its root, and does so on its way into the guest.
  return rounds(count, runs, null, ({ world, vcpu }) => {
    runSequentially(world, 0, "vcpu0", () => kvmArchVcpuIoctlRun(vcpu, instructions));
  });
}

/** Each run begins with empty tables, in the same machine. @throws Error when a run has not mapped every page */
function rounds(
  count: number,
  runs: number,
  prepare: ((machine: Machine) => void) | null,
  run: (machine: Machine) => void,
): Speed[] {
  const begun = process.cpuUsage();
  const machine = makeMachine(count * (PAGE_SIZE + 256) + runs * tableBytesOf(count) + 2 ** 26, 2 ** 26, count, 0);
  const setUpSeconds = userSeconds(begun);
  const speeds: Speed[] = [];
  for (let i = 0; i < runs; i++) {
    const before = liveTables(machine.vm);
    const seconds = timed(() => run(machine));
    const tables = liveTables(machine.vm) - before;
    if (tables < count / ENTRIES_PER_TABLE) throw new Error(`${tables} tables do not map ${count} pages`);
    speeds.push({ done: count, seconds, setUpSeconds, tableBytes: tables * PAGE_SIZE });
    zapAll(machine);
    prepare?.(machine);
  }
  return speeds;
}

/** 4K entries of so many GiB, made as faults leave them, then zapped by kvm_mmu_zap_all_fast(). */
export function zap(gib: number, runs: number): Speed[] {
  const entries = gib * FRAMES_OF_GIB;
  const machine = makeMachine(runs * tableBytesOf(entries) + 2 ** 26, 2 ** 24, 0, entries);
  const { vm, vcpu } = machine;
  const speeds: Speed[] = [];
  for (let i = 0; i < runs; i++) {
    const before = liveTables(vm);
    const setUpSeconds = timed(() => populate(vm, vm.tdp.pages.ofEntry(vcpu.rootHpa.value), 4, gfn(entries)));
    const tableBytes = (liveTables(vm) - before) * PAGE_SIZE;
    const seconds = timed(() => zapAll(machine));
    newRoot(machine);
    speeds.push({ done: entries, seconds, setUpSeconds, tableBytes });
  }
  return speeds;
}

/** Room for the tables that map so many 4K pages, with what KVM keeps of them: freed memory is not handed out again. */
function tableBytesOf(entries: number): number {
  const tables = Math.ceil(entries / ENTRIES_PER_TABLE) + Math.ceil(entries / ENTRIES_PER_TABLE ** 2) + 3;
  return tables * (PAGE_SIZE + 256);
}

function liveTables(vm: Vm): number {
  return vm.tdp.pages.liveTables().length;
}

function zapAll({ world, vm }: Machine): void {
  runSequentially(world, 1, "vmm", function* () {
    yield* mutexLock(vm.kvm.memslots.slotsLock);
    yield* kvmMmuZapAllFast(vm);
    yield* mutexUnlock(vm.kvm.memslots.slotsLock);
  });
}

/** What the vCPU does when it enters the guest the next time. */
function newRoot({ world, vcpu }: Machine): void {
  runSequentially(world, 0, "vcpu0", function* () {
    yield* kvmMmuFreeObsoleteRoots(vcpu);
    yield* kvmMmuLoad(vcpu);
  });
}

function populate(vm: Vm, sp: KvmMmuPage, level: number, end: Gfn): void {
  const { layout, pages, world } = vm.tdp;
  const { words } = world.heap;
  const table = sp.spt.value / 4;
  const base = sp.gfn.value;
  const span = pagesPerLevel(level);
  for (let i = 0; i < ENTRIES_PER_TABLE; i++) {
    const first = gfn(base + i * span);
    if (first >= end) return;
    let spte = layout.nonPresent;
    if (level === 1) spte = leafSpte(vm, pfn(first));
    else {
      const child = pages.allocate(childRole(sp.role.value), first, sp.spt.value + 8 * i);
      populate(vm, child, level - 1, end);
      spte = makeNonleafSpte(layout, (child.spt.value / PAGE_SIZE) as Pfn);
    }
    words[table + 2 * i] = spte.lo;
    words[table + 2 * i + 1] = spte.hi;
  }
}

function leafSpte({ tdp }: Vm, frame: Pfn): ReturnType<typeof makeSpte> {
  const { layout } = tdp;
  return makeSpte(layout, {
    level: 1,
    pfn: frame,
    hostWritable: true,
    write: true,
    exec: true,
    user: true,
    prefetch: false,
    synchronizing: false,
    mayWrite: true,
    old: layout.nonPresent,
    nxHugePages: false,
  });
}
