/**
 * Shadow page faults per second of user CPU time, on one core: a guest of 4 levels whose tables map all of its data.
 *
 *     first touch     the guest writes to each of its pages for the first time; its entries have no A and no D yet. A fault walks the guest's
 *                     tables, sets both, asks the host for the page, and maps it
 *     after a zap     the same when the host has made KVM zap everything; the guest's entries have A and D, so a fault maps seven neighbours too
 *
 * Every fault goes all the way: walk, look-up of the host's page under the notifier's sequence, mmu_lock, fetch, reverse map, entry. Faults are counted
 * by KVM's own statistic pf_fixed, and must be as many as the guest's pages ask for.
 */
import { runSequentially, type Steps, u64, World } from "../../src/engine/index.ts";
import {
  Kernel,
  Mm,
  PageFrames,
  PROT_READ,
  PROT_WRITE,
  srcuReadLock,
  srcuReadUnlock,
  writeLock,
  writeUnlock,
} from "../../src/kernel/index.ts";
import { Kvm } from "../../src/kvm/kvm.ts";
import { kvmMmuPageFault } from "../../src/kvm/mmu.ts";
import { isStatEvent } from "../../src/kvm/trace.ts";
import { LINUX_7_2 } from "../../src/kvm/variants.ts";
import { kvmArchVcpuIoctlRun, type Vcpu } from "../../src/kvm/vcpu.ts";
import { Vm } from "../../src/kvm/vm.ts";
import {
  type ControlRegisters,
  type GuestInstruction,
  type Gva,
  gfn,
  hva,
  Interrupts,
  PAGE_SIZE,
  PFERR_WRITE,
  type Pfn,
  pagingModeOf,
} from "../../src/machine/index.ts";

/**
 *     faults      each fault is a call of kvm_mmu_page_fault(): from the exit to the entry in the tables
 *     touches     the same from the guest: it writes, the hardware walks the tables, exits, KVM maps the page, and the guest writes
 */
export type ShadowFaultKind = "faults" | "touches";

export interface ShadowFaultRates {
  /** Faults per second, by round; the rounds in which the compiler is at work are left out. */
  readonly firstTouch: readonly number[];
  readonly afterZap: readonly number[];
}

/** Pages of the guest's data, 128 MiB: 64 last-level tables. */
const DATA_PAGES = 32_768;
const TABLES = DATA_PAGES / 512;
/** Frames: a root, two tables below it, the last-level tables, then the data. */
const FIRST_TABLE = 4;
const FIRST_DATA = 512;
const FRAMES = FIRST_DATA + DATA_PAGES;
const BASE = hva(0x4000_0000);
const REGISTERS: ControlRegisters = { cr0: 0x8001_0001, cr3: PAGE_SIZE, cr4: 0x20, efer: 0xd00 };
const PREFETCHED = 8;

/** Rounds of each kind, and before them those until the compiler is done. */
export function shadowFaultRates(kind: ShadowFaultKind, warmUp: number, rounds: number): ShadowFaultRates {
  const guest = new Guest(warmUp + rounds);
  /** So many times from nothing, and then each page: faults per second. */
  const rateOf = (times: number, expected: number): number => {
    let seconds = 0;
    for (let i = 0; i < times; i++) {
      guest.zapAll();
      seconds += kind === "faults" ? guest.fault(expected) : guest.touch(expected);
    }
    return (times * expected) / seconds;
  };
  const firstTouch: number[] = [];
  const afterZap: number[] = [];
  for (let round = 0; round < warmUp + rounds; round++) {
    guest.writeEntries(FRESH);
    const first = rateOf(1, DATA_PAGES);
    const again = rateOf(PREFETCHED, DATA_PAGES / PREFETCHED);
    if (round < warmUp) continue;
    firstTouch.push(first);
    afterZap.push(again);
  }
  return { firstTouch, afterZap };
}

/** P and W; A and D besides. */
const FRESH = 0x3;
const USED = 0x63;

/** Bytes of a shadow page with what KVM keeps of it: freed memory is not handed out again. */
const SHADOW_PAGE_BYTES = 3 * PAGE_SIZE;

class Guest {
  private readonly world: World;
  private readonly vm: Vm;
  private readonly vcpu: Vcpu;
  private readonly frames: Pfn[] = [];
  private readonly writes: GuestInstruction[];
  private faults = 0;

  /** @param rounds of both kinds */
  constructor(rounds: number) {
    const staticBytes =
      FRAMES * (PAGE_SIZE + 256) + (1 + PREFETCHED) * rounds * (TABLES + 3) * SHADOW_PAGE_BYTES + 2 ** 26;
    this.world = new World({ staticBytes, arenaBytes: PAGE_SIZE, tasksMax: 4 });
    const { world } = this;
    const mm = new Mm(world, new PageFrames(world), BASE, FRAMES);
    mm.addVma(BASE, hva(BASE + FRAMES * PAGE_SIZE), PROT_READ | PROT_WRITE);
    for (let n = 0; n < FRAMES; n++) this.frames.push(mm.populate(hva(BASE + n * PAGE_SIZE), "guest memory"));
    const kvm = new Kvm(world, new Kernel(world), mm, LINUX_7_2);
    kvm.params.npt = false;
    this.vm = new Vm(kvm, new Interrupts(world, 4));
    kvm.memslots.addDuringSetup({ id: 0, baseGfn: gfn(0), npages: FRAMES, userspaceAddr: BASE, flags: 0 });
    this.vcpu = this.vm.addVcpu(0);
    this.vcpu.reset(pagingModeOf(REGISTERS));
    this.setEntry(1, 0, 2, USED);
    this.setEntry(2, 0, 3, USED);
    for (let i = 0; i < TABLES; i++) this.setEntry(3, i, FIRST_TABLE + i, USED);
    this.writes = Array.from({ length: DATA_PAGES }, (_, page) => ({
      rip: null,
      cpl: 0,
      action: { kind: "access", access: "write", gva: (page * PAGE_SIZE) as Gva, size: 8, value: u64(0, page) },
    }));
    world.tracepoints = false;
    world.onEvent = (event) => {
      if (isStatEvent(event) && event.stat === "pf_fixed") this.faults += event.delta;
    };
  }

  private setEntry(table: number, index: number, frame: number, flags: number): void {
    const at = (this.frames[table] as Pfn) * PAGE_SIZE + 8 * index;
    this.world.heap.write(at, 8, frame * PAGE_SIZE + flags, 0);
  }

  /** The entries of the data, as the guest made them. */
  writeEntries(flags: number): void {
    for (let page = 0; page < DATA_PAGES; page++) {
      this.setEntry(FIRST_TABLE + Math.floor(page / 512), page % 512, FIRST_DATA + page, flags);
    }
  }

  /** The VM goes away, and the vCPU begins anew. */
  zapAll(): void {
    const { vm, vcpu } = this;
    this.sequentially("vmm", function* () {
      yield* writeLock(vm.kvm.mmuLock);
      yield* vm.ops.zapAll();
      yield* writeUnlock(vm.kvm.mmuLock);
      yield* vm.ops.unload(vcpu);
    });
    vcpu.reset(pagingModeOf(REGISTERS));
  }

  /** The guest writes to every page. @returns seconds */
  touch(expected: number): number {
    return this.timed(expected, () => kvmArchVcpuIoctlRun(this.vcpu, this.writes));
  }

  /** The faults of these writes, each as KVM gets it from the exit. @returns seconds */
  fault(expected: number): number {
    const { vm, vcpu } = this;
    this.sequentially("vcpu0", () => vm.ops.load(vcpu));
    const step = (DATA_PAGES / expected) * PAGE_SIZE;
    return this.timed(expected, function* () {
      yield* srcuReadLock(vm.kvm.srcu);
      for (let i = 0; i < expected; i++) yield* kvmMmuPageFault(vcpu, i * step, PFERR_WRITE);
      yield* srcuReadUnlock(vm.kvm.srcu);
    });
  }

  private timed(expected: number, steps: () => Steps<unknown>): number {
    this.faults = 0;
    const before = process.cpuUsage();
    this.sequentially("vcpu0", steps);
    const seconds = process.cpuUsage(before).user / 1e6;
    if (this.faults !== expected) throw new Error(`${this.faults} faults, not ${expected}`);
    return seconds;
  }

  private sequentially<T>(name: string, steps: () => Steps<T>): T {
    return runSequentially(this.world, 0, name, steps);
  }
}
