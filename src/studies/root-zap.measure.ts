/**
 * root-zap in virtual time: how long may the zap of a whole root keep a CPU, a grace period and a notifier waiting?
 *
 * The tables of a guest are really built, entry by entry, and really zapped by kvm_mmu_zap_all_fast(). Beside the zap vCPUs fault in the new root
 * (mmu_lock for read), a thread invalidates a page of the VMM every so often (mmu_lock for write), and RCU frees the tables.
 */
import {
  awaitUntil,
  type Cell,
  type CostTable,
  cell,
  ENGINE_COSTS,
  runSequentially,
  type Steps,
  store,
  type U64,
  UsageError,
  type World,
} from "../engine/index.ts";
import {
  callRcu,
  invalidateRange,
  Kernel,
  Mm,
  mutexLock,
  mutexUnlock,
  PageFrames,
  PROT_READ,
  PROT_WRITE,
} from "../kernel/index.ts";
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
  hva,
  Interrupts,
  PAGE_SIZE,
  type Pfn,
  pagesPerLevel,
  pfn,
  touch,
} from "../machine/index.ts";
import { historyOf, longestNs, type MeasuredScene, percentileNs, simulate, timesSpent } from "./measured-vm.ts";
import type { Figures, Measured, Measurement } from "./measurement.ts";
import { extrapolated, GIB_OF_LEVEL_4, GIB_OF_LEVEL_5 } from "./root-zap-extrapolated.ts";
import { hostPage } from "./tdp-scene.ts";

/** Frames that the vCPUs fault on meanwhile. */
const FAULTING = 512;
const FRAMES_OF_GIB = 2 ** 18;

interface Scene extends MeasuredScene {
  readonly mm: Mm;
  readonly vm: Vm;
  /** Tables below the root. */
  tables: number;
  over: boolean;
  /** When the root was zapped; its tables are freed later. */
  zapped: number;
  /** rcu_barrier(): set by a callback that comes after those of the tables. */
  readonly freed: Cell;
  readonly setFreed: number;
}

interface Parameters {
  readonly gib: number;
  readonly level: number;
  readonly vcpus: number;
  /** Microseconds between two invalidations of the notifier thread; 0: there is none. */
  readonly notifier: number;
}

function makeScene(world: World, rootZap: RootZap, { gib, level, vcpus }: Parameters): Scene {
  const mm = new Mm(world, new PageFrames(world), hostPage(0), FAULTING);
  mm.addVma(hostPage(0), hostPage(FAULTING), PROT_READ | PROT_WRITE);
  const kvm = new Kvm(world, new Kernel(world), mm, { ...LINUX_7_2, yields: true, rootZap });
  const vm = new Vm(kvm, new Interrupts(world, world.tasksMax));
  const guest = {
    id: 0,
    baseGfn: gfn(FRAMES_OF_GIB),
    npages: gib * FRAMES_OF_GIB,
    userspaceAddr: hva(2 ** 46),
    flags: 0,
  };
  kvm.memslots.addDuringSetup({ id: 1, baseGfn: gfn(0), npages: FAULTING, userspaceAddr: hostPage(0), flags: 0 });
  kvm.memslots.addDuringSetup(guest);
  for (let i = 0; i < Math.max(1, vcpus); i++) vm.addVcpu(i);
  const [first] = vm.vcpus as [Vm["vcpus"][number]];
  for (const vcpu of vm.vcpus) runSequentially(world, vcpu.id, `vcpu${vcpu.id}`, () => kvmMmuLoad(vcpu));
  const freed = cell(world, "all tables are freed");
  const setFreed = kvm.kernel.rcu.register(function* () {
    yield* store(freed, 1);
  });
  const scene: Scene = { world, kvm, mm, vm, tables: 0, over: false, zapped: 0, freed, setFreed };
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
  scene.zapped = scene.world.clock?.now ?? 0;
  yield* callRcu(vm.kvm.kernel.rcu, scene.freed.addr, scene.setFreed);
  yield* awaitUntil(scene.freed, (value) => value === 1);
}

function* notifier(scene: Scene, pause: number): Steps<void> {
  const { world, mm } = scene;
  while (!scene.over) {
    world.clock?.spend("microsecond", pause);
    yield* invalidateRange(mm, hostPage(FAULTING - 1), hostPage(FAULTING));
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

/** @throws UsageError for memory that no entry of a root has */
function measure(rootZap: RootZap, parameters: Parameters, costs: CostTable): Measured {
  const { gib } = parameters;
  if (gib <= GIB_OF_LEVEL_4) return measureBuilt(rootZap, parameters, costs);
  if (gib > GIB_OF_LEVEL_5) {
    throw new UsageError(`gib=${gib}: one entry of a 5-level root has ${GIB_OF_LEVEL_5} GiB; name no more than that`);
  }
  const at = (size: number): Figures => measureBuilt(rootZap, { ...parameters, gib: size }, costs).metrics;
  const exchangeNs = { ...ENGINE_COSTS, ...costs }["locked access"] as number;
  return {
    metrics: extrapolated({ atOne: at(1), atTwo: at(2), onePass: rootZap === "one-pass", exchangeNs }, gib),
  };
}

function measureBuilt(rootZap: RootZap, parameters: Parameters, costs: CostTable): Measured {
  const { gib, level, vcpus, notifier: pause } = parameters;
  const threads: Record<string, (scene: Scene) => Steps<unknown>> = {};
  for (let i = 0; i < vcpus; i++) threads[`vcpu${i}`] = (scene) => vcpuThread(scene, i, vcpus);
  threads["zap"] = zap;
  if (pause > 0) threads["notifier"] = (scene) => notifier(scene, pause);
  const { metrics, scene } = simulate<Scene>({
    name: "root-zap",
    setup: (w) => makeScene(w, rootZap, parameters),
    threads,
    interrupted: vcpus,
    rcu: true,
    memory: { staticBytes: memoryFor(gib, level), arenaBytes: 64 * 2 ** 20 },
    costs,
    before: ({ tables }, simulator) => simulator.gauge("pages of tables", tables + 1),
  });
  const { sections, locks, gauges } = metrics;
  const mmuLock = locks.get("kvm->mmu_lock");
  const faults = sections.get("page fault");
  return {
    metrics: {
      "stretch ns": longestNs(sections.get("rcu")),
      "preempt-off ns": longestNs(sections.get("preempt-off")),
      stalls: gauges.get("RCU stall warnings")?.highest ?? 0,
      "grace ns": longestNs(sections.get("grace period")),
      "lock wait ns": longestNs(mmuLock?.wait),
      "zap holds ns": longestNs(mmuLock?.holdBy.get("zap")),
      "fault p50 ns": percentileNs(faults, 0.5),
      "fault p99 ns": percentileNs(faults, 0.99),
      "fault max ns": longestNs(faults),
      "faults/s": ((faults?.count ?? 0) / scene.zapped) * 1e9,
      IPIs: timesSpent(metrics, "send an IPI"),
      flushes: timesSpent(metrics, "flush a TLB"),
      backlog: gauges.get("unlinked pages")?.highest ?? 0,
      visited: timesSpent(metrics, "visit an entry"),
      "zap ns": scene.zapped,
      tables: scene.tables,
    },
    series: {
      backlog: historyOf(metrics, "unlinked pages"),
      "pages of tables": historyOf(metrics, "pages of tables"),
    },
  };
}

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
    gib: {
      value: 8,
      meaning: "GiB of guest memory that are mapped; beyond 512, under a 5-level root, extrapolated from 1 and 2",
      unit: "GiB",
    },
    level: { value: 1, meaning: "level of the mappings: 1 for 4K, 2 for 2M, 3 for 1G" },
    vcpus: { value: 4, meaning: "vCPUs that fault meanwhile, in the new root" },
    notifier: {
      value: 1000,
      unit: "us",
      meaning: "microseconds between two invalidations, which want mmu_lock for write; 0: none",
    },
  },
  variants: { Z1: "one pass at the root's level", Z2: "two passes: 1G, then the root's level", Z3: "level by level" },
  metrics: {
    "stretch ns": "longest RCU section: nobody else can have mmu_lock for write, no grace period ends",
    "preempt-off ns": "longest non-preemptible stretch of any thread",
    stalls: "RCU's reports of a stalled CPU: a grace period of 21 s, and each 66 s more",
    "grace ns": "longest grace period",
    "lock wait ns": "longest wait for mmu_lock",
    "zap holds ns": "longest time for which the zap has mmu_lock, either way",
    "fault p50 ns": "median of a page fault's handling",
    "fault p99 ns": "99th percentile",
    "fault max ns": "longest",
    "faults/s": "page faults handled in a second",
    IPIs: "interrupts sent from CPU to CPU",
    flushes: "flushes of a TLB",
    backlog: "most tables that waited to be freed at once",
    visited: "entries that the zap looked at",
    "zap ns": "until everything was zapped",
    tables: "tables below the root that were zapped",
  },
  series: {
    backlog: "tables that wait to be freed",
    "pages of tables": "pages of the old root's tables and the new one's that are not freed yet",
  },
  plots: ["stretch ns", "lock wait ns", "fault max ns", "backlog"],
  presets: [
    { what: "with the memory that is mapped", sweep: { gib: [1, 2, 4] } },
    { what: "over time", set: { gib: 2 } },
  ],
  run: (variant, parameters, costs) => measure(DESIGNS[variant] as RootZap, parameters as unknown as Parameters, costs),
};
