/**
 * Shadow page faults per second of user CPU time, on one core: a guest that touches its pages.
 *
 *     first touch     a guest of 4 levels writes to each of its pages for the first time; its entries have no A and no D yet. A fault walks the guest's
 *                     tables, sets both, asks the host for the page, and maps it
 *     after a zap     the same when the host has made KVM zap everything; the guest's entries have A and D, so a fault maps seven neighbours too
 *
 * Every fault goes all the way: exit, walk, look-up of the host's page under the notifier's sequence, mmu_lock, fetch, reverse map, entry. Faults are counted
 * by KVM's own statistic pf_fixed, and must be as many as the guest's pages ask for.
 */
import { runSequentially, type Steps, u64, World } from "../../src/engine/index.ts";
import { Kernel, Mm, PageFrames, PROT_READ, PROT_WRITE, writeLock, writeUnlock } from "../../src/kernel/index.ts";
import { Kvm } from "../../src/kvm/kvm.ts";
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
  type Pfn,
  pagingModeOf,
} from "../../src/machine/index.ts";

export interface ShadowFaultRates {
  /** Faults per second, by round; the first is for the compiler and is left out. */
  readonly firstTouch: readonly number[];
  readonly afterZap: readonly number[];
}

/** Pages of the guest's data: eight last-level tables. */
const DATA_PAGES = 4096;
const TABLES = DATA_PAGES / 512;
/** Frames: a root, two tables below it, the last-level tables, then the data. */
const FIRST_TABLE = 4;
const FIRST_DATA = 64;
const FRAMES = FIRST_DATA + DATA_PAGES;
const BASE = hva(0x4000_0000);
const REGISTERS: ControlRegisters = { cr0: 0x8001_0001, cr3: PAGE_SIZE, cr4: 0x20, efer: 0xd00 };
const PREFETCHED = 8;
const ROUNDS = 15;
/** Rounds until the compiler is done. */
const WARM_UP = 10;

/** Faults until the compiler is done, then {@link ROUNDS} rounds of each kind. */
export function shadowFaultRates(): ShadowFaultRates {
  const guest = new Guest();
  const firstTouch: number[] = [];
  const afterZap: number[] = [];
  for (let round = 0; round < WARM_UP + ROUNDS; round++) {
    guest.zapAll();
    guest.writeEntries(FRESH);
    const first = guest.touchAll(DATA_PAGES);
    guest.zapAll();
    const again = guest.touchAll(DATA_PAGES / PREFETCHED);
    if (round < WARM_UP) continue;
    firstTouch.push(first);
    afterZap.push(again);
  }
  return { firstTouch, afterZap };
}

/** P and W; A and D besides. */
const FRESH = 0x3;
const USED = 0x63;

class Guest {
  private readonly world: World;
  private readonly vm: Vm;
  private readonly vcpu: Vcpu;
  private readonly frames: Pfn[] = [];
  private readonly writes: GuestInstruction[];
  private faults = 0;

  constructor() {
    this.world = new World({ staticBytes: 512 * 1024 * 1024, arenaBytes: PAGE_SIZE, tasksMax: 4 });
    const { world } = this;
    const mm = new Mm(world, new PageFrames(world), BASE, FRAMES);
    mm.addVma(BASE, hva(BASE + FRAMES * PAGE_SIZE), PROT_READ | PROT_WRITE);
    for (let n = 0; n < FRAMES; n++) this.frames.push(mm.populate(hva(BASE + n * PAGE_SIZE)));
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

  /** Writes to every page. @returns faults per second */
  touchAll(expected: number): number {
    this.faults = 0;
    const before = process.cpuUsage();
    this.sequentially("vcpu0", () => kvmArchVcpuIoctlRun(this.vcpu, this.writes));
    const seconds = process.cpuUsage(before).user / 1e6;
    if (this.faults !== expected) throw new Error(`${this.faults} faults, not ${expected}`);
    return this.faults / seconds;
  }

  private sequentially<T>(name: string, steps: () => Steps<T>): T {
    return runSequentially(this.world, 0, name, steps);
  }
}
