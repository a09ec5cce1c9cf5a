/**
 * root-zap in virtual time: how long may the zap of a whole root keep a CPU, a grace period and a notifier waiting?
 *
 * The tables of a guest are really built, entry by entry, and really zapped by kvm_mmu_zap_all_fast(). Beside the zap vCPUs fault in the new root
 * (mmu_lock for read), a thread invalidates a page of the VMM every so often (mmu_lock for write), and RCU frees the tables.
 */
import { awaitUntil, type CostTable, deepCall, type Steps, TIME_SLICE, UsageError } from "../engine/index.ts";
import { callRcu, invalidateRange, mutexLock, mutexUnlock } from "../kernel/index.ts";
import { kvmMmuZapAllFast } from "../kvm/mmu-zap.ts";
import { tdpMmuZapRootWork } from "../kvm/tdp-zap.ts";
import type { KvmVariants } from "../kvm/variants.ts";
import { kvmArchVcpuIoctlRun } from "../kvm/vcpu.ts";
import type { Vm } from "../kvm/vm.ts";
import { hva, PAGE_SIZE, PG_LEVEL_1G, pagesPerLevel, touch } from "../machine/index.ts";
import { historyOf, longestNs, percentileNs, simulate, timesSpent } from "./measured-vm.ts";
import type { Figures, Measured, Measurement } from "./measurement.ts";
import { extrapolated, GIB_OF_LEVEL_4, GIB_OF_LEVEL_5 } from "./root-zap-extrapolated.ts";
import {
  checkParameters,
  FAULTING,
  FRAMES_OF_GIB,
  MISSING,
  makeScene,
  type Parameters,
  type Scene,
} from "./root-zap-scene.ts";

interface Design {
  readonly what: string;
  readonly variants: Partial<KvmVariants>;
  /** Instead of the zap of a root: a fault puts a page of 1G where the tables of a GiB are. */
  readonly replaces?: boolean;
}

const DESIGNS: Readonly<Record<string, Design>> = {
  Z1: { what: "one pass at the root's level", variants: { rootZap: "one-pass" } },
  Z2: { what: "two passes: 1G, then the root's level", variants: { rootZap: "two-passes" } },
  Z3: { what: "level by level", variants: { rootZap: "per-level" } },
  Z4: {
    what: "two passes, by a worker for each root (5.18 to 6.5)",
    variants: { rootZap: "two-passes", rootZapper: "worker" },
  },
  Z7: {
    what: "no root is zapped: a fault puts a page of 1G in the place of a GiB's tables",
    variants: {},
    replaces: true,
  },
};

// --- threads ---------------------------------------------------------------------------------------------------------

/** What KVM_SET_USER_MEMORY_REGION does to the roots. */
function* zap(scene: Scene): Steps<void> {
  const { vm, world } = scene;
  world.clock?.enter("call");
  yield* mutexLock(vm.kvm.memslots.slotsLock);
  yield* deepCall(world, kvmMmuZapAllFast(vm));
  yield* mutexUnlock(vm.kvm.memslots.slotsLock);
  world.clock?.leave("call");
  if (vm.tdp.zapWork === null) yield* zapped(scene);
}

/** A worker of Z4; when the last one has ended, all is zapped. */
function* worker(scene: Scene): Steps<void> {
  const { tdp } = scene.vm;
  if (tdp.zapWork !== null) yield* deepCall(scene.world, tdpMmuZapRootWork(tdp, tdp.zapWork));
  if (--scene.rootsLeft === 0) yield* zapped(scene);
}

/** A vCPU's fault where Z7 puts a page of 1G. */
function* replace(scene: Scene): Steps<void> {
  const { vm, world } = scene;
  const vcpu = vm.vcpus.at(-1) as Vm["vcpus"][number];
  vcpu.reset();
  world.clock?.enter("call");
  yield* kvmArchVcpuIoctlRun(vcpu, [touch(MISSING, "write")]);
  world.clock?.leave("call");
  yield* zapped(scene);
}

function* zapped(scene: Scene): Steps<void> {
  scene.over = true;
  scene.zapped = scene.world.clock?.now ?? 0;
  yield* callRcu(scene.vm.kvm.kernel.rcu, scene.freed.addr, scene.setFreed);
  yield* awaitUntil(scene.freed, (value) => value === 1);
}

function* notifier(scene: Scene, pause: number): Steps<void> {
  const { world, mm } = scene;
  const last = hva(scene.faultingAt + (FAULTING - 1) * PAGE_SIZE);
  while (!scene.over) {
    world.clock?.spend("microsecond", pause);
    yield* invalidateRange(mm, last, hva(last + PAGE_SIZE));
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
function measure(design: Design, parameters: Parameters, costs: CostTable): Measured {
  // What a fault replaces is one GiB, whatever else is mapped.
  if (design.replaces === true) return measureBuilt(design, { ...parameters, gib: 1, regions: 1, roots: 1 }, costs);
  const { gib } = parameters;
  if (gib <= GIB_OF_LEVEL_4) return measureBuilt(design, parameters, costs);
  if (gib > GIB_OF_LEVEL_5) {
    throw new UsageError(`gib=${gib}: one entry of a 5-level root has ${GIB_OF_LEVEL_5} GiB; name no more than that`);
  }
  if (parameters.regions > 1)
    throw new UsageError(`regions=${parameters.regions}: name no more than ${GIB_OF_LEVEL_4} GiB with it`);
  const at = (size: number, regions: number): Figures =>
    measureBuilt(design, { ...parameters, gib: size, regions, levels: 5 }, costs).metrics;
  const runs = { atOne: at(1, 1), atTwo: at(2, 1), atTwoApart: at(2, 2) };
  const onePass = design.variants.rootZap === "one-pass";
  const letsInNs = parameters.notifier === 0 ? TIME_SLICE : Math.min(TIME_SLICE, 1_000 * parameters.notifier);
  return { metrics: extrapolated(runs, { onePass, letsInNs, gib, regions: Math.ceil(gib / GIB_OF_LEVEL_4) }) };
}

function measureBuilt(design: Design, parameters: Parameters, costs: CostTable): Measured {
  checkParameters(parameters);
  const { vcpus, notifier: pause, roots } = parameters;
  const replaces = design.replaces === true;
  if (replaces && parameters.level === PG_LEVEL_1G)
    throw new UsageError("level=3: there is no table that Z7 could replace");
  const threads: Record<string, (scene: Scene) => Steps<unknown>> = {};
  for (let i = 0; i < vcpus; i++) threads[`vcpu${i}`] = (scene) => vcpuThread(scene, i, vcpus);
  threads["zap"] = replaces ? replace : zap;
  for (let i = 0; i < roots && design.variants.rootZapper === "worker"; i++) threads[`zapworker${i}`] = worker;
  if (pause > 0) threads["notifier"] = (scene) => notifier(scene, pause);
  const { metrics, scene } = simulate<Scene>({
    name: "root-zap",
    setup: (w) => makeScene(w, design.variants, parameters, replaces),
    threads,
    interrupted: replaces ? vcpus + 1 : vcpus,
    rcu: true,
    memory: { staticBytes: memoryFor(parameters, replaces), arenaBytes: 64 * 2 ** 20 },
    costs,
    before: ({ tables }, simulator) => simulator.gauge("pages of tables", tables + roots),
  });
  const { sections, locks, gauges } = metrics;
  const mmuLock = locks.get("kvm->mmu_lock");
  const zapHolds = ["zap", "zapworkern"].map((who) => longestNs(mmuLock?.holdBy.get(who)) ?? 0);
  const faults = sections.get("page fault");
  const lastStep = longestNs(sections.get("zap an entry of the root"));
  const cpuNs = (sections.get("call")?.total ?? 0) + (sections.get("zap work")?.total ?? 0);
  return {
    metrics: {
      "stretch ns": longestNs(sections.get("rcu")),
      "preempt-off ns": longestNs(sections.get("preempt-off")),
      stalls: gauges.get("RCU stall warnings")?.highest ?? 0,
      "grace ns": longestNs(sections.get("grace period")),
      "lock wait ns": longestNs(mmuLock?.wait),
      "zap holds ns": Math.max(...zapHolds),
      "fault p50 ns": percentileNs(faults, 0.5),
      "fault p99 ns": percentileNs(faults, 0.99),
      "fault max ns": longestNs(faults),
      "faults/s": ((faults?.count ?? 0) / scene.zapped) * 1e9,
      IPIs: timesSpent(metrics, "send an IPI"),
      flushes: timesSpent(metrics, "flush a TLB"),
      backlog: gauges.get("unlinked pages")?.highest ?? 0,
      visited: timesSpent(metrics, "visit an entry"),
      "visited again": timesSpent(metrics, "visit it again"),
      "step ns": lastStep === null ? null : Math.max(longestNs(sections.get("zap a table")) ?? 0, lastStep),
      "last step ns": lastStep,
      "zap ns": scene.zapped,
      "call ns": longestNs(sections.get("call")),
      "CPU ns": cpuNs,
      CPUs: cpuNs / scene.zapped,
      tables: scene.tables,
    },
    series: {
      backlog: historyOf(metrics, "unlinked pages"),
      "pages of tables": historyOf(metrics, "pages of tables"),
    },
  };
}

/** Bytes for the tables and what belongs to them, and for a page of 1G where there is one: it is never touched, and costs nothing. */
function memoryFor({ gib, level, levels, regions, roots }: Parameters, replaces: boolean): number {
  let tables = 0;
  for (let each = level + 1; each <= levels; each++) {
    tables += Math.ceil((gib * FRAMES_OF_GIB) / pagesPerLevel(each)) + 2 * regions;
  }
  return 64 * 2 ** 20 + roots * tables * (PAGE_SIZE + 128) + (replaces ? 2 * 2 ** 30 : 0);
}

export const measurement: Measurement = {
  study: "root-zap",
  question: "How long may the zap of a whole root keep others waiting?",
  parameters: {
    gib: {
      value: 8,
      meaning:
        "GiB of guest memory that are mapped; beyond 512, under a 5-level root, extrapolated from runs at 1 and 2",
      unit: "GiB",
    },
    level: { value: 1, meaning: "level of the mappings: 1 for 4K, 2 for 2M, 3 for 1G" },
    levels: { value: 4, meaning: "levels of the root: 4 or 5; beyond 512 GiB always 5" },
    regions: { value: 1, meaning: "parts of equal size in which the memory lies, each with tables of its own" },
    apart: { value: 512, unit: "GiB", meaning: "GiB from the beginning of one part to that of the next" },
    roots: { value: 1, meaning: "roots with the same memory: with 2 that of nested guests, too" },
    vcpus: { value: 4, meaning: "vCPUs that fault meanwhile, in the new root" },
    notifier: {
      value: 1000,
      unit: "us",
      meaning: "microseconds between two invalidations, which want mmu_lock for write; 0: none",
    },
  },
  variants: Object.fromEntries(Object.entries(DESIGNS).map(([name, { what }]) => [name, what])),
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
    "visited again": "of those, looks at an entry at which an earlier pass had looked",
    "step ns": "longest removal of one entry with all tables below it: nobody is let in between",
    "last step ns": "the same, of an entry of the root, with what earlier passes have left below it",
    "zap ns": "until everything was zapped",
    "call ns": "until the call that had it zapped returned; in Z7 the fault",
    "CPU ns": "CPU time of the call and the workers, waiting for mmu_lock included: they spin",
    CPUs: "CPUs that the zap occupied at a time, on the average",
    tables: "tables below the roots that were zapped; in Z7 those that the fault replaces, and the one above them",
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
  run: (variant, parameters, costs) => measure(DESIGNS[variant] as Design, parameters as unknown as Parameters, costs),
};
