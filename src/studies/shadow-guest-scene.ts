/**
 * A small VM without nested paging for scenarios on the shadow MMU. Its guest has one address space of four levels, which its vCPUs share:
 *
 *     frame 1 --[0]--> frame 2 --[0]--> frame 3 --[0]--> frame 4    [0]  itself
 *                                                                   [8]  frame 5
 *                                                                   [16] frame 3, the table above
 *                                                        frame 7    the same, but [8] frame 6; nothing leads to it
 *
 * so the guest edits its last-level table by way of page 0, the table above by way of page 16, and page 8 is its data: far enough from the others not
 * to be mapped ahead of use. Frames 5 and 6 begin with their own numbers. All A and D bits are set. Tasks are named as in tdp-scene.ts.
 *
 * Tables use their first 24 entries only (KvmVariants.tableEntriesEnd): the rest of a shadow page is known to be empty.
 */
import {
  Cell,
  orU64,
  type Program,
  program,
  type Results,
  runSequentially,
  type Steps,
  store,
  type Task,
  type U64,
  u64,
  type World,
} from "../engine/index.ts";
import {
  insertPfn,
  Kernel,
  kthread,
  Mm,
  mutexLock,
  mutexUnlock,
  PageFrames,
  PROT_READ,
  PROT_WRITE,
  putUser,
  srcuReadLock,
  srcuReadUnlock,
  VM_PFNMAP,
} from "../kernel/index.ts";
import { kvmPrepareDirtyBitmap } from "../kvm/dirty-log.ts";
import { x86EmulateInstruction } from "../kvm/emulate.ts";
import { Kvm } from "../kvm/kvm.ts";
import { kvmSetMemoryRegion } from "../kvm/memory-region.ts";
import { kvmMmuPageFault } from "../kvm/mmu.ts";
import { kvmMmuZapAllFast } from "../kvm/mmu-zap.ts";
import { IN_GUEST_MODE, OUTSIDE_GUEST_MODE } from "../kvm/requests.ts";
import type { ShadowMmu } from "../kvm/shadow/shadow-mmu.ts";
import { type KvmVariants, LINUX_7_2 } from "../kvm/variants.ts";
import { kvmArchVcpuIoctlRun, setHardwareRoot, type Vcpu } from "../kvm/vcpu.ts";
import { Vm } from "../kvm/vm.ts";
import {
  type ControlRegisters,
  frameBits,
  type GuestAction,
  type GuestInstruction,
  type Gva,
  gfn,
  type Hva,
  hva,
  Interrupts,
  interruptHandler,
  maskInterrupts,
  NO_PAGING,
  PAGE_SIZE,
  PFERR_PRESENT,
  PFERR_WRITE,
  type Pfn,
  pagingModeOf,
  type Tlb,
  unmaskInterrupts,
  vmrun,
} from "../machine/index.ts";
import { rmapsProblem } from "../oracle/rmap.ts";
import { inStepProblem } from "../oracle/shadow-in-step.ts";
import { shadowTablesProblem } from "../oracle/shadow-tables.ts";

const BASE = hva(0x10000000);
const FRAMES = 8;
const ENTRIES_USED = 24;

/** Frames of the guest's tables, by level; and of the other last-level table. */
const ROOT = 1;
export const DIRECTORY = 3;
export const TABLE = 4;
const OTHER_TABLE = 7;
/** What page 8 is, and what it can be made. */
export const OLD = 5;
export const NEW = 6;

/** Pages of the guest's address space. */
export const TABLE_PAGE = 0;
export const DATA_PAGE = 8;
export const DIRECTORY_PAGE = 16;

/** P, W, A and D. */
const RIGHTS = u64(0, 0x63);

/** Protected mode with paging, 64 bits, WP and NX. */
const REGISTERS: ControlRegisters = { cr0: 0x8001_0001, cr3: ROOT * PAGE_SIZE, cr4: 0x20, efer: 0xd00 };
const PAGING = pagingModeOf(REGISTERS);

/** Table, entry, frame. */
const ENTRIES: readonly (readonly [number, number, number])[] = [
  [ROOT, 0, 2],
  [2, 0, DIRECTORY],
  [DIRECTORY, 0, TABLE],
  [TABLE, TABLE_PAGE, TABLE],
  [TABLE, DATA_PAGE, OLD],
  [TABLE, DIRECTORY_PAGE, DIRECTORY],
  [OTHER_TABLE, TABLE_PAGE, TABLE],
  [OTHER_TABLE, DATA_PAGE, NEW],
  [OTHER_TABLE, DIRECTORY_PAGE, DIRECTORY],
];

/** Where the VMM's process has guest frame `n`. */
export const shadowHostPage = (n: number): Hva => hva(BASE + n * PAGE_SIZE);

export interface ShadowScene {
  readonly world: World;
  readonly mm: Mm;
  readonly vm: Vm;
  readonly shadow: ShadowMmu;
  /** What each vCPU has cached at the end of the set-up. */
  readonly tlbs: readonly Tlb[];
}

type TaskOf = (scene: ShadowScene) => Steps<unknown>;

/** One vCPU of a scene. */
export interface GuestPlan {
  /** What it does during set-up. */
  readonly warm: readonly GuestInstruction[];
  /** What it does then: runs of instructions, between which its thread is with the VMM. */
  readonly runs?: readonly (readonly GuestInstruction[])[];
  /** Or: it is in the guest when the scenario begins, and leaves it after these. */
  readonly inGuest?: readonly GuestInstruction[] | null;
  /** Or: it has left the guest, and its thread does this and no more. */
  readonly handles?: ((vcpu: Vcpu) => Steps<unknown>) | null;
  /** Its TLB is as the set-up has left it; else empty. */
  readonly keepsTlb?: boolean;
  /** It has no paging: page n is frame n, and its tables are direct ones. */
  readonly direct?: boolean;
  /** Control registers that are not as the others have them. */
  readonly registers?: Partial<ControlRegisters>;
}

/** An entry of one of the guest's tables: `[table's frame, index, frame]`, and bits other than P, W, A and D. */
export type ExtraEntry = readonly [table: number, index: number, frame: number, bits?: number];

export interface ShadowSceneOptions {
  readonly guests: readonly GuestPlan[];
  /** Kernel threads beside, by name. */
  readonly threads?: Readonly<Record<string, TaskOf>>;
  readonly variants?: Partial<KvmVariants>;
  /** KVM_MEM_* of the memslot. */
  readonly flags?: number;
  /** Entries beside those of the drawing. */
  readonly entries?: readonly ExtraEntry[];
  /** Somebody changes the guest's tables unseen by KVM: shadow pages may differ from them for good. */
  readonly changesUnseen?: boolean;
  /** Memslots beside the first, each with pages of its own behind those of the one before. */
  readonly slots?: readonly { readonly baseGfn: number; readonly npages: number; readonly flags?: number }[];
  /** Bytes of each vCPU's dirty ring; 0: writes are logged in bitmaps. */
  readonly dirtyRingSize?: number;
  /** The host keeps which of its pages are dirty. */
  readonly keepsDirty?: boolean;
  /** Frames that are a driver's, which the VMM has mapped. */
  readonly pfnMapped?: readonly number[];
  /** Frames that the VMM takes away; all others are pinned. */
  readonly unmapped?: readonly number[];
  /** Goes on with the set-up, when the vCPUs have done their part, before one of them enters the guest. */
  readonly prepare?: TaskOf | null;
  /** What must hold at the end besides the tables' order: null when it does. */
  readonly check?: (scene: ShadowScene, results: Results) => string | null;
}

// --- what the guest does ---------------------------------------------------------------------------------------------

function instruction(action: GuestAction): GuestInstruction {
  return { rip: null, cpl: 0, action };
}

function access(kind: "read" | "write", gva: number, value: U64): GuestInstruction {
  return instruction({ kind: "access", access: kind, gva: gva as Gva, size: 8, value });
}

export const readPage = (n: number): GuestInstruction => access("read", n * PAGE_SIZE, u64(0, 0));
export const writePage = (n: number, value = n): GuestInstruction => access("write", n * PAGE_SIZE, u64(0, value));

/** An entry as the guest makes it. */
const guestEntry = (frame: number, bits: U64 = RIGHTS): U64 => orU64(frameBits(frame as Pfn), bits);

/** The guest writes entry `index` of its last-level table. */
const writeTable = (index: number, entry: U64): GuestInstruction =>
  access("write", TABLE_PAGE * PAGE_SIZE + 8 * index, entry);

/** It writes an entry of the table that page `page` is. */
export const writeEntry = (page: number, index: number, frame: number, bits: U64 = RIGHTS): GuestInstruction =>
  access("write", page * PAGE_SIZE + 8 * index, guestEntry(frame, bits));

/** Page 8 becomes another frame. */
export const mapData = (frame: number): GuestInstruction => writeTable(DATA_PAGE, guestEntry(frame));
/** The last-level table becomes another, in which page 8 is the new frame. */
export const replaceTable: GuestInstruction = access("write", DIRECTORY_PAGE * PAGE_SIZE, guestEntry(OTHER_TABLE));
/** The same as {@link mapData} and {@link replaceTable}, by a vCPU without paging. */
export const mapDataDirectly: GuestInstruction = access("write", TABLE * PAGE_SIZE + 8 * DATA_PAGE, guestEntry(NEW));
export const replaceTableDirectly: GuestInstruction = access("write", DIRECTORY * PAGE_SIZE, guestEntry(OTHER_TABLE));
/** It writes an entry that is of no use, of a table in that frame. */
export const editDirectly = (frame: number): GuestInstruction => access("write", frame * PAGE_SIZE + 8, u64(0, 0));
/** It adds to the first entry of the table that page `page` is, by a locked instruction. */
export const addToEntry = (page: number, value: number): GuestInstruction =>
  instruction({ kind: "access", access: "rmw", gva: (page * PAGE_SIZE) as Gva, size: 8, value: u64(0, value) });
/** It runs an instruction that lies in page `n`. */
export const executePage = (n: number): GuestInstruction => ({
  rip: (n * PAGE_SIZE) as Gva,
  cpl: 0,
  action: { kind: "nothing" },
});
/** Pages 0, 8 and 16 are mapped; the tables on the way are shadowed. */
export const touchAll: readonly GuestInstruction[] = [TABLE_PAGE, DATA_PAGE, DIRECTORY_PAGE].map(readPage);

/** MOV to CR3 of the address space in use: a flush. */
export const loadCr3: GuestInstruction = instruction({ kind: "mov-to-cr", register: 3, value: REGISTERS.cr3 });
export const invlpg = (page: number): GuestInstruction =>
  instruction({ kind: "invlpg", gva: (page * PAGE_SIZE) as Gva });

// --- the scene -------------------------------------------------------------------------------------------------------

function makeScene(world: World, options: ShadowSceneOptions): ShadowScene {
  const { guests, variants, flags = 0, unmapped = [], prepare = null, entries = [], slots = [] } = options;
  const pages = slots.reduce((sum, { npages }) => sum + npages, FRAMES);
  const mm = new Mm(world, new PageFrames(world, { dirty: options.keepsDirty ?? false }), BASE, pages);
  const frames: Pfn[] = [];
  for (let n = 0; n < pages; n++) {
    if (options.pfnMapped?.includes(n) === true) {
      frames.push(mapDriverPage(mm, n));
      continue;
    }
    mm.addVma(shadowHostPage(n), shadowHostPage(n + 1), PROT_READ | PROT_WRITE);
    frames.push(mm.populate(shadowHostPage(n), `page ${n}`));
    if (!unmapped.includes(n)) mm.frames.pin(frames[n] as Pfn);
  }
  const wordOf = (frame: number, index: number): Cell<U64> =>
    new Cell<U64>(world, (frames[frame] as Pfn) * PAGE_SIZE + 8 * index, 8, true);
  for (const [table, index, frame] of ENTRIES) wordOf(table, index).value = guestEntry(frame);
  for (const [table, index, frame, bits] of entries)
    wordOf(table, index).value = guestEntry(frame, bits === undefined ? RIGHTS : u64(0, bits));
  for (const frame of [OLD, NEW]) wordOf(frame, 0).value = u64(0, frame);
  const limits = { faultsMax: 2, tableEntriesEnd: ENTRIES_USED };
  const kvm = new Kvm(world, new Kernel(world), mm, { ...LINUX_7_2, ...limits, ...variants });
  kvm.params.npt = false;
  kvm.dirtyRingSize = options.dirtyRingSize ?? 0;
  const vm = new Vm(kvm, new Interrupts(world, world.tasksMax));
  const slot = kvm.memslots.addDuringSetup({ id: 0, baseGfn: gfn(0), npages: FRAMES, userspaceAddr: BASE, flags });
  kvmPrepareDirtyBitmap(vm, { old: null, new: slot, change: "create" });
  let behind = FRAMES;
  for (const [i, { baseGfn, npages, flags: logging = 0 }] of slots.entries()) {
    const userspaceAddr = shadowHostPage(behind);
    const region = { id: i + 1, baseGfn: gfn(baseGfn), npages, userspaceAddr, flags: logging };
    const made = kvm.memslots.addDuringSetup(region);
    kvmPrepareDirtyBitmap(vm, { old: null, new: made, change: "create" });
    behind += npages;
  }
  for (const i of guests.keys()) vm.addVcpu(i);
  for (const [i, plan] of guests.entries()) {
    const { warm } = plan;
    runSequentially(world, i, `vcpu${i}`, () =>
      runGuest(vm, i, { ...plan, runs: [warm], inGuest: null, handles: null }, null),
    );
  }
  const scene = { world, mm, vm, shadow: vm.shadow as ShadowMmu };
  if (prepare !== null) runSequentially(world, guests.length, "set-up", () => prepare({ ...scene, tlbs: [] }));
  // Once more, for those whose TLBs count: what the others have done may have had them flushed.
  const tlbs = guests.map(({ warm, keepsTlb, inGuest = null }, i) => {
    const vcpu = vm.vcpus[i] as Vcpu;
    if (keepsTlb === true) runSequentially(world, i, `vcpu${i}`, () => kvmArchVcpuIoctlRun(vcpu, warm));
    if (inGuest !== null) runSequentially(world, i, `vcpu${i}`, () => enterGuest(vcpu));
    return vcpu.guest.tlb;
  });
  return { ...scene, tlbs };
}

/** A page of a driver's, in a VMA of its own. */
function mapDriverPage(mm: Mm, n: number): Pfn {
  const frame = mm.frames.allocate(`page ${n}`);
  const prot = PROT_READ | PROT_WRITE;
  mm.addVma(shadowHostPage(n), shadowHostPage(n + 1), prot, { flags: VM_PFNMAP, pgoff: frame });
  insertPfn(mm, shadowHostPage(n), frame, true);
  return frame;
}

/** What a vCPU's last read of each run has found. */
export type Reads = readonly number[];

/** Runs a vCPU whose TLB has nothing but `cached`. */
function* runGuest(vm: Vm, vcpu: number, plan: GuestPlan, cached: Tlb | null): Steps<Reads> {
  const { direct, registers, runs = [], inGuest = null, handles = null } = plan;
  const thread = vm.vcpus[vcpu] as Vm["vcpus"][number];
  const mode = registers === undefined ? PAGING : pagingModeOf({ ...REGISTERS, ...registers });
  thread.reset(direct === true ? NO_PAGING : mode);
  if (cached !== null) thread.guest.tlb.fillFrom(cached);
  const reads: number[] = [];
  for (const instructions of runs) {
    yield* kvmArchVcpuIoctlRun(thread, instructions);
    reads.push(thread.guest.lastRead.lo >>> 0);
  }
  if (inGuest !== null) yield* leaveGuest(thread, inGuest);
  if (handles === null) return reads;
  // Out of the guest, its thread is in KVM_RUN.
  yield* srcuReadLock(vm.kvm.srcu);
  yield* handles(thread);
  yield* srcuReadUnlock(vm.kvm.srcu);
  return reads;
}

/** Set-up: the vCPU has entered the guest. */
function* enterGuest(vcpu: Vcpu): Steps<void> {
  yield* maskInterrupts(vcpu.vm.interrupts, vcpu.cpu);
  yield* store(vcpu.mode, IN_GUEST_MODE);
}

/** The rest of its stay there. */
function* leaveGuest(vcpu: Vcpu, instructions: readonly GuestInstruction[]): Steps<void> {
  setHardwareRoot(vcpu);
  vcpu.guest.loadInstructions(instructions);
  yield* vmrun(vcpu.guest);
  yield* store(vcpu.mode, OUTSIDE_GUEST_MODE);
  yield* unmaskInterrupts(vcpu.vm.interrupts, vcpu.cpu);
}

/** The scene's program; at the end the tables and the reverse maps must be in order. */
function shadowScene(name: string, options: ShadowSceneOptions): Program {
  const tasks: Record<string, TaskOf> = {};
  // A vCPU with nothing to do is outside the guest, and no task. It stands behind the others: a task's number is its CPU's.
  const running = [...options.guests.entries()].filter(([, plan]) => plan.runs ?? plan.inGuest ?? plan.handles);
  for (const [i, plan] of running) {
    tasks[`vcpu${i}`] = ({ world, vm, tlbs }) =>
      kthread(world, runGuest(vm, i, plan, plan.keepsTlb === true ? (tlbs[i] as Tlb) : null));
  }
  for (const [thread, body] of Object.entries(options.threads ?? {}))
    tasks[thread] = (scene) => kthread(scene.world, body(scene));
  const served = Object.keys(tasks).length;
  for (const [i] of running) {
    tasks[`irq${i}`] = ({ world, vm }) => interruptHandler(vm.interrupts, i, world.tasks[i] as Task);
  }
  return program<ShadowScene>({
    name,
    setup: (world) => makeScene(world, options),
    tasks,
    daemons: Object.keys(tasks).slice(served),
    final: (scene, results) => {
      const { shadow } = scene;
      const inStep = options.changesUnseen === true ? null : inStepProblem(shadow);
      const problem = shadowTablesProblem(shadow) ?? rmapsProblem(shadow) ?? inStep;
      return problem ?? options.check?.(scene, results) ?? true;
    },
  });
}

/** A write to a page has faulted in an entry that is there; its handler runs. */
export const writeFault =
  (page: number) =>
  (vcpu: Vcpu): Steps<unknown> =>
    kvmMmuPageFault(vcpu, page * PAGE_SIZE, PFERR_PRESENT | PFERR_WRITE);

/** The programs of a study: its scenes by name, under variants of the kernel. */
export const shadowScenes =
  (scenes: Readonly<Record<string, ShadowSceneOptions>>, variants: Partial<KvmVariants> = {}) =>
  (name: string): Program =>
    shadowScene(name, { ...(scenes[name] as ShadowSceneOptions), variants });

/** As the deletion of a memslot does it: all roots and what is below them go. */
export function* zapAllFast({ vm }: ShadowScene): Steps<void> {
  const { slotsLock } = vm.kvm.memslots;
  yield* mutexLock(slotsLock);
  yield* kvmMmuZapAllFast(vm);
  yield* mutexUnlock(slotsLock);
}

/** The VMM, or a device, changes an entry of a table of the guest's: KVM is not told. */
export function* changeEntry({ mm }: ShadowScene, [table, index, frame, bits]: ExtraEntry): Steps<void> {
  const entry = guestEntry(frame, bits === undefined ? RIGHTS : u64(0, bits));
  yield* putUser(mm, hva(shadowHostPage(table) + 8 * index), entry, 8);
}

/** The VMM takes a memslot away. */
export function* deleteSlot({ vm }: ShadowScene, id = 0): Steps<number> {
  return yield* kvmSetMemoryRegion(vm.kvm, { id, baseGfn: gfn(0), npages: 0, userspaceAddr: BASE, flags: 0 });
}

/** A read of a page has found nothing there. */
export const readFault =
  (page: number) =>
  (vcpu: Vcpu): Steps<unknown> =>
    kvmMmuPageFault(vcpu, page * PAGE_SIZE, 0);

/** The write has faulted in a frame whose writes are tracked: KVM carries it out. */
export const emulates =
  (write: GuestInstruction) =>
  (vcpu: Vcpu): Steps<unknown> => {
    vcpu.guest.loadInstructions([write]);
    return x86EmulateInstruction(vcpu, null);
  };

/** The vCPU's last read must have found the frame that it has mapped before it flushed. */
export function sees(vcpu: number, frame: number): (scene: ShadowScene, results: Results) => string | null {
  return (_scene, results) => {
    const value = (results[`vcpu${vcpu}`] as Reads).at(-1);
    if (value === frame) return null;
    return `vcpu${vcpu} reads frame ${value} in page ${DATA_PAGE}, which the guest had made frame ${frame} before it flushed`;
  };
}
