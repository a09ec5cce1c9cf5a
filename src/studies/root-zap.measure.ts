/**
 * root-zap in virtual time: how long may the zap of a whole root keep a CPU, a grace period and a notifier waiting?
 *
 * The tables of a guest are really built, entry by entry, and really zapped by kvm_mmu_zap_all_fast(). Beside the zap vCPUs fault in the new root
 * (mmu_lock for read), a thread invalidates a page of the VMM every so often (mmu_lock for write), and RCU frees the tables.
 */
import {
  type CostTable,
  makeWorld,
  percentileOf,
  program,
  runSequentially,
  Simulator,
  type Steps,
  type Task,
  type U64,
  type World,
} from "../engine/index.ts";
import {
  invalidateRange,
  Kernel,
  kthread,
  Mm,
  mutexLock,
  mutexUnlock,
  PageFrames,
  PROT_READ,
  PROT_WRITE,
  rcuThread,
} from "../kernel/index.ts";
import { kvmCosts } from "../kvm/costs.ts";
import { Kvm } from "../kvm/kvm.ts";
import type { KvmMmuPage } from "../kvm/mmu-page.ts";
import { kvmMmuLoad } from "../kvm/mmu-roots.ts";
import { kvmMmuZapAllFast } from "../kvm/mmu-zap.ts";
import { childRole } from "../kvm/role.ts";
import { makeNonleafSpte, makeSpte } from "../kvm/spte.ts";
import { LINUX_7_2, type RootZap } from "../kvm/variants.ts";
import { kvmArchVcpuIoctlRun } from "../kvm/vcpu.ts";
import { Vm } from "../kvm/vm.ts";
import {
  ENTRIES_PER_TABLE,
  type Gfn,
  gfn,
  type Hva,
  hva,
  Interrupts,
  interruptHandler,
  PAGE_SIZE,
  type Pfn,
  pagesPerLevel,
  pfn,
  touch,
} from "../machine/index.ts";
import type { Figures, Measurement } from "./measurement.ts";

const BASE = hva(0x10000000);
/** Frames that the vCPUs fault on meanwhile. */
const FAULTING = 512;
const page = (n: number): Hva => hva(BASE + n * PAGE_SIZE);
const FRAMES_OF_GIB = 2 ** 18;

interface Scene {
  readonly world: World;
  readonly mm: Mm;
  readonly vm: Vm;
  /** Tables below the root. */
  tables: number;
  over: boolean;
}

interface Parameters {
  readonly gib: number;
  readonly level: number;
  readonly vcpus: number;
  /** Microseconds between two invalidations of the notifier thread; 0: there is none. */
  readonly notifier: number;
}

function makeScene(world: World, rootZap: RootZap, { gib, level, vcpus }: Parameters): Scene {
  const mm = new Mm(world, new PageFrames(world), BASE, FAULTING);
  mm.addVma(page(0), page(FAULTING), PROT_READ | PROT_WRITE);
  const kvm = new Kvm(world, new Kernel(world), mm, { ...LINUX_7_2, yields: true, rootZap });
  const vm = new Vm(kvm, new Interrupts(world, world.tasksMax));
  const guest = {
    id: 0,
    baseGfn: gfn(FRAMES_OF_GIB),
    npages: gib * FRAMES_OF_GIB,
    userspaceAddr: hva(2 ** 46),
    flags: 0,
  };
  kvm.memslots.addDuringSetup({ id: 1, baseGfn: gfn(0), npages: FAULTING, userspaceAddr: BASE, flags: 0 });
  kvm.memslots.addDuringSetup(guest);
  for (let i = 0; i < Math.max(1, vcpus); i++) vm.addVcpu(i);
  const [first] = vm.vcpus as [Vm["vcpus"][number]];
  for (const vcpu of vm.vcpus) runSequentially(world, vcpu.id, `vcpu${vcpu.id}`, () => kvmMmuLoad(vcpu));
  const scene: Scene = { world, mm, vm, tables: 0, over: false };
  populate(
    scene,
    vm.tdp.pages.ofEntry(first.rootHpa.value),
    4,
    guest.baseGfn,
    gfn(guest.baseGfn + guest.npages),
    level,
  );
  return scene;
}

/** Fills the tables below `sp` with pages of `leaf` level for the frames from `start` to `end`, as faults would have. */
function populate(scene: Scene, sp: KvmMmuPage, level: number, start: Gfn, end: Gfn, leaf: number): void {
  const { world, vm } = scene;
  const { layout, pages } = vm.tdp;
  const { words } = world.heap;
  const span = pagesPerLevel(level);
  const table = sp.spt.value / 4;
  const base = sp.gfn.value;
  for (let i = 0; i < ENTRIES_PER_TABLE; i++) {
    const first = gfn(base + i * span);
    if (first + span <= start || first >= end) continue;
    let spte: U64;
    if (level === leaf) spte = leafSpte(scene, level, pfn(first));
    else {
      const child = pages.allocate(childRole(sp.role.value), first, sp.spt.value + 8 * i);
      scene.tables++;
      populate(scene, child, level - 1, start, end, leaf);
      spte = makeNonleafSpte(layout, (child.spt.value / PAGE_SIZE) as Pfn);
    }
    words[table + 2 * i] = spte.lo;
    words[table + 2 * i + 1] = spte.hi;
  }
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

// --- threads ---------------------------------------------------------------------------------------------------------

function* zap(scene: Scene): Steps<void> {
  const { vm } = scene;
  yield* mutexLock(vm.kvm.memslots.slotsLock);
  yield* kvmMmuZapAllFast(vm);
  yield* mutexUnlock(vm.kvm.memslots.slotsLock);
  scene.over = true;
}

function* notifier(scene: Scene, pause: number): Steps<void> {
  const { world, mm } = scene;
  while (!scene.over) {
    world.clock?.spend("microsecond", pause);
    yield* invalidateRange(mm, page(FAULTING - 1), page(FAULTING));
  }
}

/** Touches one page after the other, a fault each, until the zap is over or there are no more. */
function* vcpuThread(scene: Scene, id: number, vcpus: number): Steps<void> {
  const { world, vm } = scene;
  const vcpu = vm.vcpus[id] as Vm["vcpus"][number];
  vcpu.reset();
  for (let frame = id; frame < FAULTING - 1 && !scene.over; frame += vcpus) {
    yield* kvmArchVcpuIoctlRun(vcpu, [touch(frame, "write")]);
    world.clock?.spend("microsecond", 500);
  }
}

function measure(rootZap: RootZap, parameters: Parameters, costs: CostTable): Figures {
  const { gib, level, vcpus, notifier: pause } = parameters;
  const tasks: Record<string, (scene: Scene) => Steps<unknown>> = {};
  for (let i = 0; i < vcpus; i++) tasks[`vcpu${i}`] = (scene) => kthread(scene.world, vcpuThread(scene, i, vcpus));
  tasks["zap"] = (scene) => kthread(scene.world, zap(scene));
  if (pause > 0) tasks["notifier"] = (scene) => kthread(scene.world, notifier(scene, pause));
  const daemons = ["rcu", ...Array.from({ length: vcpus }, (_, i) => `irq${i}`)];
  tasks["rcu"] = ({ vm }) => rcuThread(vm.kvm.kernel.rcu);
  for (let i = 0; i < vcpus; i++) {
    tasks[`irq${i}`] = ({ vm, world: w }) => interruptHandler(vm.interrupts, i, w.tasks[i] as Task);
  }
  const { world, state } = makeWorld(
    program<Scene>({
      name: "root-zap",
      setup: (w) => makeScene(w, rootZap, parameters),
      tasks,
      daemons,
      memory: { staticBytes: memoryFor(gib, level), arenaBytes: 64 * 2 ** 20 },
    }),
  );
  world.onEvent = () => undefined;
  const simulator = new Simulator(world, { costs: { ...kvmCosts(costs), microsecond: 1000 } });
  const { sections, locks, waits, gauges, spent, end } = simulator.run();
  const rcu = sections.get("rcu");
  const faults = sections.get("page fault");
  const grace = [...waits].find(([name]) => name.startsWith("rcu grace period"))?.[1];
  return {
    "stretch ns": rcu?.longest ?? null,
    stall: (rcu?.longest ?? 0) > RCU_STALL ? 1 : 0,
    "grace ns": grace?.longest ?? null,
    "lock wait ns": locks.get("kvm->mmu_lock")?.wait.longest ?? null,
    "fault p99 ns": faults === undefined ? null : percentileOf(faults, 0.99),
    "fault max ns": faults?.longest ?? null,
    backlog: gauges.get("RCU callbacks")?.highest ?? 0,
    visited: spent.get("visit an entry") ?? 0,
    "zap ns": end,
    tables: state.tables,
  };
}

/** Nanoseconds until RCU complains: CONFIG_RCU_CPU_STALL_TIMEOUT=21. */
const RCU_STALL = 21e9;

/** Bytes for the tables and what belongs to them. */
function memoryFor(gib: number, level: number): number {
  let tables = 0;
  for (let each = level + 1; each <= 4; each++) tables += Math.ceil((gib * FRAMES_OF_GIB) / pagesPerLevel(each)) + 2;
  return 64 * 2 ** 20 + tables * (PAGE_SIZE + 128);
}

const DESIGNS: Readonly<Record<string, RootZap>> = { Z1: "one-pass", Z2: "two-passes", Z3: "per-level" };

export const measurement: Measurement = {
  study: "root-zap",
  question: "How long may the zap of a whole root keep others waiting?",
  parameters: {
    gib: { value: 8, meaning: "GiB of guest memory that are mapped" },
    level: { value: 1, meaning: "level of the mappings: 1 for 4K, 2 for 2M, 3 for 1G" },
    vcpus: { value: 4, meaning: "vCPUs that fault meanwhile, in the new root" },
    notifier: {
      value: 1000,
      meaning: "microseconds between two invalidations, which want mmu_lock for write; 0: none",
    },
  },
  variants: { Z1: "one pass at the root's level", Z2: "two passes: 1G, then the root's level", Z3: "level by level" },
  metrics: {
    "stretch ns": "longest RCU section: nobody else can have mmu_lock for write, no grace period ends",
    stall: "1 when that is over 21 s, when RCU reports a stall",
    "grace ns": "longest wait of a grace period for one CPU",
    "lock wait ns": "longest wait for mmu_lock",
    "fault p99 ns": "99th percentile of a page fault's handling",
    "fault max ns": "longest",
    backlog: "most tables that waited to be freed at once",
    visited: "entries that the zap looked at",
    "zap ns": "until everything was zapped",
    tables: "tables below the root that were zapped",
  },
  run: (variant, parameters, costs) => measure(DESIGNS[variant] as RootZap, parameters as unknown as Parameters, costs),
};
