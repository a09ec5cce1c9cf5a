/**
 * lazy-large-spte in virtual time: the mail's test. What do the guest's reads cost after its large pages were write-protected?
 *
 *     map 4K          the guest writes under dirty logging
 *     switch to 2M    logging ends; the guest writes again
 *     write-protect   logging begins: the large SPTEs are dropped, or become read-only
 *     timed           the guest reads its memory, every cache line once
 *
 * Nested paging without the TDP MMU, as in 2012. The mail gives no size and does not say how much of each page is read; a whole page is 64 lines from memory.
 * A fault is charged with the exit and the look-up of the host's page.
 */
import {
  type CostTable,
  ENGINE_COSTS,
  makeWorld,
  program,
  runSequentially,
  Simulator,
  type Steps,
  type World,
} from "../engine/index.ts";
import { Kernel, kthread, Mm, PageFrames, PROT_READ, PROT_WRITE } from "../kernel/index.ts";
import { kvmCosts } from "../kvm/costs.ts";
import { kvmMmuSlotApplyFlags, kvmPrepareDirtyBitmap } from "../kvm/dirty-log.ts";
import { Kvm } from "../kvm/kvm.ts";
import { KVM_MEM_LOG_DIRTY_PAGES, type KvmMemorySlot } from "../kvm/memslots.ts";
import { type KvmVariants, LINUX_7_2 } from "../kvm/variants.ts";
import { kvmArchVcpuIoctlRun } from "../kvm/vcpu.ts";
import { Vm } from "../kvm/vm.ts";
import { gfn, type Hva, hva, Interrupts, PAGE_SIZE, PG_LEVEL_2M, touch } from "../machine/index.ts";
import type { Figures, Measurement } from "./measurement.ts";

const BASE = hva(0x10000000);
const page = (n: number): Hva => hva(BASE + n * PAGE_SIZE);
const PAGES_OF_LARGE = 512;
const WORDS_OF_LINE = 8;

interface Parameters {
  /** Large pages. */
  readonly large: number;
  /** Cache lines that are read of each 4K page. */
  readonly lines: number;
}

interface Scene {
  readonly world: World;
  readonly vm: Vm;
  reading: number;
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
  const mm = new Mm(world, new PageFrames(world), BASE, frames, { hugePages: true });
  mm.addVma(page(0), page(frames), PROT_READ | PROT_WRITE);
  for (let n = 0; n < frames; n += PAGES_OF_LARGE) {
    mm.install(page(n), mm.frames.allocate("a huge page", PAGES_OF_LARGE), PG_LEVEL_2M, true);
  }
  const kvm = new Kvm(world, new Kernel(world), mm, { ...LINUX_7_2, ...variants });
  Object.assign(kvm.params, { tdpMmu: false, eagerPageSplit: false });
  const vm = new Vm(kvm, new Interrupts(world, world.tasksMax));
  kvm.memslots.addDuringSetup({ id: 0, baseGfn: gfn(0), npages: frames, userspaceAddr: BASE, flags: 0 });
  vm.addVcpu(0);
  const all = Array.from({ length: frames }, (_, n) => n);
  runSequentially(world, 0, "set-up", function* () {
    yield* setLogging(vm, true);
    yield* access(vm, "write", all);
    yield* setLogging(vm, false);
    yield* access(vm, "write", all);
    yield* setLogging(vm, true);
  });
  return { world, vm, reading: 0 };
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

function measure(variants: Partial<KvmVariants>, parameters: Parameters, costs: CostTable): Figures {
  const { world } = makeWorld(
    program<Scene>({
      name: "lazy-large-spte",
      setup: (w) => makeScene(w, variants, parameters),
      tasks: { vcpu0: (scene) => kthread(scene.world, readAll(scene, parameters)) },
      memory: { staticBytes: (parameters.large + 8) * PAGES_OF_LARGE * (PAGE_SIZE + 512), arenaBytes: 16 * 2 ** 20 },
    }),
  );
  const counts = new Map<string, number>();
  world.onEvent = ({ name }) => counts.set(name, (counts.get(name) ?? 0) + 1);
  const table = kvmCosts(costs);
  const fault = ["handle a page fault", "leave and enter the guest", "look up a host page"];
  const all: Record<string, number> = {
    ...table,
    "handle a page fault": fault.reduce((sum, name) => sum + (table[name] ?? 0), 0),
    "read a line": (ENGINE_COSTS["line transfer"] ?? 0) + WORDS_OF_LINE * (ENGINE_COSTS["access"] ?? 0),
    ...costs,
  };
  const { sections, end } = new Simulator(world, { costs: all }).run();
  const pages = parameters.large * PAGES_OF_LARGE;
  const faults = sections.get("page fault")?.count ?? 0;
  return {
    "read ns": end,
    "page ns": end / pages,
    faults,
    "faults per 2M": faults / parameters.large,
    "entries made": counts.get("kvm_mmu_set_spte") ?? 0,
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
    "entries made": "SPTEs that the reads made",
  },
  run: (variant, parameters, costs) =>
    measure(DESIGNS[variant] as Partial<KvmVariants>, parameters as unknown as Parameters, costs),
};
