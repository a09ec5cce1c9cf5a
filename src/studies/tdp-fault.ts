/**
 * tdp-fault: does the TDP fault path stand up to other faults and to the host taking pages away?
 *
 * Not a thread of its own: it is what every design question about the TDP MMU takes for granted. A fault snapshots mmu_invalidate_seq, looks
 * the frame up, and maps it under mmu_lock for read if no invalidation has come between; tables are linked by compare-exchange; the notifier
 * zaps under mmu_lock for write and flushes every TLB before it returns.
 *
 * Tasks: vcpu0 and vcpu1 run a guest that touches pages, munmap takes page 0 away, irq0 and irq1 are their CPUs' interrupt handlers.
 */
import {
  type MemoryModel,
  type Program,
  program,
  runSequentially,
  type Steps,
  type Task,
  type World,
} from "../engine/index.ts";
import { Kernel, kthread, Mm, munmap, PageFrames, PROT_READ, PROT_WRITE } from "../kernel/index.ts";
import { Kvm } from "../kvm/kvm.ts";
import { LINUX_7_2 } from "../kvm/variants.ts";
import { kvmArchVcpuIoctlRun } from "../kvm/vcpu.ts";
import { Vm } from "../kvm/vm.ts";
import {
  type GuestInstruction,
  gfn,
  type Hva,
  hva,
  Interrupts,
  interruptHandler,
  PAGE_SIZE,
  touch,
} from "../machine/index.ts";
import { tdpTablesProblem } from "../oracle/tdp-tables.ts";
import { cell, type StudyCell, study } from "./study.ts";

const BASE = hva(0x10000000);
const page = (n: number): Hva => hva(BASE + n * PAGE_SIZE);
/** Frames of the memslot; the last one is touched during set-up only. */
const FRAMES = 4;

interface Scene {
  readonly world: World;
  readonly mm: Mm;
  readonly vm: Vm;
}

interface SceneOptions {
  /** What each vCPU's guest does. */
  readonly guests: readonly (readonly GuestInstruction[])[];
  /** The vCPUs have a root, and the tables above the leaves are there. */
  readonly warm: boolean;
  /** munmap() of page 0. */
  readonly unmap: boolean;
  /** Faults on one instruction before a vCPU gives up (KvmVariants.faultsMax). */
  readonly faultsMax: number;
}

function makeScene(world: World, options: SceneOptions): Scene {
  const kernel = new Kernel(world);
  const mm = new Mm(world, new PageFrames(world), BASE, FRAMES);
  for (let n = 0; n < FRAMES; n++) {
    mm.addVma(page(n), page(n + 1), PROT_READ | PROT_WRITE);
    mm.populate(page(n), `page ${n}`);
  }
  const kvm = new Kvm(world, kernel, mm, { ...LINUX_7_2, faultsMax: options.faultsMax });
  const vm = new Vm(kvm, new Interrupts(world, world.tasksMax));
  kvm.memslots.addDuringSetup({ id: 0, baseGfn: gfn(0), npages: FRAMES, userspaceAddr: BASE, flags: 0 });
  for (const i of options.guests.keys()) {
    const vcpu = vm.addVcpu(i);
    if (options.warm) runSequentially(world, i, `vcpu${i}`, () => runGuest(vm, vcpu.id, [touch(FRAMES - 1, "write")]));
  }
  return { world, mm, vm };
}

function* runGuest(vm: Vm, vcpu: number, instructions: readonly GuestInstruction[]): Steps<string> {
  const thread = vm.vcpus[vcpu] as (typeof vm.vcpus)[number];
  thread.reset();
  return yield* kvmArchVcpuIoctlRun(thread, instructions);
}

function tdpProgram(name: string, options: SceneOptions): Program {
  const { guests, unmap } = options;
  const tasks: Record<string, (scene: Scene) => Steps<unknown>> = {};
  for (const [i, instructions] of guests.entries()) {
    tasks[`vcpu${i}`] = ({ world, vm }) => kthread(world, runGuest(vm, i, instructions));
  }
  if (unmap) tasks["munmap"] = ({ world, mm }) => kthread(world, munmap(mm, page(0), page(1)));
  for (const i of guests.keys()) {
    tasks[`irq${i}`] = ({ world, vm }) => interruptHandler(vm.interrupts, i, world.tasks[i] as Task);
  }
  return program<Scene>({
    name,
    setup: (world) => makeScene(world, options),
    tasks,
    daemons: Object.keys(tasks).filter((task) => task.startsWith("irq")),
    final: ({ vm }) => tdpTablesProblem(vm.tdp) ?? true,
  });
}

const write0 = touch(0, "write");
const read0 = touch(0, "read");
const write1 = touch(1, "write");

function cells(
  scenario: string,
  property: string,
  options: SceneOptions,
  because: string,
  models: readonly MemoryModel[] = ["sc", "tso"],
): StudyCell[] {
  return models.map((model) =>
    cell({
      variant: "7.2",
      scenario,
      property,
      model,
      expected: "holds",
      because,
      program: () => tdpProgram(scenario, options),
    }),
  );
}

export default study({
  id: "tdp-fault",
  title: "Does the TDP fault path stand up to other faults and to the host's unmapping?",
  source: "virt/kvm/kvm_main.c and arch/x86/kvm/mmu/tdp_mmu.c of Linux 7.2",
  variants: { "7.2": "Linux 7.2: mmu_invalidate_seq, atomic SPTE changes, flush before the notifier returns" },
  cells: [
    ...cells(
      "two-maps",
      "final",
      { guests: [[write0], [write1]], warm: false, unmap: false, faultsMax: 1 },
      "one of two faults that need the same tables links each, the other uses it or gives its own back",
    ),
    ...cells(
      "same-page",
      "final",
      { guests: [[write0], [write0]], warm: true, unmap: false, faultsMax: 1 },
      "who loses the compare-exchange of the leaf finds it set",
    ),
    ...cells(
      "unmap",
      "isolation",
      { guests: [[write0, read0]], warm: true, unmap: true, faultsMax: 1 },
      "a fault that was under way is stale under mmu_lock; a mapping is zapped and flushed before start() returns",
    ),
    ...cells(
      "cold-unmap",
      "isolation",
      { guests: [[write0, read0]], warm: false, unmap: true, faultsMax: 1 },
      "the same while the tables are being built",
    ),
    ...cells(
      "reenter",
      "isolation",
      { guests: [[write0, write1, read0]], warm: true, unmap: true, faultsMax: 1 },
      "a vCPU that is outside the guest is not interrupted: it sees the request before it enters again",
    ),
    ...cells(
      "two-vcpus-unmap",
      "isolation",
      { guests: [[write0], [write1]], warm: true, unmap: true, faultsMax: 1 },
      "the same while another vCPU faults on a neighbour",
      ["sc"],
    ),
  ],
});
