/**
 * A small VM for scenarios on the TDP MMU: one memslot of a few frames, vCPUs that touch them, and whatever else a study lets run beside.
 *
 *     page n of the VMM at BASE + n pages  =  guest frame n  =  memslot 0
 *
 * Tasks `vcpu0`, `vcpu1` ... run guests; `irq0` ... are their CPUs' interrupt handlers, and `rcu` invokes callbacks where a study wants it.
 */
import {
  type Program,
  program,
  type Results,
  runSequentially,
  type Steps,
  type Task,
  type World,
} from "../engine/index.ts";
import { Kernel, kthread, Mm, PageFrames, PROT_READ, PROT_WRITE, rcuThread } from "../kernel/index.ts";
import { kvmPrepareDirtyBitmap } from "../kvm/dirty-log.ts";
import { Kvm } from "../kvm/kvm.ts";
import type { ModuleParams } from "../kvm/module-params.ts";
import { type KvmVariants, LINUX_7_2 } from "../kvm/variants.ts";
import { kvmArchVcpuIoctlRun } from "../kvm/vcpu.ts";
import { Vm } from "../kvm/vm.ts";
import {
  type GuestInstruction,
  gfn,
  type Hva,
  hva,
  Interrupts,
  interruptHandler,
  PAGE_SIZE,
  PG_LEVEL_2M,
  touch,
} from "../machine/index.ts";
import { tdpTablesProblem } from "../oracle/tdp-tables.ts";

const BASE = hva(0x10000000);
/** Two huge pages, the host's zero page among them, and what belongs to them. */
const HUGE_SCENE_BYTES = 16 * 1024 * 1024;
/** Where the VMM's process has guest frame `n`. */
export const hostPage = (n: number): Hva => hva(BASE + n * PAGE_SIZE);

export interface TdpScene {
  readonly world: World;
  readonly mm: Mm;
  readonly vm: Vm;
}

export interface TdpSceneOptions {
  /** Guest frames of the memslot. */
  readonly frames: number;
  /** What each vCPU's guest does; nothing: the vCPU stays outside the guest. */
  readonly guests: readonly (readonly GuestInstruction[])[];
  /** Kernel threads beside, by name. */
  readonly threads?: Readonly<Record<string, TaskOf>>;
  /** Frames that each vCPU has written during set-up: it has a root, and the tables above are there. */
  readonly warm: readonly number[];
  readonly variants?: Partial<KvmVariants>;
  /** RCU callbacks are invoked. */
  readonly rcu?: boolean;
  /** The host backs frames 0 to 511 by one page of 2M; `frames` is 512. */
  readonly hugePage?: boolean;
  /** KSM may merge the host's pages. */
  readonly sharedPages?: boolean;
  /** KVM_MEM_* of the memslot; a bitmap, or rings of that many bytes, log its writes. */
  readonly flags?: number;
  readonly dirtyRingSize?: number;
  /** The host keeps which of its pages are dirty. */
  readonly keepsDirty?: boolean;
  /** KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2; default 0. */
  readonly manualDirtyLogProtect?: number;
  readonly params?: Partial<ModuleParams>;
  /** Goes on with the set-up, when the vCPUs have done their part. */
  readonly prepare?: TaskOf;
  /** What must hold at the end besides the tables' order: null when it does. */
  readonly check?: (scene: TdpScene, results: Results) => string | null;
  /** In place of running its guest once: what each vCPU's thread does. */
  readonly vcpuThread?: (scene: TdpScene, vcpu: number) => Steps<unknown>;
}

type TaskOf = (scene: TdpScene) => Steps<unknown>;

function makeScene(world: World, options: TdpSceneOptions): TdpScene {
  const { frames, guests, warm, variants = {}, hugePage = false, sharedPages = false, flags = 0 } = options;
  const mm = new Mm(world, new PageFrames(world, { dirty: options.keepsDirty ?? false }), BASE, frames, {
    hugePages: hugePage,
    sharedPages,
  });
  if (hugePage) {
    mm.addVma(hostPage(0), hostPage(frames), PROT_READ | PROT_WRITE);
    mm.install(hostPage(0), mm.frames.allocate("the huge page", frames), PG_LEVEL_2M, true);
  }
  for (let n = 0; n < frames && !hugePage; n++) {
    mm.addVma(hostPage(n), hostPage(n + 1), PROT_READ | PROT_WRITE);
    mm.populate(hostPage(n), `page ${n}`);
  }
  const kvm = new Kvm(world, new Kernel(world), mm, { ...LINUX_7_2, faultsMax: 1, ...variants });
  Object.assign(kvm.params, options.params);
  kvm.dirtyRingSize = options.dirtyRingSize ?? 0;
  kvm.manualDirtyLogProtect = options.manualDirtyLogProtect ?? 0;
  const vm = new Vm(kvm, new Interrupts(world, world.tasksMax));
  const slot = kvm.memslots.addDuringSetup({ id: 0, baseGfn: gfn(0), npages: frames, userspaceAddr: BASE, flags });
  kvmPrepareDirtyBitmap(vm, { old: null, new: slot, change: "create" });
  for (const i of guests.keys()) {
    vm.addVcpu(i);
    if (warm.length === 0) continue;
    const instructions = warm.map((frame) => touch(frame, "write"));
    runSequentially(world, i, `vcpu${i}`, () => runGuest(vm, i, instructions));
  }
  const scene = { world, mm, vm };
  const { prepare } = options;
  if (prepare !== undefined) runSequentially(world, guests.length, "set-up", () => prepare(scene));
  return scene;
}

/** Runs a vCPU, from power-on. */
export function* runGuest(vm: Vm, vcpu: number, instructions: readonly GuestInstruction[]): Steps<string> {
  const thread = vm.vcpus[vcpu] as Vm["vcpus"][number];
  thread.reset();
  return yield* kvmArchVcpuIoctlRun(thread, instructions);
}

/**
 * The scene's program: its vCPUs, the threads given, and what serves them. At the end the tables must be in order.
 */
export function tdpScene(name: string, options: TdpSceneOptions): Program {
  const tasks: Record<string, TaskOf> = {};
  // A vCPU with nothing to do is outside the guest, and no task.
  const running = [...options.guests.entries()].filter(([, instructions]) => instructions.length > 0);
  for (const [i, instructions] of running) {
    tasks[`vcpu${i}`] = (scene) =>
      kthread(scene.world, options.vcpuThread?.(scene, i) ?? runGuest(scene.vm, i, instructions));
  }
  for (const [thread, body] of Object.entries(options.threads ?? {}))
    tasks[thread] = (scene) => kthread(scene.world, body(scene));
  const served = Object.keys(tasks).length;
  for (const [i] of running) {
    tasks[`irq${i}`] = ({ world, vm }) => interruptHandler(vm.interrupts, i, world.tasks[i] as Task);
  }
  if (options.rcu) tasks["rcu"] = ({ vm }) => rcuThread(vm.kvm.kernel.rcu);
  return program<TdpScene>({
    name,
    setup: (world) => makeScene(world, options),
    tasks,
    daemons: Object.keys(tasks).slice(served),
    final: (scene, results) => {
      const problem = scene.vm.shadow === null ? tdpTablesProblem(scene.vm.tdp) : null;
      return problem ?? options.check?.(scene, results) ?? true;
    },
    ...(options.hugePage ? { memory: { staticBytes: HUGE_SCENE_BYTES } } : {}),
  });
}
