/**
 * gpc-refresh in virtual time: what a storm of invalidations does to refreshes, design by design.
 *
 * One thread refreshes a cache over and over, each time after something unrelated has made it invalid. Others invalidate host ranges
 * without a pause: elsewhere, or, for a share of the time, the cached page itself.
 */
import { type CostTable, makeWorld, program, Simulator, type Steps, type World } from "../engine/index.ts";
import {
  Kernel,
  kthread,
  Mm,
  notifyEnd,
  notifyStart,
  PageFrames,
  PROT_READ,
  PROT_WRITE,
  writeLock,
  writeUnlock,
} from "../kernel/index.ts";
import { kvmCosts } from "../kvm/costs.ts";
import { GfnToPfnCache, kvmGpcRefresh } from "../kvm/gfn-to-pfn-cache.ts";
import { Kvm } from "../kvm/kvm.ts";
import { mmuNotifierOps } from "../kvm/mmu-notifier.ts";
import { type GpcDesign, LINUX_7_2 } from "../kvm/variants.ts";
import { gfn, type Hva, hva, PAGE_SIZE } from "../machine/index.ts";
import { type Figures, type Measurement, percentile } from "./measurement.ts";

const BASE = hva(0x10000000);
const page = (n: number): Hva => hva(BASE + n * PAGE_SIZE);
const CACHED = page(3);
const ELSEWHERE = page(5);

const DESIGNS = ["D0", "D1", "D2", "D3'", "D3s", "D4"] as const satisfies readonly GpcDesign[];

interface Scene {
  readonly world: World;
  readonly mm: Mm;
  readonly gpc: GfnToPfnCache;
}

interface Sample {
  /** How long each refresh took. */
  readonly latencies: number[];
  /** When the one at hand began; -1 between two. */
  since: number;
}

function makeScene(world: World, design: GpcDesign): Scene {
  const mm = new Mm(world, new PageFrames(world), BASE, 8);
  for (let n = 0; n < 8; n++) mm.addVma(page(n), page(n + 1), PROT_READ | PROT_WRITE);
  mm.populate(CACHED, "the page");
  mm.populate(ELSEWHERE, "another page");
  const kvm = new Kvm(world, new Kernel(world), mm, { ...LINUX_7_2, gpc: design });
  mm.notifiers.push(mmuNotifierOps(kvm));
  const gpc = new GfnToPfnCache(kvm);
  kvm.gpcs.add(gpc);
  kvm.memslots.addDuringSetup({ id: 0, baseGfn: gfn(0), npages: 8, userspaceAddr: page(0), flags: 0 });
  gpc.fields.active.value = 1;
  gpc.fields.uhva.value = CACHED;
  gpc.fields.gpa.value = 3 * PAGE_SIZE;
  gpc.fields.generation.value = 2;
  return { world, mm, gpc };
}

/** Something made the cache invalid (another memslot generation, another address); refresh it. */
function* refresher({ world, gpc }: Scene, sample: Sample, pause: number): Steps<void> {
  for (;;) {
    yield* writeLock(gpc.lock);
    gpc.fields.valid.value = 0;
    yield* writeUnlock(gpc.lock);
    sample.since = world.clock?.now ?? 0;
    const done = yield* kvmGpcRefresh(gpc);
    if (done) sample.latencies.push((world.clock?.now ?? 0) - sample.since);
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

function measure(design: GpcDesign, parameters: Readonly<Record<string, number>>, costs: CostTable): Figures {
  const { invalidators, pause, covering, duration } = parameters as Record<
    "invalidators" | "pause" | "covering" | "duration",
    number
  >;
  const sample: Sample = { latencies: [], since: -1 };
  const tasks: Record<string, (scene: Scene) => Steps<unknown>> = {
    refresh: (scene) => kthread(scene.world, refresher(scene, sample, 1000)),
  };
  for (let i = 0; i < invalidators; i++) {
    tasks[`invalidate${i}`] = (scene) => kthread(scene.world, invalidator(scene, covering, pause));
  }
  const { world } = makeWorld(program<Scene>({ name: "storm", setup: (w) => makeScene(w, design), tasks }));
  const until = duration * 1e6;
  const simulator = new Simulator(world, { costs: { ...kvmCosts(costs), nanosecond: 1 }, until });
  const { spent } = simulator.run();
  const refreshes = sample.latencies.length;
  const lookUps = spent.get("look up a host page") ?? 0;
  const unfinished = sample.since < 0 ? 0 : until - sample.since;
  return {
    "refreshes/s": (refreshes / until) * 1e9,
    "look-ups/refresh": refreshes === 0 ? null : lookUps / refreshes,
    "p50 ns": percentile(sample.latencies, 0.5),
    "p99 ns": percentile(sample.latencies, 0.99),
    "longest ns": Math.max(unfinished, ...sample.latencies),
    "look-ups": lookUps,
  };
}

export const measurement: Measurement = {
  study: "gpc-refresh",
  question: "What does a storm of invalidations do to refreshes?",
  parameters: {
    invalidators: { value: 1, meaning: "threads that invalidate" },
    pause: { value: 0, meaning: "nanoseconds between two invalidations of a thread" },
    covering: { value: 0, meaning: "every nth invalidation is of the cached page itself; 0: none" },
    duration: { value: 50, meaning: "milliseconds of virtual time" },
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
  run: (variant, parameters, costs) => measure(variant as (typeof DESIGNS)[number], parameters, costs),
};
