/**
 * gpc-refresh in virtual time: what a storm of invalidations does to refreshes, design by design.
 *
 * One thread refreshes a cache over and over, each time after something unrelated has made it invalid. Others invalidate host ranges
 * without a pause: elsewhere, or, for a share of the time, the cached page itself.
 */
import type { CostTable, Steps, World } from "../engine/index.ts";
import {
  Kernel,
  Mm,
  notifyEnd,
  notifyStart,
  PageFrames,
  PROT_READ,
  PROT_WRITE,
  writeLock,
  writeUnlock,
} from "../kernel/index.ts";
import { GfnToPfnCache, kvmGpcRefresh } from "../kvm/gfn-to-pfn-cache.ts";
import { Kvm } from "../kvm/kvm.ts";
import { mmuNotifierOps } from "../kvm/mmu-notifier.ts";
import { type GpcDesign, LINUX_7_2 } from "../kvm/variants.ts";
import { gfn, hva, PAGE_SIZE } from "../machine/index.ts";
import { longestNs, type MeasuredScene, percentileNs, simulate, timesSpent } from "./measured-vm.ts";
import type { Measured, Measurement } from "./measurement.ts";
import { hostPage } from "./tdp-scene.ts";

const CACHED = hostPage(3);
const ELSEWHERE = hostPage(5);

const DESIGNS = ["D0", "D1", "D2", "D3'", "D3s", "D4"] as const satisfies readonly GpcDesign[];

interface Scene extends MeasuredScene {
  readonly mm: Mm;
  readonly gpc: GfnToPfnCache;
}

interface Sample {
  refreshes: number;
  /** When the one at hand began; -1 between two. */
  since: number;
}

function makeScene(world: World, design: GpcDesign): Scene {
  const mm = new Mm(world, new PageFrames(world), hostPage(0), 8);
  for (let n = 0; n < 8; n++) mm.addVma(hostPage(n), hostPage(n + 1), PROT_READ | PROT_WRITE);
  mm.populate(CACHED, "the page");
  mm.populate(ELSEWHERE, "another page");
  const kvm = new Kvm(world, new Kernel(world), mm, { ...LINUX_7_2, gpc: design });
  mm.notifiers.push(mmuNotifierOps(kvm));
  const gpc = new GfnToPfnCache(kvm);
  kvm.gpcs.add(gpc);
  kvm.memslots.addDuringSetup({ id: 0, baseGfn: gfn(0), npages: 8, userspaceAddr: hostPage(0), flags: 0 });
  gpc.fields.active.value = 1;
  gpc.fields.uhva.value = CACHED;
  gpc.fields.gpa.value = 3 * PAGE_SIZE;
  gpc.fields.generation.value = 2;
  return { world, kvm, vm: null, mm, gpc };
}

/** Something made the cache invalid (another memslot generation, another address); refresh it. */
function* refresher({ world, gpc }: Scene, sample: Sample, pause: number): Steps<void> {
  for (;;) {
    yield* writeLock(gpc.lock);
    gpc.fields.valid.value = 0;
    yield* writeUnlock(gpc.lock);
    sample.since = world.clock?.now ?? 0;
    world.clock?.enter("refresh");
    if (yield* kvmGpcRefresh(gpc)) sample.refreshes++;
    world.clock?.leave("refresh");
    sample.since = -1;
    world.clock?.spend("nanosecond", pause);
  }
}

/** Invalidates without end; every `nth` time the cached page. */
function* invalidator({ world, mm }: Scene, nth: number, pause: number): Steps<void> {
  for (let i = 1; ; i++) {
    const start = nth > 0 && i % nth === 0 ? CACHED : ELSEWHERE;
    const range = { start, end: hva(start + PAGE_SIZE), event: 1 };
    yield* notifyStart(mm, range);
    world.clock?.spend("unmap on the host");
    yield* notifyEnd(mm, range);
    world.clock?.spend("nanosecond", pause);
  }
}

function measure(design: GpcDesign, parameters: Readonly<Record<string, number>>, costs: CostTable): Measured {
  const { invalidators, pause, covering, duration } = parameters as Record<
    "invalidators" | "pause" | "covering" | "duration",
    number
  >;
  const sample: Sample = { refreshes: 0, since: -1 };
  const threads: Record<string, (scene: Scene) => Steps<unknown>> = {
    refresh: (scene) => refresher(scene, sample, 1000),
  };
  for (let i = 0; i < invalidators; i++) threads[`invalidate${i}`] = (scene) => invalidator(scene, covering, pause);
  const until = duration * 1e6;
  const { metrics } = simulate<Scene>({
    name: "storm",
    setup: (w) => makeScene(w, design),
    threads,
    interrupted: 0,
    rcu: false,
    costs,
    until,
  });
  const { refreshes } = sample;
  const latency = metrics.sections.get("refresh");
  const lookUps = timesSpent(metrics, "look up a host page");
  const unfinished = sample.since < 0 ? 0 : until - sample.since;
  return {
    metrics: {
      "refreshes/s": (refreshes / until) * 1e9,
      "look-ups/refresh": refreshes === 0 ? null : lookUps / refreshes,
      "p50 ns": percentileNs(latency, 0.5),
      "p99 ns": percentileNs(latency, 0.99),
      "longest ns": Math.max(unfinished, longestNs(latency) ?? 0),
      "look-ups": lookUps,
    },
  };
}

export const measurement: Measurement = {
  study: "gpc-refresh",
  question: "What does a storm of invalidations do to refreshes?",
  parameters: {
    invalidators: { value: 1, meaning: "threads that invalidate" },
    pause: { value: 0, meaning: "nanoseconds between two invalidations of a thread", unit: "ns" },
    covering: { value: 0, meaning: "every nth invalidation is of the cached page itself; 0: none" },
    duration: { value: 50, meaning: "milliseconds of virtual time", unit: "ms" },
  },
  variants: {
    D0: "Linux 6.9 to 7.2: start over on any invalidation",
    D1: "v1: at end(), needs_invalidation",
    D2: "v2: the same, and wait for those in flight that cover",
    "D3'": "range-based retry, no sequence number",
    D3s: "range-based retry and the sequence number",
    D4: "wait, snapshot, look up, range-based retry",
  },
  metrics: {
    "refreshes/s": "refreshes that succeeded, a second",
    "look-ups/refresh": "host page look-ups for each refresh that succeeded",
    "p50 ns": "median latency of a refresh",
    "p99 ns": "99th percentile",
    "longest ns": "longest, the unfinished one at the end included",
    "look-ups": "host page look-ups in all",
  },
  plots: ["refreshes/s", "look-ups/refresh", "longest ns"],
  presets: [
    {
      what: "with the pause between two invalidations",
      set: { duration: 10 },
      sweep: { pause: [1_000, 10_000, 100_000] },
    },
    {
      what: "with the threads that invalidate, every eighth time the cached page",
      set: { duration: 10, pause: 20_000, covering: 8 },
      sweep: { invalidators: [1, 2, 4] },
    },
  ],
  run: (variant, parameters, costs) => measure(variant as (typeof DESIGNS)[number], parameters, costs),
};
