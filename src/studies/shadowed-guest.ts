/**
 * A small VM without nested paging: a guest with 4-level page tables of its own, which the shadow MMU shadows.
 *
 *     guest frames 0 to 511      one 2M page of the host, or 4K pages
 *     guest frames 512 to 1023   4K pages, those that have contents
 *
 * A scenario writes the guest's tables entry by entry. Its one vCPU is alone, so a run has no interleavings; what is looked for is whether it ends.
 */
import {
  entryCell,
  type Program,
  program,
  type Results,
  runSequentially,
  type Steps,
  type Task,
  type U64,
  U64_ZERO,
  type World,
} from "../engine/index.ts";
import { Kernel, kthread, Mm, PageFrames, PROT_READ, PROT_WRITE } from "../kernel/index.ts";
import { Kvm } from "../kvm/kvm.ts";
import type { ShadowMmu } from "../kvm/shadow/shadow-mmu.ts";
import { type KvmVariants, LINUX_7_2 } from "../kvm/variants.ts";
import { kvmArchVcpuIoctlRun } from "../kvm/vcpu.ts";
import { Vm } from "../kvm/vm.ts";
import {
  type ExceptionHandler,
  type GuestInstruction,
  type Gva,
  gfn,
  type Hva,
  hva,
  Interrupts,
  interruptHandler,
  PAGE_SIZE,
  type PagingMode,
  PG_LEVEL_2M,
  pagingModeOf,
  X86_CR0_PG,
  X86_CR0_WP,
  X86_CR4_PAE,
} from "../machine/index.ts";

const BASE = hva(0x10000000);
const HUGE_FRAMES = 512;
const FRAMES = 1024;
const SHADOW_PAGES = 12;

/** Bits of a guest's entry: present, writable, accessed, dirty; and of one that maps 2M, PS. */
const ENTRY = 0x63;
export const LARGE = ENTRY | 0x80;
const LONG_MODE = 0x500;

/** An entry of one of the guest's tables: `[table's frame, index, frame]`, and bits other than those of a table or a 4K page. */
export type GuestEntry = readonly [table: number, index: number, frame: number, bits?: number];

export interface ShadowedGuestOptions {
  /** Frames 0 to 511 are one page of the host. */
  readonly hugePage: boolean;
  /** Frame of the guest's top table, and all entries of all tables. */
  readonly root: number;
  readonly entries: readonly GuestEntry[];
  readonly instructions: readonly GuestInstruction[];
  /** Where the guest's own page faults are delivered. */
  readonly handler?: ExceptionHandler;
  readonly variants: Partial<KvmVariants>;
  /** What must hold at the end: null when it does. */
  readonly check: (scene: ShadowedGuest, results: Results) => string | null;
}

export interface ShadowedGuest {
  readonly world: World;
  readonly vm: Vm;
  readonly shadow: ShadowMmu;
  readonly mode: PagingMode;
}

/** Bytes of the heap: the two 2M pages, the host's zero pages, and what belongs to them. */
export const SHADOWED_GUEST_BYTES = 16 * 1024 * 1024;

type Memory = Pick<ShadowedGuestOptions, "hugePage" | "root" | "entries">;

/** The guest's memory as the VMM has it from `base` on, with its page tables. Set-up only. @returns how many frames there are */
export function layOutGuest(world: World, mm: Mm, base: Hva, { hugePage, root, entries }: Memory): number {
  const page = (n: number): Hva => hva(base + n * PAGE_SIZE);
  mm.addVma(page(0), page(FRAMES), PROT_READ | PROT_WRITE);
  if (hugePage) mm.install(page(0), mm.frames.allocate("the huge page", HUGE_FRAMES), PG_LEVEL_2M, true);
  const tables = entries.flatMap(([table, , frame, bits = ENTRY]) => (bits === LARGE ? [table] : [table, frame]));
  const populated = hugePage ? [] : [4, 5, 8];
  for (const n of new Set([root, ...tables, ...populated])) {
    if (n >= HUGE_FRAMES || !hugePage) mm.populate(page(n), `gfn ${n}`);
  }
  for (const [table, index, frame, bits = ENTRY] of entries) {
    const host = mm.frameAt(page(table));
    if (host === null) throw new Error("unreachable");
    entryCell(world, host * PAGE_SIZE, index).value = { hi: 0, lo: frame * PAGE_SIZE + bits };
  }
  return FRAMES;
}

/** The registers of a guest with 4-level tables. */
export function longMode(root: number): PagingMode {
  return pagingModeOf({
    cr0: X86_CR0_PG | X86_CR0_WP | 0x11,
    cr3: root * PAGE_SIZE,
    cr4: X86_CR4_PAE,
    efer: LONG_MODE,
  });
}

function makeScene(world: World, options: ShadowedGuestOptions): ShadowedGuest {
  const { hugePage, root, variants } = options;
  const mm = new Mm(world, new PageFrames(world), BASE, FRAMES, { hugePages: hugePage });
  layOutGuest(world, mm, BASE, options);
  const kvm = new Kvm(world, new Kernel(world), mm, { ...LINUX_7_2, shadowPagePool: SHADOW_PAGES, ...variants });
  Object.assign(kvm.params, { npt: false, tdpMmu: false });
  const vm = new Vm(kvm, new Interrupts(world, 1));
  kvm.memslots.addDuringSetup({ id: 0, baseGfn: gfn(0), npages: FRAMES, userspaceAddr: BASE, flags: 0 });
  const vcpu = vm.addVcpu(0);
  const mode = longMode(root);
  runSequentially(world, 0, "vcpu0", () => {
    vcpu.reset(mode);
    return kvmArchVcpuIoctlRun(vcpu, []);
  });
  return { world, vm, shadow: vm.shadow as ShadowMmu, mode };
}

function* runGuest({ vm, mode }: ShadowedGuest, { instructions, handler }: ShadowedGuestOptions): Steps<string> {
  const vcpu = vm.vcpus[0] as Vm["vcpus"][number];
  vcpu.reset(mode);
  vcpu.guest.handler = handler ?? null;
  return yield* kvmArchVcpuIoctlRun(vcpu, instructions);
}

/** The scene's program: the vCPU, and its CPU's interrupt handler. */
export function shadowedGuest(name: string, options: ShadowedGuestOptions): Program {
  return program<ShadowedGuest>({
    name,
    setup: (world) => makeScene(world, options),
    tasks: {
      vcpu0: (scene) => kthread(scene.world, runGuest(scene, options)),
      irq0: ({ world, vm }) => interruptHandler(vm.interrupts, 0, world.tasks[0] as Task),
    },
    daemons: ["irq0"],
    final: (scene, results) => options.check(scene, results) ?? true,
    memory: { staticBytes: SHADOWED_GUEST_BYTES },
  });
}

// --- instructions ----------------------------------------------------------------------------------------------------

/** An access of 8 bytes; a write stores zero unless told otherwise. */
export function accessAt(access: "read" | "write", gva: number, value: U64 = U64_ZERO): GuestInstruction {
  return { rip: null, cpl: 0, action: { kind: "access", access, gva: gva as Gva, size: 8, value } };
}

/** A store that KVM's emulator does not know. */
export function unemulatableStore(gva: number): GuestInstruction {
  return { ...accessAt("write", gva), unemulatable: true };
}
