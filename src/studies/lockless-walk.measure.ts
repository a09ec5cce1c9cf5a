/**
 * lockless-walk in virtual time: how many unlinked shadow pages wait to be freed, and for how long does a walk keep interrupts off?
 *
 *     ioctl     walks the reverse maps of a slot over and over and takes W away, in the way of the design
 *     zap       takes mmu_lock every so often, and zaps one shadow page of 512 entries (as page-table recycling of a guest would have it)
 *     rcu       frees what was queued, a grace period after the other
 *
 * The slot has more tables than the zap gets to, so that it never waits for work. There are no figures in the thread to compare with: what is looked for is
 * what the backlog grows with.
 */
import { type CostTable, runSequentially, type Steps, type World } from "../engine/index.ts";
import { Kernel, Mm, PageFrames, PROT_READ, PROT_WRITE } from "../kernel/index.ts";
import { Kvm } from "../kvm/kvm.ts";
import type { ShadowMmu } from "../kvm/shadow/shadow-mmu.ts";
import { type KvmVariants, LINUX_7_2 } from "../kvm/variants.ts";
import { kvmArchVcpuIoctlRun } from "../kvm/vcpu.ts";
import { Vm } from "../kvm/vm.ts";
import { ENTRIES_PER_TABLE, gfn, Interrupts, PAGE_SIZE, touch } from "../machine/index.ts";
import { DESIGNS, WALKERS } from "./lockless-walk.ts";
import { historyOf, longestNs, type MeasuredScene, perSecond, simulate, timesSpent } from "./measured-vm.ts";
import type { Measured, Measurement } from "./measurement.ts";
import { type ShadowScene, zapPagesOf } from "./shadow-scene.ts";
import { hostPage } from "./tdp-scene.ts";

interface Parameters {
  /** Frames that the walker looks at in one walk: one in each table. */
  readonly reader: number;
  /** Nanoseconds that it spends with each, beside the accesses. */
  readonly work: number;
  /** Shadow pages that are zapped a second. */
  readonly zaps: number;
  /** Milliseconds of virtual time. */
  readonly duration: number;
  /** Shadow pages that may wait for a grace period, in the capped design. */
  readonly cap: number;
}

interface Scene extends ShadowScene, MeasuredScene {
  readonly vm: Vm;
  over: boolean;
  walks: number;
}

/** Tables that there are: those that are zapped, and those that the walker finds in the end. */
function tablesOf({ reader, zaps, duration }: Parameters): number {
  return reader + Math.ceil((zaps * duration) / 1_000);
}

/** The frame of a table that is mapped. */
const frameOf = (table: number): number => table * ENTRIES_PER_TABLE;

function makeScene(world: World, variants: Partial<KvmVariants>, parameters: Parameters): Scene {
  const tables = tablesOf(parameters);
  const frames = tables * ENTRIES_PER_TABLE;
  const mm = new Mm(world, new PageFrames(world), hostPage(0), frames);
  mm.addVma(hostPage(0), hostPage(frames), PROT_READ | PROT_WRITE);
  for (let n = 0; n < tables; n++) mm.populate(hostPage(frameOf(n)), "page");
  const kvm = new Kvm(world, new Kernel(world), mm, { ...LINUX_7_2, ...variants, shadowFreeCap: parameters.cap });
  Object.assign(kvm.params, { tdpMmu: false });
  const vm = new Vm(kvm, new Interrupts(world, CPUS));
  kvm.memslots.addDuringSetup({ id: 0, baseGfn: gfn(0), npages: frames, userspaceAddr: hostPage(0), flags: 0 });
  const vcpu = vm.addVcpu(ZAP_CPU);
  const touches = Array.from({ length: tables }, (_, n) => touch(frameOf(n), "write"));
  runSequentially(world, ZAP_CPU, "vcpu0", () => {
    vcpu.reset();
    return kvmArchVcpuIoctlRun(vcpu, touches);
  });
  return { world, kvm, mm, vm, shadow: vm.shadow as ShadowMmu, over: false, walks: 0 };
}

const CPUS = 2;
/** The vCPU's thread is the one that zaps. */
const ZAP_CPU = 1;

/** Walks the last tables of the slot, which the zap does not get to. */
function* walk(scene: Scene, design: string, parameters: Parameters): Steps<void> {
  const { clock } = scene.world;
  const { walker } = DESIGNS[design] as (typeof DESIGNS)[string];
  const first = tablesOf(parameters) - parameters.reader;
  const frames = Array.from({ length: parameters.reader }, (_, n) => frameOf(first + n));
  while (!scene.over) {
    clock?.enter("walk");
    yield* WALKERS[walker](scene, frames, () => clock?.spend("nanosecond", parameters.work));
    clock?.leave("walk");
    scene.walks++;
    clock?.spend("nanosecond", PAUSE);
  }
}

/** Between two walks. */
const PAUSE = 1_000;

function* zap(scene: Scene, { zaps, duration }: Parameters): Steps<void> {
  const { clock } = scene.world;
  const count = Math.ceil((zaps * duration) / 1_000);
  for (let n = 0; n < count; n++) {
    // In the middle of its interval, so that walk and zap do not begin together.
    const due = ((n + 0.5) / zaps) * 1e9;
    clock?.spend("nanosecond", Math.max(0, due - clock.now));
    yield* zapPagesOf(scene, [frameOf(n)]);
  }
  scene.over = true;
}

function measure(design: string, parameters: Parameters, costs: CostTable): Measured {
  const { variants } = DESIGNS[design] as (typeof DESIGNS)[string];
  const pages = tablesOf(parameters);
  const { metrics, scene } = simulate<Scene>({
    name: "lockless-walk",
    setup: (w) => makeScene(w, variants, parameters),
    threads: { ioctl: (s) => walk(s, design, parameters), zap: (s) => zap(s, parameters) },
    interrupted: 1,
    rcu: true,
    memory: { staticBytes: 64 * 2 ** 20 + pages * (3 * PAGE_SIZE + 16 * ENTRIES_PER_TABLE), arenaBytes: 8 * 2 ** 20 },
    costs,
  });
  const { sections, gauges, locks } = metrics;
  const mmuLock = locks.get("kvm->mmu_lock");
  return {
    metrics: {
      backlog: gauges.get("unlinked pages")?.highest ?? 0,
      "with RCU": gauges.get("RCU callbacks")?.highest ?? 0,
      "walk ns": longestNs(sections.get("walk")),
      "walks/s": perSecond(scene.walks, metrics),
      "rcu ns": longestNs(sections.get("rcu")),
      "irqs-off ns": longestNs(sections.get("irqs-off")),
      "grace ns": longestNs(sections.get("grace period")),
      "walk holds ns": longestNs(mmuLock?.holdBy.get("ioctl")),
      "zap holds ns": longestNs(mmuLock?.holdBy.get("zap")),
      "zap waits ns": longestNs(mmuLock?.waitBy.get("zap")),
      IPIs: timesSpent(metrics, "send an IPI"),
    },
    series: { backlog: historyOf(metrics, "unlinked pages") },
  };
}

export const measurement: Measurement = {
  study: "lockless-walk",
  question: "How many unlinked shadow pages wait to be freed, and what does the walk keep others from?",
  parameters: {
    reader: { value: 1024, meaning: "frames that one walk looks at, each in a table of its own" },
    work: { value: 100, meaning: "nanoseconds that the walker spends with each", unit: "ns" },
    zaps: { value: 10_000, meaning: "shadow pages that are zapped a second" },
    duration: { value: 100, meaning: "milliseconds of virtual time", unit: "ms" },
    cap: { value: 64, meaning: "shadow pages that may wait for a grace period at once, in V5b" },
  },
  variants: Object.fromEntries(
    ["V0", "V3", "V4b", "V5b", "V6", "V6-yielding", "V7"].map((v) => [v, DESIGNS[v]?.what ?? ""]),
  ),
  metrics: {
    backlog: "most shadow pages that were unlinked and not freed, at once",
    "with RCU": "most of them that RCU had to keep",
    "walk ns": "longest walk",
    "walks/s": "walks in a second",
    "rcu ns": "longest RCU section",
    "irqs-off ns": "longest time for which a CPU has interrupts off",
    "grace ns": "longest grace period",
    "walk holds ns": "longest time for which the walk has mmu_lock",
    "zap holds ns": "longest time for which the zap has mmu_lock",
    "zap waits ns": "longest wait of the zap for mmu_lock",
    IPIs: "interrupts sent from CPU to CPU",
  },
  series: { backlog: "shadow pages that are unlinked and not freed" },
  plots: ["backlog", "grace ns", "irqs-off ns", "zap holds ns"],
  presets: [
    {
      what: "with the work of a walk on each of 64 frames",
      set: { reader: 64, duration: 50 },
      sweep: { work: [1_000, 30_000, 1_000_000] },
    },
    {
      what: "with the rate of zapping",
      variants: ["V3", "V5b", "V6", "V6-yielding"],
      set: { reader: 64, duration: 50 },
      sweep: { zaps: [1_000, 3_000, 10_000] },
      plots: ["backlog"],
    },
    {
      what: "over time, where one walk takes 32 ms",
      variants: ["V4b", "V5b", "V6", "V6-yielding"],
      set: { reader: 64, work: 500_000 },
    },
  ],
  run: (variant, parameters, costs) => measure(variant, parameters as unknown as Parameters, costs),
};
