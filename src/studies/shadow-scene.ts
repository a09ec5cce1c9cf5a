/**
 * A small VM without the TDP MMU, for scenarios on the shadow MMU's reverse maps: one memslot over two tables' worth of frames, mapped by direct shadow
 * pages.
 *
 *     frames 0 ... 511      one shadow page of level 1
 *     frame  512            another
 *
 * Guest frame n is memslot 0's frame n, and page n of the VMM at {@link shadowHostPage}. The scenarios' actors hold what their kernel functions hold.
 */
import { type Cell, load, runSequentially, type Steps, type U64, type World } from "../engine/index.ts";
import { Kernel, Mm, PageFrames, PROT_READ, PROT_WRITE, writeLock, writeUnlock } from "../kernel/index.ts";
import { kvmPrepareDirtyBitmap } from "../kvm/dirty-log.ts";
import { Kvm } from "../kvm/kvm.ts";
import type { KvmMemorySlot } from "../kvm/memslots.ts";
import { kvmFlushRemoteTlbs } from "../kvm/requests.ts";
import { getShadowPage } from "../kvm/shadow/get-page.ts";
import { spteOf } from "../kvm/shadow/page.ts";
import { spteAt } from "../kvm/shadow/rmap.ts";
import type { ShadowMmu } from "../kvm/shadow/shadow-mmu.ts";
import { gfnToRmap } from "../kvm/shadow/slot-arch.ts";
import { mmuSpteSet, rmapAdd } from "../kvm/shadow/spte-change.ts";
import { commitZapPage, type InvalidList, prepareZapPage } from "../kvm/shadow/zap.ts";
import { type KvmVariants, LINUX_7_2 } from "../kvm/variants.ts";
import { kvmArchVcpuIoctlRun } from "../kvm/vcpu.ts";
import { Vm } from "../kvm/vm.ts";
import { type Gfn, gfn, type Hva, hva, Interrupts, PAGE_SIZE, touch } from "../machine/index.ts";

const BASE = hva(0x10000000);
/** Frame 0, and one in another 2M, so that each has a page of its own. */
const FRAMES = 513;

/** Where the VMM's process has guest frame `n`. */
export const shadowHostPage = (n: number): Hva => hva(BASE + n * PAGE_SIZE);

export interface ShadowScene {
  readonly world: World;
  readonly mm: Mm;
  readonly vm: Vm;
  readonly shadow: ShadowMmu;
}

export interface ShadowSceneOptions {
  readonly variants?: Partial<KvmVariants>;
  /** Frames that the host has. */
  readonly frames: readonly number[];
  /** Those of them that the vCPU writes during set-up; each gets an entry. */
  readonly mapped: readonly number[];
  /** The vCPU, by the lane of its thread; the CPUs of the VM. */
  readonly vcpu: number;
  readonly cpus: number;
  /** KVM_MEM_* of the memslot. */
  readonly flags?: number;
}

export function makeShadowScene(world: World, options: ShadowSceneOptions): ShadowScene {
  const { variants, frames, mapped, cpus, flags = 0 } = options;
  const mm = new Mm(world, new PageFrames(world), BASE, FRAMES);
  for (const n of frames) {
    mm.addVma(shadowHostPage(n), shadowHostPage(n + 1), PROT_READ | PROT_WRITE);
    mm.populate(shadowHostPage(n), `page ${n}`);
  }
  const kvm = new Kvm(world, new Kernel(world), mm, { ...LINUX_7_2, ...variants });
  Object.assign(kvm.params, { tdpMmu: false });
  const vm = new Vm(kvm, new Interrupts(world, cpus));
  const slot = kvm.memslots.addDuringSetup({ id: 0, baseGfn: gfn(0), npages: FRAMES, userspaceAddr: BASE, flags });
  kvmPrepareDirtyBitmap(vm, { old: null, new: slot, change: "create" });
  const vcpu = vm.addVcpu(options.vcpu);
  const touches = mapped.map((frame) => touch(frame, "write"));
  runSequentially(world, options.vcpu, "vcpu0", () => {
    vcpu.reset();
    return kvmArchVcpuIoctlRun(vcpu, touches);
  });
  return { world, mm, vm, shadow: vm.shadow as ShadowMmu };
}

export function shadowSlot({ vm }: ShadowScene): KvmMemorySlot {
  const { memslots } = vm.kvm;
  return memslots.slotsOf(memslots.setAt(memslots.active.value))[0] as KvmMemorySlot;
}

/** The reverse map of a frame's 4K mappings. */
export function rmapOf(scene: ShadowScene, frame: number): Cell {
  return gfnToRmap(scene.world, shadowSlot(scene), frame as Gfn, 1);
}

/** The only entry that maps the frame; null without one. With mmu_lock held, or during set-up. */
export function* onlyEntry(scene: ShadowScene, frame: number): Steps<Cell<U64> | null> {
  const head = yield* load(rmapOf(scene, frame));
  // A walker may have the lock bit.
  const sptep = head - (head % 8);
  return sptep === 0 ? null : spteAt(scene.world, sptep);
}

/** What flooding, recycling or a root's end do: the pages that map the frames go, each in a batch of its own. */
export function* zapPagesOf(
  scene: ShadowScene,
  frames: readonly number[],
  afterEach: () => Steps<void> = function* () {},
): Steps<void> {
  const { vm, shadow } = scene;
  yield* writeLock(vm.kvm.mmuLock);
  for (const frame of frames) {
    const entry = yield* onlyEntry(scene, frame);
    if (entry === null) continue;
    const list: InvalidList = [];
    yield* prepareZapPage(shadow, shadow.pages.ofEntry(entry.addr), list);
    yield* commitZapPage(shadow, list);
    yield* afterEach();
  }
  yield* writeUnlock(vm.kvm.mmuLock);
}

/** kvm_unmap_gfn_range(), as a notifier has it called: every entry of the frame goes, the pages that they are in stay. */
export function* unmapFrame({ vm }: ShadowScene, frame: number): Steps<void> {
  yield* writeLock(vm.kvm.mmuLock);
  if (yield* vm.ops.unmapGfnRange({ start: gfn(frame), end: gfn(frame + 1) })) yield* kvmFlushRemoteTlbs(vm);
  yield* writeUnlock(vm.kvm.mmuLock);
}

/**
 * Maps a mapped frame once more, in a page of its own, as a second kind of root would have it (in system-management mode, for one).
 * The role is that of the first page, for reading only, so that it is another page.
 */
export function* mapAgain(scene: ShadowScene, frame: number): Steps<void> {
  const { vm, shadow, world } = scene;
  yield* writeLock(vm.kvm.mmuLock);
  const entry = yield* onlyEntry(scene, frame);
  if (entry !== null) {
    const first = shadow.pages.ofEntry(entry.addr);
    const role = first.role.value - (shadow.bits.write << ROLE_ACCESS_SHIFT);
    const page = yield* getShadowPage(null, shadow, first.gfn.value as Gfn, role);
    const sptep = spteOf(page, frame % 512);
    yield* mmuSpteSet(world, sptep, yield* load(entry));
    yield* rmapAdd(shadow, shadowSlot(scene), sptep, gfn(frame), shadow.bits.all);
  }
  yield* writeUnlock(vm.kvm.mmuLock);
}

const ROLE_ACCESS_SHIFT = 8;
