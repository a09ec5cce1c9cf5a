/**
 * A VM without nested paging on a compiled kernel: a guest with 4-level page tables of its own, which the kernel's MMU shadows. The guests and their memory
 * are those of studies/shadowed-guest.ts. Its one vCPU runs as a workload's does (kernel-vcpu.ts): faults, emulation and its failure, retries are the kernel's.
 *
 * Loops must lead back to a known state to be found. So pages and objects that the kernel frees are used again, and statistics, which only count up and which
 * nothing here reads, are no part of a state.
 */
import {
  type Program,
  program,
  type Results,
  runSequentially,
  type Steps,
  type Task,
  type World,
} from "../engine/index.ts";
import { kthread } from "../kernel/index.ts";
import { GuestCpu, hva, Interrupts, interruptHandler, type PagingMode } from "../machine/index.ts";
import type { Guest } from "../studies/self-map-guests.ts";
import { layOutGuest, longMode, SHADOWED_GUEST_BYTES } from "../studies/shadowed-guest.ts";
import { bootKernel, setMemoryRegion } from "./gpc-scene.ts";
import type { Host } from "./host.ts";
import { HostPageTables } from "./host-page-tables.ts";
import type { Image } from "./image.ts";
import { KernelVcpu } from "./kernel-vcpu.ts";
import type { CompiledKernel } from "./machine.ts";
import { registerNotifier } from "./notifier.ts";

/** The process: 1G from a multiple of 1G on, as walks of its page tables want it. */
const BASE = hva(0x40000000);
const PAGES = 2 ** 18;
/** A vCPU keeps 40 of each in store (KVM_ARCH_NR_OBJS_PER_MEMORY_CACHE), of pages for tables and for what they shadow. */
const POOLS = { kvm_mmu_page_header: 52, pte_list_desc: 52 };
const POOL_PAGES = 104;

export interface ShadowedScene {
  readonly world: World;
  readonly kernel: CompiledKernel;
  readonly host: Host;
  readonly interrupts: Interrupts;
  readonly kvm: number;
  /** struct kvm_vcpu */
  readonly vcpu: number;
  readonly mode: PagingMode;
}

export type ShadowedCheck = (scene: ShadowedScene, results: Results) => string | null;

/** @param check what must hold at the end: null when it does */
export function shadowedScene(
  image: Image,
  racing: Iterable<number>,
  name: string,
  guest: Guest,
  check: ShadowedCheck,
): Program {
  return program<ShadowedScene>({
    name,
    setup: (world) => makeScene(world, image, racing, guest),
    tasks: {
      vcpu0: (scene) => kthread(scene.world, runGuest(scene, guest)),
      irq0: ({ world, interrupts }) => interruptHandler(interrupts, 0, world.tasks[0] as Task),
    },
    daemons: ["irq0"],
    final: (scene, results) => check(scene, results) ?? true,
    memory: { staticBytes: SHADOWED_GUEST_BYTES },
  });
}

function makeScene(world: World, image: Image, racing: Iterable<number>, guest: Guest): ShadowedScene {
  const { kernel, mm, host } = bootKernel(world, image, { base: BASE, pages: PAGES }, { mm: { hugePages: true } });
  const interrupts = new Interrupts(world, world.tasksMax);
  host.interrupts = interrupts;
  host.pageTables = new HostPageTables(mm);
  const frames = layOutGuest(world, mm, BASE, guest);
  const mode = longMode(guest.root);
  const { kvm, vcpu } = runSequentially(world, 0, "set-up", () => setUp(kernel, frames, mode));
  registerNotifier(kernel, mm, kvm);
  const scene = { world, kernel, host, interrupts, kvm, vcpu, mode };
  // The vCPU has a root, and its stores are full.
  runSequentially(world, 0, "vcpu0", () => runGuest(scene, { ...guest, instructions: [] }));
  host.makePools(kernel, POOLS, POOL_PAGES);
  leaveOutStatistics(kernel, "kvm", kvm);
  leaveOutStatistics(kernel, "kvm_vcpu", vcpu);
  kernel.treatAsMarked(racing);
  return scene;
}

function* setUp(
  kernel: CompiledKernel,
  frames: number,
  { cr0, cr3, cr4, efer }: PagingMode,
): Steps<Pick<ShadowedScene, "kvm" | "vcpu">> {
  yield* kernel.call("rw_boot");
  yield* kernel.call("rw_mmu_parameters", 0);
  yield* kernel.call("rw_load_modules", 0, 0, 1);
  const kvm = yield* kernel.call("rw_create_vm");
  yield* setMemoryRegion(kernel, kvm, { pages: frames, hva: BASE });
  const registers = [cr0 >>> 0, cr3, cr4, efer].map(BigInt);
  const vcpu = yield* kernel.call("rw_create_guest", BigInt(kvm), 0, ...registers);
  return { kvm, vcpu };
}

function leaveOutStatistics(kernel: CompiledKernel, structure: string, addr: number): void {
  const fields = kernel.image.description.structs[structure]?.fields ?? [];
  for (const [offset, bytes, name] of fields)
    if (name.startsWith("stat.")) kernel.world.heap.leaveOutOfHash(addr + offset, bytes);
}

function runGuest(
  { world, kernel, host, interrupts, vcpu, mode }: ShadowedScene,
  { instructions, handler }: Guest,
): Steps<string> {
  const cpu = new GuestCpu(world, 0, interrupts, mode);
  cpu.handler = handler ?? null;
  host.guests.set(0, cpu);
  return new KernelVcpu(kernel, vcpu, 0, cpu, false).run(instructions);
}

/** The vCPU's run ends so, after at most so many page faults. */
export function ends(how: "done" | "internal-error", faultsMax: number): ShadowedCheck {
  return ({ kernel, vcpu }, results) => {
    if (results["vcpu0"] !== how) return `the run ends with ${String(results["vcpu0"])}, not with ${how}`;
    const faults = kernel.peek(vcpu + kernel.offsetOf("kvm_vcpu", "stat.pf_taken"), 8);
    return faults > faultsMax ? `${faults} page faults, more than ${faultsMax}` : null;
  };
}
