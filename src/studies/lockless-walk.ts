/**
 * lockless-walk: may a thread that is no vCPU walk shadow pages while they are zapped?
 *
 * Write protection for dirty logging runs in an ioctl. The proposal of 2013 wants it without mmu_lock: the ioctl reads a frame's reverse map, and takes
 * W away from the entry that it finds there. Meanwhile another thread, with mmu_lock, zaps the page that the entry is in.
 *
 *     ioctl                                      zap, with mmu_lock for write
 *     r1  flag = true                            z1  unlink the page: rmap_remove()
 *     r2  [full barrier]                         z2  kvm_flush_remote_tlbs(): full barrier
 *     r3  rcu_read_lock()                        z3  read the flag
 *     r4  read the rmap head: an entry           z4a set: call_rcu()
 *     r5  read the entry, take W away            z4b not set: free the page
 *     r6  rcu_read_unlock(); flag = false
 *
 * I1, lifetime: at r5 the page is still there. I2, bounds: how many unlinked pages wait does not depend on how long r3 to r6 takes.
 *
 * Source: LKML, M. Tosatti to X. Guangrong, 2013-10-07, on "KVM: MMU: allow locklessly access shadow pagetable out of vcpu thread".
 */
import {
  clearU64,
  compareExchange,
  fence,
  load,
  type MemoryModel,
  type Program,
  program,
  type Steps,
  store,
  type Task,
} from "../engine/index.ts";
import { current, kthread, rcuReadLock, rcuReadUnlock, rcuThread, writeLock, writeUnlock } from "../kernel/index.ts";
import { assertBacklog, assertMemory } from "../kvm/shadow/free-designs.ts";
import { rmapLock, rmapUnlock, spteAt } from "../kvm/shadow/rmap.ts";
import { rmapWriteProtect } from "../kvm/shadow/spte-change.ts";
import { isShadowPresentPte, isWritablePte } from "../kvm/spte.ts";
import type { KvmVariants } from "../kvm/variants.ts";
import { interruptHandler, maskInterrupts, PT_WRITABLE_MASK, unmaskInterrupts } from "../machine/index.ts";
import { makeShadowScene, rmapOf, type ShadowScene, zapPagesOf } from "./shadow-scene.ts";
import { cell, type Expected, type StudyCell, study } from "./study.ts";

/** That of the ioctl's thread, and that of the thread that zaps. */
const CPUS = 2;

// --- the walker ------------------------------------------------------------------------------------------------------

/** r4, r5: takes W away from the entry that maps the frame. */
function* writeProtectLockless(scene: ShadowScene, frame: number): Steps<void> {
  const sptep = yield* load(rmapOf(scene, frame));
  if (sptep === 0) return;
  const entry = spteAt(scene.world, sptep);
  const spte = yield* load(entry);
  if (isShadowPresentPte(spte) && isWritablePte(spte)) {
    yield* compareExchange(entry, spte, clearU64(spte, PT_WRITABLE_MASK));
  }
}

/** @param looked is called after each frame: what else a walk does with it (measurements) */
type Walker = (scene: ShadowScene, frames: readonly number[], looked?: () => void) => Steps<void>;

const nothing = (): void => undefined;

function* walkAll(scene: ShadowScene, frames: readonly number[], looked: () => void): Steps<void> {
  for (const frame of frames) {
    yield* writeProtectLockless(scene, frame);
    looked();
  }
}

type WalkerName =
  | "locked"
  | "bare"
  | "rcu"
  | "rcuThenLocked"
  | "yieldingRcu"
  | "flagged"
  | "flaggedWithoutBarrier"
  | "flaggedClearedPlainly"
  | "irqsOff"
  | "bitLock";

/** The ways to walk, by name. */
export const WALKERS: Readonly<Record<WalkerName, Walker>> = {
  *locked(scene, frames, looked = nothing) {
    yield* writeLock(scene.vm.kvm.mmuLock);
    for (const frame of frames) {
      yield* rmapWriteProtect(scene.shadow, rmapOf(scene, frame), false);
      looked();
    }
    yield* writeUnlock(scene.vm.kvm.mmuLock);
  },
  *bare(scene, frames, looked = nothing) {
    yield* walkAll(scene, frames, looked);
  },
  *rcu(scene, frames, looked = nothing) {
    const { rcu } = scene.vm.kvm.kernel;
    yield* rcuReadLock(rcu);
    yield* walkAll(scene, frames, looked);
    yield* rcuReadUnlock(rcu);
  },
  *rcuThenLocked(scene, frames, looked = nothing) {
    const { rcu } = scene.vm.kvm.kernel;
    yield* rcuReadLock(rcu);
    yield* WALKERS.locked(scene, frames, looked);
    yield* rcuReadUnlock(rcu);
  },
  *yieldingRcu(scene, frames, looked = nothing) {
    for (const frame of frames) yield* WALKERS.rcu(scene, [frame], looked);
  },
  *flagged(scene, frames, looked = nothing) {
    yield* store(scene.shadow.rcuFreeShadowPage, 1);
    yield* fence(scene.world);
    yield* WALKERS.rcu(scene, frames, looked);
    yield* fence(scene.world);
    yield* store(scene.shadow.rcuFreeShadowPage, 0);
  },
  *flaggedWithoutBarrier(scene, frames, looked = nothing) {
    yield* store(scene.shadow.rcuFreeShadowPage, 1);
    yield* WALKERS.rcu(scene, frames, looked);
    yield* store(scene.shadow.rcuFreeShadowPage, 0);
  },
  *flaggedClearedPlainly(scene, frames, looked = nothing) {
    yield* store(scene.shadow.rcuFreeShadowPage, 1);
    yield* fence(scene.world);
    yield* WALKERS.rcu(scene, frames, looked);
    yield* store(scene.shadow.rcuFreeShadowPage, 0);
  },
  *irqsOff(scene, frames, looked = nothing) {
    const { interrupts } = scene.vm;
    const { cpu } = current(scene.world);
    yield* maskInterrupts(interrupts, cpu);
    yield* walkAll(scene, frames, looked);
    yield* unmaskInterrupts(interrupts, cpu);
  },
  *bitLock(scene, frames, looked = nothing) {
    for (const frame of frames) {
      const head = rmapOf(scene, frame);
      const value = yield* rmapLock(head, { locked: true });
      if (value !== 0) {
        const entry = spteAt(scene.world, value);
        const spte = yield* load(entry);
        if (isShadowPresentPte(spte)) yield* compareExchange(entry, spte, clearU64(spte, PT_WRITABLE_MASK));
      }
      looked();
      yield* rmapUnlock(head, { locked: true }, value, false);
    }
  },
};

// --- the zapper ------------------------------------------------------------------------------------------------------

type Scenario = "lifetime" | "backlog" | "memory";

function zap(scene: ShadowScene, frames: readonly number[], scenario: Scenario): Steps<void> {
  return zapPagesOf(scene, frames, function* () {
    if (scenario === "backlog") yield* assertBacklog(scene.shadow, BACKLOG);
    if (scenario === "memory") yield* assertMemory(scene.shadow, BACKLOG);
  });
}

// --- designs ---------------------------------------------------------------------------------------------------------

interface Design {
  readonly what: string;
  readonly walker: WalkerName;
  readonly variants: Partial<KvmVariants>;
}

/** The designs of the thread, by name. */
export const DESIGNS: Readonly<Record<string, Design>> = {
  V0: { what: "the walker holds mmu_lock (Linux)", walker: "locked", variants: {} },
  V1: { what: "no lock, pages freed at once", walker: "bare", variants: {} },
  V2: {
    what: "the proposal without a barrier after the flag is set",
    walker: "flaggedWithoutBarrier",
    variants: { shadowFree: "flagged" },
  },
  V3: { what: "the proposal: flag, barriers, call_rcu()", walker: "flagged", variants: { shadowFree: "flagged" } },
  "V3'": {
    what: "the flag is cleared without a barrier",
    walker: "flaggedClearedPlainly",
    variants: { shadowFree: "flagged" },
  },
  V4a: { what: "the walker has interrupts off, the flush interrupts vCPUs only", walker: "irqsOff", variants: {} },
  V4b: { what: "the same, and every CPU is interrupted", walker: "irqsOff", variants: { shadowFree: "ipi-all" } },
  V5a: {
    what: "call_rcu() up to a cap, beyond it synchronize_rcu()",
    walker: "rcu",
    variants: { shadowFree: "capped-sync", shadowFreeCap: 1 },
  },
  "V5a-spin": {
    what: "the same, spinning for a grace period instead of sleeping",
    walker: "rcu",
    variants: { shadowFree: "capped-spin", shadowFreeCap: 1 },
  },
  "V5a-spin-lock": {
    what: "the same, and the walker takes mmu_lock in its section",
    walker: "rcuThenLocked",
    variants: { shadowFree: "capped-spin", shadowFreeCap: 1 },
  },
  V5b: {
    what: "call_rcu() up to a cap, beyond it parked on a list",
    walker: "rcu",
    variants: { shadowFree: "capped-parked", shadowFreeCap: 1 },
  },
  V6: { what: "always call_rcu(), as the TDP MMU does", walker: "rcu", variants: { shadowFree: "rcu" } },
  "V6-yielding": {
    what: "the same, with a walker that leaves its section between frames",
    walker: "yieldingRcu",
    variants: { shadowFree: "rcu" },
  },
  V7: { what: "a lock bit in each reverse map (6.15, for aging)", walker: "bitLock", variants: {} },
};

/** Pages that may wait at once in the scenarios "backlog" and "memory": one, of two that are zapped. */
const BACKLOG = 1;

function walkProgram(design: string, scenario: Scenario): Program {
  const frames = scenario === "lifetime" ? [0] : [0, 512];
  const { walker, variants } = DESIGNS[design] as Design;
  const tasks: Record<string, (scene: ShadowScene) => Steps<unknown>> = {
    ioctl: (scene) => kthread(scene.world, WALKERS[walker](scene, frames)),
    zap: (scene) => kthread(scene.world, zap(scene, frames, scenario)),
    irq0: ({ vm, world }) => interruptHandler(vm.interrupts, 0, world.tasks[0] as Task),
    rcu: ({ vm }) => rcuThread(vm.kvm.kernel.rcu),
  };
  return program<ShadowScene>({
    name: `lockless-walk ${design} ${scenario}`,
    // The vCPU's thread is the one that zaps.
    setup: (world) => makeShadowScene(world, { variants, frames, mapped: frames, vcpu: 1, cpus: CPUS }),
    tasks,
    daemons: Object.keys(tasks).slice(2),
  });
}

interface Row {
  readonly scenario: Scenario;
  readonly property: string;
  readonly expected: Expected;
  readonly because: string;
  readonly models?: readonly MemoryModel[];
}

function cells(design: string, rows: readonly Row[]): StudyCell[] {
  return rows.flatMap(({ scenario, property, expected, because, models = ["sc"] }) =>
    models.map((model) =>
      cell({
        variant: design,
        scenario,
        property,
        model,
        expected,
        because,
        program: () => walkProgram(design, scenario),
      }),
    ),
  );
}

const lifetime = (expected: Expected, because: string, models: readonly MemoryModel[] = ["sc", "tso"]): Row => ({
  scenario: "lifetime",
  property: "use-after-free",
  expected,
  because,
  models,
});
const bounds = (expected: Expected, because: string, property = "bounds"): Row => ({
  scenario: "backlog",
  property,
  expected,
  because,
});

const memory = (expected: Expected, because: string): Row => ({
  scenario: "memory",
  property: "memory",
  expected,
  because,
});

export default study({
  id: "lockless-walk",
  title: "May a thread that is no vCPU walk shadow pages while they are zapped?",
  source:
    "LKML, 2013-10-07: Re: [PATCH v2 12/15] KVM: MMU: allow locklessly access shadow pagetable out of vcpu thread",
  variants: Object.fromEntries(Object.entries(DESIGNS).map(([name, { what }]) => [name, what])),
  cells: [
    ...cells("V0", [
      lifetime("holds", "the zap waits for the walk"),
      bounds("holds", "pages are freed at once"),
      memory("holds", "pages are freed at once"),
    ]),
    ...cells("V1", [lifetime("fails", "the page is freed between the read of its address and of its entry")]),
    ...cells("V2", [
      lifetime("holds", "stores are seen in order", ["sc"]),
      lifetime("fails", "the flag waits in the store buffer while the reverse map is read", ["tso"]),
    ]),
    ...cells("V3", [
      lifetime("holds", "either the zap sees the flag, or the walk sees the page unlinked"),
      bounds("fails", "whoever zaps never waits for the walk, whose section holds up every callback"),
      memory("fails", "the same pages"),
    ]),
    ...cells("V3'", [
      lifetime(
        "holds",
        "the thread's notes expect a failure; x86 does not reorder the walk's loads after a later store, so nothing is missing",
      ),
    ]),
    ...cells("V4a", [lifetime("fails", "the ioctl's thread is no vCPU, so nobody waits for its CPU")]),
    ...cells("V4b", [
      lifetime("holds", "the interrupt is taken when the walk is over"),
      bounds("holds", "pages are freed at once"),
      memory("holds", "who zaps waits for the walk, and so for what it holds up"),
    ]),
    ...cells("V5a", [bounds("fails", "mmu_lock is held", "sleeping-in-atomic")]),
    ...cells("V5a-spin", [
      lifetime("holds", "the grace period waits for the walk"),
      memory("holds", "who zaps waits, with mmu_lock held, for as long as the walk takes"),
    ]),
    ...cells("V5a-spin-lock", [
      {
        scenario: "backlog",
        property: "deadlock",
        expected: "fails",
        because: "the grace period waits for the walk, the walk for mmu_lock, and who has it for the grace period",
      },
    ]),
    ...cells("V5b", [
      lifetime("holds", "a parked page's grace period begins when it leaves the list"),
      bounds("holds", "what is parked is not with RCU"),
      memory("fails", "what is parked is not free either: the cap does not make who zaps wait"),
    ]),
    ...cells("V6", [
      lifetime("holds", "the grace period waits for the walk"),
      bounds("fails", "a section over a whole slot holds up every callback"),
      memory("fails", "the same pages"),
    ]),
    ...cells("V6-yielding", [
      lifetime("holds", "each entry is read in the section in which it was found"),
      bounds("fails", "even so the zap may run through before the grace period of its first page ends"),
    ]),
    ...cells("V7", [
      lifetime("holds", "the zap cannot take the entry out of the reverse map while its lock bit is held"),
      bounds("holds", "pages are freed at once"),
      memory("holds", "pages are freed at once"),
    ]),
  ],
});
