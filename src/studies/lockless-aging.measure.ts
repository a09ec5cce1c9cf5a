/**
 * lockless-aging in virtual time: what does asking for the ages of pages cost while vCPUs fault?
 *
 * As access_tracking_perf_test does it with the TDP MMU off: vCPUs populate memory, each fault under mmu_lock held for write, while the host goes over
 * the pages that are mapped already and asks for each whether it was used (MGLRU's walk). 6.12 takes mmu_lock for that; 7.2 takes the lock bit of the
 * page's reverse map.
 *
 * Nobody uses those pages meanwhile, so from the second pass on every answer that one was used is wrong.
 */
import { type CostTable, deepCall, runSequentially, type Steps, type World } from "../engine/index.ts";
import { Kernel, Mm, PageFrames, PROT_READ, PROT_WRITE } from "../kernel/index.ts";
import { Kvm } from "../kvm/kvm.ts";
import { type KvmVariants, LINUX_6_12, LINUX_7_2 } from "../kvm/variants.ts";
import { kvmArchVcpuIoctlRun } from "../kvm/vcpu.ts";
import { Vm } from "../kvm/vm.ts";
import { gfn, Interrupts, PAGE_SIZE, touch } from "../machine/index.ts";
import { longestNs, type MeasuredScene, percentileNs, perSecond, simulate } from "./measured-vm.ts";
import type { Measured, Measurement } from "./measurement.ts";
import { hostPage } from "./tdp-scene.ts";

interface Parameters {
  readonly vcpus: number;
  /** Pages that each vCPU populates. */
  readonly pages: number;
  /** Pages that are mapped to begin with, and aged. */
  readonly aged: number;
}

interface Scene extends MeasuredScene {
  readonly mm: Mm;
  readonly vm: Vm;
  vcpusLeft: number;
  passes: number;
  /** Time that the passes took, and that of the first one. */
  aging: number;
  /** Answers "used" from the second pass on: wrong ones, since nobody uses what is asked for. */
  wrong: number;
}

function makeScene(world: World, variants: KvmVariants, { vcpus, pages, aged }: Parameters): Scene {
  const frames = aged + vcpus * pages;
  const mm = new Mm(world, new PageFrames(world), hostPage(0), frames);
  mm.addVma(hostPage(0), hostPage(frames), PROT_READ | PROT_WRITE);
  for (let n = 0; n < frames; n++) mm.populate(hostPage(n), "page");
  const kvm = new Kvm(world, new Kernel(world), mm, variants);
  Object.assign(kvm.params, { tdpMmu: false });
  const vm = new Vm(kvm, new Interrupts(world, world.tasksMax));
  kvm.memslots.addDuringSetup({ id: 0, baseGfn: gfn(0), npages: frames, userspaceAddr: hostPage(0), flags: 0 });
  for (let i = 0; i < vcpus; i++) vm.addVcpu(i);
  const touched = Array.from({ length: aged }, (_, frame) => touch(frame, "write"));
  for (const vcpu of vm.vcpus) {
    runSequentially(world, vcpu.id, `vcpu${vcpu.id}`, () => {
      vcpu.reset();
      return kvmArchVcpuIoctlRun(vcpu, vcpu.id === 0 ? touched : []);
    });
  }
  return { world, kvm, mm, vm, vcpusLeft: vcpus, passes: 0, aging: 0, wrong: 0 };
}

function* populate(scene: Scene, id: number, { pages, aged }: Parameters): Steps<void> {
  const vcpu = scene.vm.vcpus[id] as Vm["vcpus"][number];
  vcpu.reset();
  const first = aged + id * pages;
  const instructions = Array.from({ length: pages }, (_, n) => touch(first + n, "write"));
  yield* deepCall(scene.world, kvmArchVcpuIoctlRun(vcpu, instructions));
  scene.vcpusLeft--;
}

/** Asks for one page after the other, over and over, while there are vCPUs that fault. */
function* age(scene: Scene, aged: number): Steps<void> {
  const { world, mm } = scene;
  while (scene.vcpusLeft > 0) {
    const begin = world.clock?.now ?? 0;
    for (let n = 0; n < aged; n++) {
      world.clock?.enter("aging a page");
      let young = false;
      for (const ops of mm.notifiers)
        if (yield* deepCall(world, ops.clearYoung(hostPage(n), hostPage(n + 1)))) young = true;
      if (young && scene.passes > 0) scene.wrong++;
      world.clock?.leave("aging a page");
    }
    scene.passes++;
    scene.aging += (world.clock?.now ?? 0) - begin;
  }
}

function measure(variants: KvmVariants, parameters: Parameters, costs: CostTable): Measured {
  const { vcpus, pages, aged } = parameters;
  const threads: Record<string, (scene: Scene) => Steps<unknown>> = {};
  for (let i = 0; i < vcpus; i++) threads[`vcpu${i}`] = (scene) => populate(scene, i, parameters);
  threads["aging"] = (scene) => age(scene, aged);
  const staticBytes = 64 * 2 ** 20 + (aged + vcpus * pages) * (PAGE_SIZE + 512);
  const { metrics, scene } = simulate<Scene>({
    name: "lockless-aging",
    setup: (w) => makeScene(w, variants, parameters),
    threads,
    interrupted: vcpus,
    rcu: false,
    memory: { staticBytes, arenaBytes: 2 ** 20 },
    costs,
  });
  const { sections, locks, end } = metrics;
  const faults = sections.get("page fault");
  const each = sections.get("aging a page");
  const mmuLock = locks.get("kvm->mmu_lock");
  return {
    metrics: {
      "pass ns": scene.passes === 0 ? null : scene.aging / scene.passes,
      passes: scene.passes,
      "wrong %": scene.passes < 2 ? null : (100 * scene.wrong) / (aged * (scene.passes - 1)),
      "page p50 ns": percentileNs(each, 0.5),
      "page p99 ns": percentileNs(each, 0.99),
      "fault p50 ns": percentileNs(faults, 0.5),
      "fault p99 ns": percentileNs(faults, 0.99),
      "faults/s": perSecond(faults?.count ?? 0, metrics),
      "lock wait ns": longestNs(mmuLock?.wait),
      "lock waited ns": mmuLock?.wait.total ?? 0,
      "aging holds ns": longestNs(mmuLock?.holdBy.get("aging")),
      "populated ns": end,
    },
  };
}

const NO_AD = { paging: "ept-no-ad" } as const;
const DESIGNS: Readonly<Record<string, KvmVariants>> = {
  A0: LINUX_6_12,
  "A0-no-ad": { ...LINUX_6_12, ...NO_AD },
  A5: { ...LINUX_7_2, rmapAging: "ad-only" },
  "A5-no-ad": { ...LINUX_7_2, rmapAging: "ad-only", ...NO_AD },
  A7: LINUX_7_2,
  "A7-no-ad": { ...LINUX_7_2, ...NO_AD },
};

export const measurement: Measurement = {
  study: "lockless-aging",
  question: "What does asking for the ages of pages cost while vCPUs fault?",
  parameters: {
    vcpus: { value: 64, meaning: "vCPUs that populate memory" },
    pages: { value: 64, meaning: "pages that each of them faults in" },
    aged: { value: 256, meaning: "pages that are mapped already, and asked for" },
  },
  variants: {
    A0: "under mmu_lock (6.12)",
    "A0-no-ad": "the same, without A/D bits",
    A5: "under the lock bit; entries without A/D bits are left alone (the seed's patch)",
    "A5-no-ad": "the same, without A/D bits",
    A7: "under the lock bit of the reverse map (6.15 and later)",
    "A7-no-ad": "the same, without A/D bits",
  },
  metrics: {
    "pass ns": "one pass over the pages that are asked for",
    passes: "passes while the vCPUs populated memory",
    "wrong %": "pages of the second and later passes that are called used; nobody used them",
    "page p50 ns": "median of asking for one page",
    "page p99 ns": "99th percentile",
    "fault p50 ns": "median of handling a page fault",
    "fault p99 ns": "99th percentile",
    "faults/s": "page faults handled in a second, by all vCPUs",
    "lock wait ns": "longest wait for mmu_lock",
    "lock waited ns": "all waiting for mmu_lock, by all threads together",
    "aging holds ns": "longest time for which aging has mmu_lock",
    "populated ns": "until all memory was populated",
  },
  plots: ["pass ns", "page p99 ns", "fault p99 ns", "lock wait ns"],
  presets: [
    { what: "with the vCPUs that populate memory", sweep: { vcpus: [1, 8, 64] }, variants: ["A0", "A5", "A7"] },
  ],
  run: (variant, parameters, costs) =>
    measure(DESIGNS[variant] as KvmVariants, parameters as unknown as Parameters, costs),
};
