/**
 * A VM on a compiled kernel, for scenarios: one memslot of a few frames, vCPUs with guests on our CPUs, and whatever else a study lets run beside.
 *
 *     page n of the VMM at BASE + n pages  =  guest frame n  =  memslot 0
 *
 * Tasks `vcpu0`, `vcpu1` ... run guests; `irq0` ... are their CPUs' interrupt handlers, and `rcu` invokes callbacks where a study wants it. What a vCPU
 * does between two exits is the kernel's own code as far as it is the MMU's (runtime/x86.c); the guest itself, its TLB and the walks of its tables are ours.
 */
import {
  assert,
  type Program,
  program,
  type Results,
  runSequentially,
  type Steps,
  startLoop,
  type Task,
  type World,
} from "../engine/index.ts";
import { type Kernel, kthread, type Mm, PROT_READ, PROT_WRITE, rcuThread } from "../kernel/index.ts";
import {
  EPT_FORMAT,
  EPT_NO_AD_FORMAT,
  GuestCpu,
  type GuestInstruction,
  type Hpa,
  type Hva,
  hva,
  Interrupts,
  interruptHandler,
  NO_PAGING,
  NPT_FORMAT,
  PAGE_SIZE,
  PG_LEVEL_2M,
  vmrun,
} from "../machine/index.ts";
import { bootKernel, createVm, setMemoryRegion } from "./gpc-scene.ts";
import type { Host } from "./host.ts";
import { HostPageTables } from "./host-page-tables.ts";
import type { Image } from "./image.ts";
import type { CompiledKernel } from "./machine.ts";

/** A multiple of 1G, as walks of the process's page tables want it. */
const BASE = hva(0x40000000);
/** Its entries of 2M fill one of them. */
const GIB_PAGES = 2 ** 18;
/** The huge page, and what belongs to it. */
const HUGE_SCENE_BYTES = 16 * 1024 * 1024;
/** Where the VMM's process has guest frame `n`. */
export const hostPage = (n: number): Hva => hva(BASE + n * PAGE_SIZE);

/** How the vendor module wants its tables; in the order of runtime/x86.c. */
const PAGINGS = ["npt", "ept", "ept-no-ad"] as const;
export type Paging = (typeof PAGINGS)[number];
const FORMATS = { npt: NPT_FORMAT, ept: EPT_FORMAT, "ept-no-ad": EPT_NO_AD_FORMAT } as const;

export interface KvmScene {
  readonly world: World;
  readonly mm: Mm;
  readonly kernel: CompiledKernel;
  readonly linux: Kernel;
  readonly host: Host;
  readonly interrupts: Interrupts;
  /** struct kvm, and struct kvm_vcpu of each vCPU. */
  readonly kvm: number;
  readonly vcpus: readonly number[];
  /** Addresses of the reverse maps of memslot 0's frames, of 4K; 0 where the VM has none. */
  readonly rmaps: readonly number[];
}

export interface MemorySlot {
  readonly gfn: number;
  readonly page: number;
  readonly pages: number;
}

type TaskOf = (scene: KvmScene) => Steps<unknown>;

export interface KvmSceneOptions {
  /** Pages of the process; memslot 0 has them as guest frames from 0 on. */
  readonly frames: number;
  /** The host backs the frames by one page of 2M; there are 512. */
  readonly hugePage?: boolean;
  /** Module parameter eager_page_split; on unless told otherwise. */
  readonly eagerPageSplit?: boolean;
  /** In place of that memslot: several, each a run of pages that is put at a guest frame. */
  readonly slots?: readonly MemorySlot[];
  /** Those that the host has a page for; all if nothing is said. */
  readonly populated?: readonly number[];
  readonly paging?: Paging;
  /** Module parameter tdp_mmu. */
  readonly tdpMmu?: boolean;
  /** KVM_MEM_* of the memslot. */
  readonly flags?: number;
  /** What each vCPU's guest does; nothing: the vCPU stays outside the guest. */
  readonly guests: readonly (readonly GuestInstruction[])[];
  /** What each vCPU's guest has done during set-up: it has a root, and tables. */
  readonly warm: readonly (readonly GuestInstruction[])[];
  /** vCPUs that run a guest of their guest, which has no nested paging of its own: KVM has tables apart for it. */
  readonly nested?: readonly number[];
  /** Faults on one instruction before a vCPU gives up. */
  readonly faultsMax: number;
  /** Kernel threads beside, by name. */
  readonly threads?: Readonly<Record<string, TaskOf>>;
  /** RCU callbacks are invoked. */
  readonly rcu?: boolean;
  /** The threads beside drop mmu_lock wherever they offer to. */
  readonly yields?: boolean;
  /** Bits of a guest-physical address while the scenario runs: walks of everything end there. */
  readonly gpaBits?: number;
  /** Goes on with the set-up, when the vCPUs have done their part. */
  readonly prepare?: TaskOf;
  /** What must hold at the end: null when it does. */
  readonly check?: (scene: KvmScene, results: Results) => string | null;
}

export function kvmScene(image: Image, racing: Iterable<number>, name: string, options: KvmSceneOptions): Program {
  const tasks: Record<string, TaskOf> = {};
  // A vCPU with nothing to do is outside the guest, and no task. Thread n is on CPU n, so those are the last ones.
  const running = [...options.guests.entries()].filter(([, instructions]) => instructions.length > 0);
  assert(running.at(-1)?.[0] === running.length - 1 || running.length === 0, "a vCPU without a task comes first");
  for (const [i, instructions] of running) {
    tasks[`vcpu${i}`] = (scene) => kthread(scene.world, runGuest(scene, i, instructions, options));
  }
  for (const [thread, body] of Object.entries(options.threads ?? {}))
    tasks[thread] = (scene) => kthread(scene.world, body(scene));
  const served = Object.keys(tasks).length;
  for (const [i] of running) {
    tasks[`irq${i}`] = ({ world, interrupts }) => interruptHandler(interrupts, i, world.tasks[i] as Task);
  }
  if (options.rcu) tasks["rcu"] = ({ linux }) => rcuThread(linux.rcu);
  return program<KvmScene>({
    name,
    setup: (world) => makeScene(world, image, racing, { ...options, threadLanes: [running.length, served] }),
    tasks,
    daemons: Object.keys(tasks).slice(served),
    ...(options.hugePage ? { memory: { staticBytes: HUGE_SCENE_BYTES } } : {}),
    final: (scene, results) => options.check?.(scene, results) ?? true,
  });
}

function makeScene(
  world: World,
  image: Image,
  racing: Iterable<number>,
  options: KvmSceneOptions & { readonly threadLanes: readonly [first: number, end: number] },
): KvmScene {
  const { frames, guests, warm, prepare, gpaBits, hugePage = false, yields = false, threadLanes } = options;
  const { kernel, mm, host, linux } = bootKernel(
    world,
    image,
    { base: BASE, pages: hugePage ? GIB_PAGES : frames },
    { mm: { hugePages: hugePage } },
  );
  const interrupts = new Interrupts(world, world.tasksMax);
  host.interrupts = interrupts;
  if (hugePage) {
    host.pageTables = new HostPageTables(mm);
    mm.addVma(hostPage(0), hostPage(frames), PROT_READ | PROT_WRITE);
    mm.install(hostPage(0), mm.frames.allocate("the huge page", frames), PG_LEVEL_2M, true);
  }
  for (let n = 0; n < frames && !hugePage; n++) {
    if (options.populated?.includes(n) === false) continue;
    mm.addVma(hostPage(n), hostPage(n + 1), PROT_READ | PROT_WRITE);
    mm.populate(hostPage(n), `page ${n}`);
  }
  // The VMM's own thread, if there is one beside the vCPUs'.
  const setUpLane = Math.min(guests.length, world.tasksMax - 1);
  const made = runSequentially(world, setUpLane, "set-up", () => setUp(kernel, host, options));
  const scene: KvmScene = { world, mm, kernel, linux, host, interrupts, ...made };
  for (const i of made.vcpus.keys()) {
    const instructions = warm[i] ?? [];
    if (instructions.length === 0) continue;
    const once = { ...options, faultsMax: instructions.length };
    const result = runSequentially(world, i, `vcpu${i}`, () => runGuest(scene, i, instructions, once));
    assert(result === "done", `a vCPU alone does not get its pages: ${result}`);
  }
  runSequentially(world, setUpLane, "set-up", function* () {
    if (prepare !== undefined) yield* prepare(scene);
    if (gpaBits !== undefined) yield* kernel.call("rw_limit_gpa_bits", gpaBits);
    for (let [lane, end] = threadLanes; yields && lane < end; lane++) yield* kernel.call("rw_always_resched", lane);
  });
  kernel.treatAsMarked(racing);
  return scene;
}

type Made = Pick<KvmScene, "kvm" | "vcpus" | "rmaps">;

function* setUp(kernel: CompiledKernel, host: Host, options: KvmSceneOptions): Steps<Made> {
  const { frames, guests, paging = "npt", tdpMmu = true, flags = 0, nested = [] } = options;
  const { eagerPageSplit = true } = options;
  const { slots = [{ gfn: 0, page: 0, pages: frames }] } = options;
  const kvm = yield* createVm(kernel, host, { paging: PAGINGS.indexOf(paging), tdpMmu });
  for (const [id, { gfn, page, pages }] of slots.entries())
    yield* setMemoryRegion(kernel, kvm, { id, gfn, pages, hva: hostPage(page), flags });
  kernel.poke(kernel.addressOf("eager_page_split"), 1, eagerPageSplit ? 1 : 0);
  const vcpus: number[] = [];
  for (let i = 0; i < guests.length; i++) {
    const vcpu = yield* kernel.call("rw_create_vcpu", BigInt(kvm), i);
    if (nested.includes(i)) yield* kernel.call("rw_enter_nested", BigInt(vcpu));
    vcpus.push(vcpu);
  }
  const rmaps: number[] = [];
  for (let gfn = 0; gfn < (slots[0]?.pages ?? 0); gfn++)
    rmaps.push(yield* kernel.call("rw_rmap", BigInt(kvm), 0, BigInt(gfn)));
  return { kvm, vcpus, rmaps };
}

/** KVM_RUN of a vCPU that was just reset: runs the instructions to their end. */
function* runGuest(
  { world, kernel, host, interrupts, vcpus }: KvmScene,
  id: number,
  instructions: readonly GuestInstruction[],
  { paging = "npt", faultsMax }: KvmSceneOptions,
): Steps<string> {
  const vcpu = BigInt(vcpus[id] as number);
  const guest = new GuestCpu(world, id, interrupts, NO_PAGING, FORMATS[paging]);
  host.guests.set(id, guest);
  guest.loadInstructions(instructions);
  yield* kernel.call("rw_run_begin", vcpu);
  let result: string | null = null;
  let faults = 0;
  const again = startLoop(world);
  while (result === null) {
    if (world.comparesStates) again(guest.next, Number.isFinite(faultsMax) ? faults : 0, ...guest.tlb.contents());
    if ((yield* kernel.call("rw_enter_guest", vcpu)) !== 0) continue;
    guest.nestedRoot = (yield* kernel.call("rw_root", vcpu)) as Hpa;
    const exit = yield* vmrun(guest);
    yield* kernel.call("rw_exit_guest", vcpu);
    if (exit.kind === "done") result = "done";
    else if (exit.kind === "npf") {
      if (faults++ === faultsMax) result = "gave-up";
      else if ((yield* kernel.call("rw_page_fault", vcpu, BigInt(exit.gpa), BigInt(exit.errorCode))) < 0)
        result = "efault";
    }
  }
  yield* kernel.call("rw_run_end", vcpu);
  return result;
}
