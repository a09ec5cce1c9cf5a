/**
 * A small VM without nested paging for scenarios on the shadow MMU. Its guest has one address space of four levels, which its vCPUs share:
 *
 *     frame 1 --[0]--> frame 2 --[0]--> frame 3 --[0]--> frame 4    [0] itself
 *                                                                   [9] frame 5
 *
 * so page 0 of the guest is its last-level table, and page 9 is frame 5: far enough not to be mapped ahead of use. All A and D bits are set. Tasks are named as in tdp-scene.ts.
 */
import {
  Cell,
  orU64,
  type Program,
  program,
  runSequentially,
  type Steps,
  type Task,
  type U64,
  u64,
  type World,
} from "../engine/index.ts";
import { Kernel, kthread, Mm, PageFrames, PROT_READ, PROT_WRITE } from "../kernel/index.ts";
import { Kvm } from "../kvm/kvm.ts";
import type { ShadowMmu } from "../kvm/shadow/shadow-mmu.ts";
import { type KvmVariants, LINUX_7_2 } from "../kvm/variants.ts";
import { kvmArchVcpuIoctlRun } from "../kvm/vcpu.ts";
import { Vm } from "../kvm/vm.ts";
import {
  type ControlRegisters,
  frameBits,
  type GuestInstruction,
  type Gva,
  gfn,
  type Hva,
  hva,
  Interrupts,
  interruptHandler,
  PAGE_SIZE,
  type Pfn,
  pagingModeOf,
} from "../machine/index.ts";
import { shadowTablesProblem } from "../oracle/shadow-tables.ts";

const BASE = hva(0x10000000);
const FRAMES = 6;
const ROOT = 1;

/** P, W, A and D. */
const RIGHTS = u64(0, 0x63);

/** Protected mode with paging, 64 bits, WP and NX. */
const REGISTERS: ControlRegisters = { cr0: 0x8001_0001, cr3: ROOT * PAGE_SIZE, cr4: 0x20, efer: 0xd00 };

/** Table, entry, frame. */
const ENTRIES: readonly (readonly [number, number, number])[] = [
  [1, 0, 2],
  [2, 0, 3],
  [3, 0, 4],
  [4, 0, 4],
  [4, 9, 5],
];

/** Where the VMM's process has guest frame `n`. */
export const shadowHostPage = (n: number): Hva => hva(BASE + n * PAGE_SIZE);

export interface ShadowScene {
  readonly world: World;
  readonly mm: Mm;
  readonly vm: Vm;
  readonly shadow: ShadowMmu;
}

type TaskOf = (scene: ShadowScene) => Steps<unknown>;

export interface ShadowSceneOptions {
  /** What each vCPU's guest does. */
  readonly guests: readonly (readonly GuestInstruction[])[];
  /** What each has done during set-up. */
  readonly warm: readonly (readonly GuestInstruction[])[];
  /** Kernel threads beside, by name. */
  readonly threads?: Readonly<Record<string, TaskOf>>;
  readonly variants?: Partial<KvmVariants>;
}

// --- what the guest does ---------------------------------------------------------------------------------------------

function access(kind: "read" | "write", gva: number, value: U64): GuestInstruction {
  return { rip: null, cpl: 0, action: { kind: "access", access: kind, gva: gva as Gva, size: 8, value } };
}

export const readPage = (n: number): GuestInstruction => access("read", n * PAGE_SIZE, u64(0, 0));
export const writePage = (n: number): GuestInstruction => access("write", n * PAGE_SIZE, u64(0, n));

/** An entry as the guest makes it. */
const guestEntry = (frame: number): U64 => orU64(frameBits(frame as Pfn), RIGHTS);

// --- the scene -------------------------------------------------------------------------------------------------------

function makeScene(world: World, { guests, warm, variants }: ShadowSceneOptions): ShadowScene {
  const mm = new Mm(world, new PageFrames(world), BASE, FRAMES);
  const frames: Pfn[] = [];
  for (let n = 0; n < FRAMES; n++) {
    mm.addVma(shadowHostPage(n), shadowHostPage(n + 1), PROT_READ | PROT_WRITE);
    frames.push(mm.populate(shadowHostPage(n), `page ${n}`));
  }
  const wordOf = (frame: number, index: number): Cell<U64> =>
    new Cell<U64>(world, (frames[frame] as Pfn) * PAGE_SIZE + 8 * index, 8, true);
  for (const [table, index, frame] of ENTRIES) wordOf(table, index).value = guestEntry(frame);
  const kvm = new Kvm(world, new Kernel(world), mm, { ...LINUX_7_2, faultsMax: 2, ...variants });
  kvm.params.npt = false;
  const vm = new Vm(kvm, new Interrupts(world, world.tasksMax));
  kvm.memslots.addDuringSetup({ id: 0, baseGfn: gfn(0), npages: FRAMES, userspaceAddr: BASE, flags: 0 });
  for (const i of guests.keys()) {
    vm.addVcpu(i);
    runSequentially(world, i, `vcpu${i}`, () => runGuest(vm, i, warm[i] ?? []));
  }
  return { world, mm, vm, shadow: vm.shadow as ShadowMmu };
}

/** Runs a vCPU that has nothing cached. */
function* runGuest(vm: Vm, vcpu: number, instructions: readonly GuestInstruction[]): Steps<string> {
  const thread = vm.vcpus[vcpu] as Vm["vcpus"][number];
  thread.reset(pagingModeOf(REGISTERS));
  return yield* kvmArchVcpuIoctlRun(thread, instructions);
}

/** The scene's program; at the end the tables must be in order. */
export function shadowScene(name: string, options: ShadowSceneOptions): Program {
  const tasks: Record<string, TaskOf> = {};
  for (const [i, instructions] of options.guests.entries()) {
    tasks[`vcpu${i}`] = ({ world, vm }) => kthread(world, runGuest(vm, i, instructions));
  }
  for (const [thread, body] of Object.entries(options.threads ?? {}))
    tasks[thread] = (scene) => kthread(scene.world, body(scene));
  const served = Object.keys(tasks).length;
  for (const i of options.guests.keys()) {
    tasks[`irq${i}`] = ({ world, vm }) => interruptHandler(vm.interrupts, i, world.tasks[i] as Task);
  }
  return program<ShadowScene>({
    name,
    setup: (world) => makeScene(world, options),
    tasks,
    daemons: Object.keys(tasks).slice(served),
    final: (scene) => shadowTablesProblem(scene.shadow) ?? true,
  });
}
