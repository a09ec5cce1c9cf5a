/**
 * Faults on a compiled kernel's TDP MMU: mmu.c, tdp_mmu.c and the notifier of kvm_main.c, with guests on our CPUs.
 *
 *     page n of the VMM at BASE + n pages  =  guest frame n  =  memslot 0
 *
 * Tasks `vcpu0`, `vcpu1` run guests that touch pages, `munmap` takes page 0 away, `irq0`, `irq1` are their CPUs' interrupt handlers. What a vCPU does
 * between two exits is the kernel's own code as far as it is the MMU's (runtime/x86.c); the guest itself, its TLB and the walk of its tables are ours.
 */
import { assert, type Program, program, runSequentially, type Steps, type Task, type World } from "../engine/index.ts";
import { kthread, type Mm, munmap, PROT_READ, PROT_WRITE } from "../kernel/index.ts";
import {
  GuestCpu,
  type GuestInstruction,
  type Hpa,
  hva,
  Interrupts,
  interruptHandler,
  NO_PAGING,
  PAGE_SIZE,
  touch,
  vmrun,
} from "../machine/index.ts";
import { bootKernel, createVm, setMemoryRegion } from "./gpc-scene.ts";
import type { Host } from "./host.ts";
import type { Image } from "./image.ts";
import type { CompiledKernel } from "./machine.ts";
import { tdpTablesProblem } from "./tdp-oracle.ts";

const BASE = hva(0x10000000);
/** Frames of the memslot; the last one is touched during set-up only. */
const FRAMES = 4;

export interface TdpSceneOptions {
  /** What each vCPU's guest does. */
  readonly guests: readonly (readonly GuestInstruction[])[];
  /** The vCPUs have a root, and the tables above the leaves are there. */
  readonly warm: boolean;
  /** munmap() of page 0. */
  readonly unmap: boolean;
  /** Faults on one instruction before a vCPU gives up. */
  readonly faultsMax: number;
}

interface Scene {
  readonly world: World;
  readonly mm: Mm;
  readonly kernel: CompiledKernel;
  readonly host: Host;
  readonly interrupts: Interrupts;
  readonly kvm: number;
  /** struct kvm_vcpu of each vCPU. */
  readonly vcpus: readonly number[];
}

export function tdpProgramOn(image: Image, racing: Iterable<number>, name: string, options: TdpSceneOptions): Program {
  const tasks: Record<string, (scene: Scene, task: Task) => Steps<unknown>> = {};
  for (const [i, instructions] of options.guests.entries()) {
    tasks[`vcpu${i}`] = (scene) => kthread(scene.world, runGuest(scene, i, instructions, options.faultsMax));
  }
  if (options.unmap) {
    tasks["munmap"] = ({ world, mm }) => kthread(world, munmap(mm, BASE, hva(BASE + PAGE_SIZE)));
  }
  const daemons = options.guests.map((_, i) => `irq${i}`);
  for (const [i, daemon] of daemons.entries()) {
    tasks[daemon] = ({ world, interrupts }) => interruptHandler(interrupts, i, world.tasks[i] as Task);
  }
  return program<Scene>({
    name,
    setup: (world) => makeScene(world, image, racing, options),
    tasks,
    daemons,
    final: ({ kernel, kvm, vcpus }) => tdpTablesProblem(kernel, kvm, vcpus) ?? undefined,
  });
}

function makeScene(world: World, image: Image, racing: Iterable<number>, options: TdpSceneOptions): Scene {
  const { kernel, mm, host } = bootKernel(world, image, { base: BASE, pages: FRAMES });
  const interrupts = new Interrupts(world, world.tasksMax);
  host.interrupts = interrupts;
  for (let n = 0; n < FRAMES; n++) {
    const at = hva(BASE + n * PAGE_SIZE);
    mm.addVma(at, hva(at + PAGE_SIZE), PROT_READ | PROT_WRITE);
    mm.populate(at, `page ${n}`);
  }
  const made = runSequentially(world, options.guests.length, "set-up", () =>
    setUp(kernel, host, options.guests.length),
  );
  const scene: Scene = { world, mm, kernel, host, interrupts, ...made };
  if (options.warm) {
    for (const i of made.vcpus.keys()) {
      const result = runSequentially(world, i, `vcpu${i}`, () => runGuest(scene, i, [touch(FRAMES - 1, "write")], 1));
      assert(result === "done", `a vCPU alone does not get its page: ${result}`);
    }
  }
  kernel.treatAsMarked(racing);
  return scene;
}

function* setUp(kernel: CompiledKernel, host: Host, count: number): Steps<{ kvm: number; vcpus: number[] }> {
  const kvm = yield* createVm(kernel, host);
  yield* setMemoryRegion(kernel, kvm, FRAMES, BASE);
  const vcpus: number[] = [];
  for (let i = 0; i < count; i++) vcpus.push(yield* kernel.call("rw_create_vcpu", BigInt(kvm), i));
  return { kvm, vcpus };
}

/** KVM_RUN of a vCPU that was just reset: runs the instructions to their end. */
function* runGuest(
  { world, kernel, host, interrupts, vcpus }: Scene,
  id: number,
  instructions: readonly GuestInstruction[],
  faultsMax: number,
): Steps<string> {
  const vcpu = BigInt(vcpus[id] as number);
  const guest = new GuestCpu(world, id, interrupts, NO_PAGING);
  host.guests.set(id, guest);
  guest.loadInstructions(instructions);
  yield* kernel.call("rw_run_begin", vcpu);
  let result: string | null = null;
  let faults = 0;
  while (result === null) {
    if ((yield* kernel.call("rw_enter_guest", vcpu)) !== 0) continue;
    guest.nestedRoot = (yield* kernel.call("rw_root", vcpu)) as Hpa;
    const exit = yield* vmrun(guest);
    yield* kernel.call("rw_exit_guest", vcpu);
    if (exit.kind === "done") result = "done";
    else if (exit.kind === "npf") {
      if (faults++ === faultsMax) result = "gave-up";
      else if ((yield* kernel.call("rw_page_fault", vcpu, BigInt(exit.gpa), BigInt(exit.errorCode))) < 0)
        result = "efault";
    }
  }
  yield* kernel.call("rw_run_end", vcpu);
  return result;
}
