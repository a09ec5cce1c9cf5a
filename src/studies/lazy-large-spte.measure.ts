/**
 * lazy-large-spte in virtual time: the mail's test. What do the guest's reads cost after its large pages were write-protected?
 *
 *     map 4K          the guest writes under dirty logging
 *     switch to 2M    logging ends; the guest writes again
 *     write-protect   logging begins: the large SPTEs are dropped, or become read-only
 *     timed           the guest reads its memory, every cache line once
 *
 * Nested paging without the TDP MMU, as in 2012. The mail gives no size and does not say how much of each page is read; a whole page is 64 lines from memory.
 */
import { type CostTable, ENGINE_COSTS, runSequentially, type Steps, type World } from "../engine/index.ts";
import { Kernel, Mm, PageFrames, PROT_READ, PROT_WRITE } from "../kernel/index.ts";
import { kvmMmuSlotApplyFlags, kvmPrepareDirtyBitmap } from "../kvm/dirty-log.ts";
import { Kvm } from "../kvm/kvm.ts";
import { KVM_MEM_LOG_DIRTY_PAGES, type KvmMemorySlot } from "../kvm/memslots.ts";
import { type KvmVariants, LINUX_7_2 } from "../kvm/variants.ts";
import { kvmArchVcpuIoctlRun } from "../kvm/vcpu.ts";
import { Vm } from "../kvm/vm.ts";
import { gfn, Interrupts, PAGE_SIZE, PG_LEVEL_2M, touch } from "../machine/index.ts";
import { type MeasuredScene, simulate } from "./measured-vm.ts";
import type { Measured, Measurement } from "./measurement.ts";
import { hostPage } from "./tdp-scene.ts";

const PAGES_OF_LARGE = 512;
const WORDS_OF_LINE = 8;

interface Parameters {
  /** Large pages. */
  readonly large: number;
  /** Cache lines that are read of each 4K page. */
  readonly lines: number;
}

interface Scene extends MeasuredScene {
  readonly vm: Vm;
}

function* setLogging(vm: Vm, on: boolean): Steps<void> {
  const slot = vm.kvm.memslots.byId(0) as KvmMemorySlot;
  slot.flags.value = on ? KVM_MEM_LOG_DIRTY_PAGES : 0;
  const update = { old: slot, new: slot, change: "flags-only" } as const;
  if (on) kvmPrepareDirtyBitmap(vm, { ...update, old: null });
  yield* kvmMmuSlotApplyFlags(vm, update);
}

function* access(vm: Vm, kind: "read" | "write", frames: readonly number[]): Steps<void> {
  const vcpu = vm.vcpus[0] as Vm["vcpus"][number];
  vcpu.reset();
  yield* kvmArchVcpuIoctlRun(
    vcpu,
    frames.map((frame) => touch(frame, kind)),
  );
}

function makeScene(world: World, variants: Partial<KvmVariants>, { large }: Parameters): Scene {
  const frames = large * PAGES_OF_LARGE;
  const mm = new Mm(world, new PageFrames(world), hostPage(0), frames, { hugePages: true });
  mm.addVma(hostPage(0), hostPage(frames), PROT_READ | PROT_WRITE);
  for (let n = 0; n < frames; n += PAGES_OF_LARGE) {
    mm.install(hostPage(n), mm.frames.allocate("a huge page", PAGES_OF_LARGE), PG_LEVEL_2M, true);
  }
  const kvm = new Kvm(world, new Kernel(world), mm, { ...LINUX_7_2, ...variants });
  Object.assign(kvm.params, { tdpMmu: false, eagerPageSplit: false });
  const vm = new Vm(kvm, new Interrupts(world, world.tasksMax));
  kvm.memslots.addDuringSetup({ id: 0, baseGfn: gfn(0), npages: frames, userspaceAddr: hostPage(0), flags: 0 });
  vm.addVcpu(0);
  const all = Array.from({ length: frames }, (_, n) => n);
  runSequentially(world, 0, "set-up", function* () {
    yield* setLogging(vm, true);
    yield* access(vm, "write", all);
    yield* setLogging(vm, false);
    yield* access(vm, "write", all);
    yield* setLogging(vm, true);
  });
  return { world, kvm, vm };
}

/** The timed part. */
function* readAll({ world, vm }: Scene, { large, lines }: Parameters): Steps<void> {
  const vcpu = vm.vcpus[0] as Vm["vcpus"][number];
  vcpu.reset();
  for (let n = 0; n < large * PAGES_OF_LARGE; n++) {
    yield* kvmArchVcpuIoctlRun(vcpu, [touch(n, "read")]);
    world.clock?.spend("read a line", lines);
  }
}

function measure(variants: Partial<KvmVariants>, parameters: Parameters, costs: CostTable): Measured {
  const counts = new Map<string, number>();
  const { metrics } = simulate<Scene>({
    name: "lazy-large-spte",
    setup: (w) => makeScene(w, variants, parameters),
    threads: { vcpu0: (scene) => readAll(scene, parameters) },
    interrupted: 0,
    rcu: false,
    memory: { staticBytes: (parameters.large + 8) * PAGES_OF_LARGE * (PAGE_SIZE + 512), arenaBytes: 16 * 2 ** 20 },
    costs: {
      "read a line": (ENGINE_COSTS["line transfer"] ?? 0) + WORDS_OF_LINE * (ENGINE_COSTS["access"] ?? 0),
      ...costs,
    },
    onEvent: ({ name }) => counts.set(name, (counts.get(name) ?? 0) + 1),
  });
  const { sections, end } = metrics;
  const pages = parameters.large * PAGES_OF_LARGE;
  const faults = sections.get("page fault");
  return {
    metrics: {
      "read ns": end,
      "page ns": end / pages,
      faults: faults?.count ?? 0,
      "faults per 2M": (faults?.count ?? 0) / parameters.large,
      "fault ns": faults === undefined ? null : faults.total / faults.count,
      "entries made": counts.get("kvm_mmu_set_spte") ?? 0,
    },
  };
}

const DESIGNS: Readonly<Record<string, Partial<KvmVariants>>> = { eager: { largeProtected: "dropped" }, lazy: {} };

export const measurement: Measurement = {
  study: "lazy-large-spte",
  question: "What do the guest's reads cost after its large pages were write-protected?",
  parameters: {
    large: { value: 4, meaning: "2M pages" },
    lines: { value: 64, meaning: "cache lines that are read of each 4K page; 64: all" },
  },
  variants: {
    eager: "a large SPTE under write protection is dropped",
    lazy: "it becomes read-only (the patch, and Linux)",
  },
  metrics: {
    "read ns": "the guest's reads of all of its memory",
    "page ns": "the same for a 4K page",
    faults: "page faults of the reads",
    "faults per 2M": "the same for each large page",
    "fault ns": "handling one of them, without the exit from the guest and the entry",
    "entries made": "SPTEs that the reads made",
  },
  plots: ["page ns"],
  presets: [{ what: "with how much of a page is read", sweep: { lines: [1, 4, 16, 64] }, set: { large: 2 } }],
  run: (variant, parameters, costs) =>
    measure(DESIGNS[variant] as Partial<KvmVariants>, parameters as unknown as Parameters, costs),
};
