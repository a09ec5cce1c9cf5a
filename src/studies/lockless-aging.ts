/**
 * lockless-aging: may the host ask which pages were used, through the shadow MMU's reverse maps, without mmu_lock?
 *
 * Whoever asks (`ager`) goes from a frame's reverse map to the entries that map it, and makes them unused. Meanwhile, with mmu_lock held for write,
 * entries are changed, zapped and added, and pages are freed; and without it, a vCPU's fast page fault gives rights back.
 *
 *     ager                                              with mmu_lock for write
 *     a1  lock the head: its bit 1                      m1  clear or change an entry
 *     a2  read the head, its descriptors                m2  lock the head, change the map, unlock the head
 *     a3  read an entry                                 m3  free the page
 *     a4  clear A; or, without A/D bits, put the
 *         rights away (one compare-exchange)            a vCPU, with nothing: put them back
 *     a5  unlock the head
 *
 * C1  at a3 and a4 the page is there       C2  at the end, reverse maps and tables agree (oracle/rmap.ts)
 * C3  with A/D bits aging changes A only   C4  without, an entry ends as some order of the changes makes it
 * C5  a fast page fault waits for nothing that aging holds
 * C6  an access after the question is not lost, and without one the next answer is "not used"
 *
 * Source: LKML, J. Houghton, 2024-09-03, to S. Christopherson, "[PATCH 21/22] KVM: x86/mmu: Add support for lockless walks of rmap SPTEs"; the answer
 * of 2024-09-04; and the review of "KVM: x86/mmu: Age sptes locklessly", v4 to v9.
 */
import {
  assertThat,
  type Cell,
  clearU64,
  join,
  load,
  type MemoryModel,
  orU64,
  type Program,
  program,
  type Results,
  revive,
  runSequentially,
  type Steps,
  sameU64,
  store,
  type Task,
  type U64,
  cell as variable,
} from "../engine/index.ts";
import { kthread, munmap, preemptDisable, preemptEnable, runOn, writeLock, writeUnlock } from "../kernel/index.ts";
import { kvmGetDirtyLog } from "../kvm/dirty-log.ts";
import { KVM_MEM_LOG_DIRTY_PAGES } from "../kvm/memslots.ts";
import { kvmFlushRemoteTlbs } from "../kvm/requests.ts";
import { rmapLock, rmapUnlock } from "../kvm/shadow/rmap.ts";
import { rmapWriteProtect } from "../kvm/shadow/spte-change.ts";
import { isAccessedSpte, isMmuWritableSpte, isShadowPresentPte, isWritablePte } from "../kvm/spte.ts";
import type { KvmVariants } from "../kvm/variants.ts";
import { kvmArchVcpuIoctlRun } from "../kvm/vcpu.ts";
import type { Vm } from "../kvm/vm.ts";
import { type GuestInstruction, interruptHandler, PT_WRITABLE_MASK, touch } from "../machine/index.ts";
import { ageProblem } from "../oracle/age.ts";
import { rmapsProblem } from "../oracle/rmap.ts";
import {
  makeShadowScene,
  mapAgain,
  onlyEntry,
  rmapOf,
  type ShadowScene,
  shadowHostPage,
  shadowSlot,
  unmapFrame,
  zapPagesOf,
} from "./shadow-scene.ts";
import { cell, type Expected, type StudyCell, study } from "./study.ts";

interface Scene extends ShadowScene {
  /** Where the ager and another thread share one (kernel/preempt.ts). */
  readonly sharedCpu: Cell;
  /** The entry of frame 0, and its value when the scenario begins; null where the frame is not mapped. */
  readonly entry: Cell<U64> | null;
  readonly before: U64 | null;
}

// --- actors ----------------------------------------------------------------------------------------------------------

/** Asks for the age of a frame as the host's mm does; true when it was used. */
function* ask({ mm }: ShadowScene, frame: number): Steps<boolean> {
  let young = false;
  for (const ops of mm.notifiers) {
    if (yield* ops.clearYoung(shadowHostPage(frame), shadowHostPage(frame + 1))) young = true;
  }
  return young;
}

function* runGuest({ vm }: ShadowScene, instructions: readonly GuestInstruction[]): Steps<string> {
  const vcpu = vm.vcpus[0] as Vm["vcpus"][number];
  vcpu.reset();
  return yield* kvmArchVcpuIoctlRun(vcpu, instructions);
}

/** A frame gets a shadow page of its own: nobody may write it from here on without KVM's knowledge. */
function* protectForShadowing(scene: ShadowScene): Steps<void> {
  const { vm, shadow } = scene;
  yield* writeLock(vm.kvm.mmuLock);
  if (yield* rmapWriteProtect(shadow, rmapOf(scene, 0), true)) yield* kvmFlushRemoteTlbs(vm);
  yield* writeUnlock(vm.kvm.mmuLock);
}

/** Dirty logging write-protects the frame. */
function* protectForLogging(scene: ShadowScene): Steps<void> {
  const { vm, shadow } = scene;
  yield* writeLock(vm.kvm.mmuLock);
  yield* rmapWriteProtect(shadow, rmapOf(scene, 0), false);
  yield* writeUnlock(vm.kvm.mmuLock);
}

/** The page is freed, allocated by somebody who is not KVM, and gets the same value at the same place. */
function* zapAndReuse(scene: Scene): Steps<void> {
  const { world, shadow } = scene;
  const entry = (yield* onlyEntry(scene, 0)) as Cell<U64>;
  const theirs = yield* load(entry);
  const table = shadow.pages.ofEntry(entry.addr).spt.value;
  yield* zapPagesOf(scene, [0]);
  yield* revive(world, table);
  yield* store(entry, theirs, "the new owner's data");
  yield* join(world, world.tasks[0] as Task);
  const found = yield* load(entry);
  assertThat(sameU64(found, theirs), "aging has changed a page that KVM does not own any more", "foreign-memory");
}

// --- scenarios -------------------------------------------------------------------------------------------------------

type Actor = (scene: Scene) => Steps<unknown>;

interface Scenario {
  /** Frames that are mapped to begin with; frame 0 if nothing is said. */
  readonly mapped?: readonly number[];
  readonly flags?: number;
  /** Goes on with the set-up. */
  readonly prepare?: Actor;
  /** What the vCPU's guest does; it is task 1. */
  readonly guest?: readonly GuestInstruction[];
  /** In place of asking once for frame 0. */
  readonly ager?: Actor;
  readonly others: Readonly<Record<string, Actor>>;
  /** What must hold at the end besides C2: null when it does. */
  readonly check?: (scene: Scene, results: Results) => string | null;
}

/** C3: the guest has written, so the entry is what it was, and writable; aging has changed A only. Without A/D bits it may take W away again. */
function keepsWhatTheFaultGave({ shadow, entry, before }: Scene, results: Results): string | null {
  const { layout } = shadow;
  if (entry === null || before === null || results["vcpu0"] !== "done") return null;
  const spte = entry.peek();
  if (!layout.adEnabled) return isMmuWritableSpte(layout, spte) ? null : "the entry is not MMU-writable any more";
  const changing = orU64(PT_WRITABLE_MASK, orU64(layout.accessed, layout.dirty));
  const same = sameU64(clearU64(spte, changing), clearU64(before, changing));
  return same && isWritablePte(spte) ? null : "aging has changed more of the entry than A";
}

/** The frame was protected for shadowing, and so it must stay. */
function staysProtected({ shadow, entry }: Scene): string | null {
  const spte = entry?.peek();
  if (spte === undefined) return null;
  const canBeWritten = isWritablePte(spte) || isMmuWritableSpte(shadow.layout, spte);
  return canBeWritten ? "a frame that has a shadow page of its own is writable again" : null;
}

/** C4: the ager was told that the page was used, nobody has used it since, and the entry still says so. */
function agedForGood({ shadow, entry }: Scene, results: Results): string | null {
  const spte = entry?.peek();
  const isYoung = spte !== undefined && isShadowPresentPte(spte) && isAccessedSpte(shadow.layout, spte);
  return results["ager"] === true && isYoung ? "the page was aged, and is young again without any access" : null;
}

/** What the guest can write without a fault is in the log to come: nothing would log it. */
function writableButNotLogged(scene: Scene): string | null {
  const spte = scene.entry?.peek();
  if (spte === undefined || !isShadowPresentPte(spte) || !isWritablePte(spte)) return null;
  const bitmap = shadowSlot(scene).dirty_bitmap.peek();
  const logged = scene.world.heap.read(bitmap, 4) % 2 === 1;
  return logged ? null : "the page can be written, and the next log does not have it";
}

const write0 = touch(0, "write");
const read0 = touch(0, "read");

const SCENARIOS: Readonly<Record<string, Scenario>> = {
  zap: { others: { zap: (scene) => zapPagesOf(scene, [0]) } },
  many: {
    prepare: (scene) => mapAgain(scene, 0),
    others: { unmap: (scene) => unmapFrame(scene, 0) },
  },
  reuse: { others: { zap: zapAndReuse } },
  "one-cpu": {
    ager: (scene) => runOn(scene.world, scene.sharedCpu, ask(scene, 0)),
    others: { unmap: (scene) => runOn(scene.world, scene.sharedCpu, unmapFrame(scene, 0)) },
  },
  add: { others: { add: (scene) => mapAgain(scene, 0) } },
  empty: { others: { unmap: (scene) => unmapFrame(scene, 0) } },
  first: {
    mapped: [512],
    guest: [write0],
    others: {},
  },
  "fast-fault": {
    flags: KVM_MEM_LOG_DIRTY_PAGES,
    prepare: ({ vm }) => kvmGetDirtyLog(vm, 0),
    guest: [write0],
    others: {},
    check: keepsWhatTheFaultGave,
  },
  held: {
    guest: [read0],
    prepare: (scene) => ask(scene, 0),
    *ager(scene) {
      const head = rmapOf(scene, 0);
      preemptDisable(scene.world);
      const value = yield* rmapLock(head, { locked: true });
      yield* join(scene.world, scene.world.tasks[1] as Task);
      yield* rmapUnlock(head, { locked: true }, value, false);
      preemptEnable(scene.world);
    },
    others: {},
  },
  access: {
    guest: [read0],
    prepare: (scene) => ask(scene, 0),
    *ager(scene) {
      const cleared = yield* ask(scene, 0);
      yield* join(scene.world, scene.world.tasks[1] as Task);
      return { cleared, young: yield* ask(scene, 0) };
    },
    others: {},
    check: (_scene, results) =>
      ageProblem(results["vcpu0"] === "done", results["ager"] as Parameters<typeof ageProblem>[1]),
  },
  sticky: {
    *ager(scene) {
      yield* ask(scene, 0);
      return yield* ask(scene, 0);
    },
    others: { *idle() {} },
    check: (_scene, results) =>
      results["ager"] === true ? "the page is young, and nobody has used it since it was asked for" : null,
  },
  logging: {
    others: { protect: protectForLogging },
    check: agedForGood,
  },
  shadowing: {
    others: { protect: protectForShadowing },
    check: staysProtected,
  },
  log: {
    flags: KVM_MEM_LOG_DIRTY_PAGES,
    guest: [write0],
    others: { vmm: ({ vm }) => kvmGetDirtyLog(vm, 0) },
    check: (scene, results) => {
      const wrote = results["vcpu0"] === "done" && results["vmm"] !== undefined;
      return wrote ? writableButNotLogged(scene) : null;
    },
  },
  munmap: {
    guest: [read0],
    others: { munmap: ({ mm }) => munmap(mm, shadowHostPage(0), shadowHostPage(1)) },
  },
};

function makeScene(world: ShadowScene["world"], scenario: Scenario, variants: Partial<KvmVariants>): Scene {
  const { mapped = [0], flags, prepare } = scenario;
  const scene = makeShadowScene(world, {
    variants: { faultsMax: 1, ...variants },
    frames: [0, 512],
    mapped,
    vcpu: 1,
    cpus: CPUS,
    ...(flags === undefined ? {} : { flags }),
  });
  const sharedCpu = variable(world, "the CPU");
  const begun: Scene = { ...scene, sharedCpu, entry: null, before: null };
  if (prepare !== undefined) runSequentially(world, 1, "set-up", () => prepare(begun));
  const entry = runSequentially(world, 1, "set-up", () => onlyEntry(scene, 0));
  return { ...scene, sharedCpu, entry, before: entry?.peek() ?? null };
}

/** The ager's, the vCPU's, and that of whoever holds mmu_lock. */
const CPUS = 3;

function agingProgram(name: string, variants: Partial<KvmVariants>): Program {
  const scenario = SCENARIOS[name] as Scenario;
  const { guest, ager = (scene: Scene) => ask(scene, 0), others, check } = scenario;
  const tasks: Record<string, Actor> = { ager: (scene) => kthread(scene.world, ager(scene)) };
  const daemons: string[] = [];
  if (guest !== undefined) tasks["vcpu0"] = (scene) => kthread(scene.world, runGuest(scene, guest));
  for (const [task, actor] of Object.entries(others)) tasks[task] = (scene) => kthread(scene.world, actor(scene));
  if (guest !== undefined) {
    tasks["irq1"] = ({ vm, world }) => interruptHandler(vm.interrupts, 1, world.tasks[1] as Task);
    daemons.push("irq1");
  }
  return program<Scene>({
    name: `lockless-aging ${name}`,
    setup: (world) => makeScene(world, scenario, variants),
    tasks,
    daemons,
    final: (scene, results) => rmapsProblem(scene.shadow) ?? check?.(scene, results) ?? true,
  });
}

// --- cells -----------------------------------------------------------------------------------------------------------

interface Design {
  readonly what: string;
  readonly variants: Partial<KvmVariants>;
}

const NO_AD = { paging: "ept-no-ad" } as const;
const DESIGNS: Readonly<Record<string, Design>> = {
  A0: { what: "mmu_lock held for write (Linux up to 6.12)", variants: { kernel: "6.12" } },
  "A0-no-ad": { what: "the same, without A/D bits", variants: { kernel: "6.12", ...NO_AD } },
  A1: { what: "no lock", variants: { rmapAging: "bare" } },
  A2: { what: "no lock; the head is read again, then a compare-exchange", variants: { rmapAging: "recheck" } },
  A3: { what: "a lock bit in each reverse map, preemption on", variants: { rmapAging: "preemptible" } },
  A4: { what: "the lock bit, given back by a plain store", variants: {} },
  "A4-reordered": {
    what: "the same on a machine that performs loads after later stores",
    variants: { rmapAging: "early-unlock" },
  },
  A5: { what: "the seed's patch: entries without A/D bits are left alone", variants: { rmapAging: "ad-only" } },
  "A5-no-ad": { what: "the same, without A/D bits", variants: { rmapAging: "ad-only", ...NO_AD } },
  "A6-store": {
    what: "without A/D bits: rights are put away by a plain store",
    variants: { rmapAging: "plain-mark", ...NO_AD },
  },
  "A6-writers": {
    what: "without A/D bits: by a compare-exchange, but who holds mmu_lock stores plainly, as in 6.12",
    variants: { adDisabledVolatile: false, ...NO_AD },
  },
  A7: { what: "Linux 6.15 and later", variants: {} },
  "A7-no-ad": { what: "the same, without A/D bits", variants: NO_AD },
  A8: { what: "an empty reverse map is not locked (Linux)", variants: {} },
  A9: { what: "pte_list_add() does not take the lock bit", variants: { rmapAddLocks: false } },
};

const CLOBBERED =
  "mmu_spte_update() puts in a value that it made from an earlier look, stored or exchanged: a mark set in between is lost, and the page is young again";

interface Row {
  readonly scenario: string;
  readonly property: string;
  readonly expected: Expected;
  readonly because: string;
  readonly models: readonly MemoryModel[];
}

const SC = ["sc"] as const;
const BOTH = ["sc", "tso"] as const;

const holds = (scenario: string, property: string, because: string, models: readonly MemoryModel[] = SC): Row => ({
  scenario,
  property,
  expected: "holds",
  because,
  models,
});
const fails = (scenario: string, property: string, because: string, models: readonly MemoryModel[] = SC): Row => ({
  scenario,
  property,
  expected: "fails",
  because,
  models,
});

function cells(design: string, rows: readonly Row[]): StudyCell[] {
  const { variants } = DESIGNS[design] as Design;
  return rows.flatMap(({ models, ...row }) =>
    models.map((model) =>
      cell({ variant: design, model, ...row, program: () => agingProgram(row.scenario, variants) }),
    ),
  );
}

/** What a vCPU's fast page fault, which holds nothing, could spoil, or another holder of mmu_lock. */
const UNDER_MMU_LOCK: readonly Row[] = [
  holds("fast-fault", "final", "both change the entry by one atomic operation", BOTH),
  holds("access", "final", "the walk, or the fault, says so in the entry", BOTH),
  holds("sticky", "final", "nothing but an access makes an entry young", BOTH),
  holds("logging", "final", "mmu_lock", BOTH),
  holds("munmap", "isolation", "mmu_lock; a fast fault changes no entry that was zapped", BOTH),
];

export default study({
  id: "lockless-aging",
  title: "May the host ask which pages were used, through reverse maps, without mmu_lock?",
  source: "LKML, 2024-09-03: Re: [PATCH 21/22] ***HACK*** KVM: x86: Don't take mmu_lock when aging gfns",
  variants: Object.fromEntries(Object.entries(DESIGNS).map(([name, { what }]) => [name, what])),
  cells: [
    ...cells("A0", [
      holds("zap", "use-after-free", "the zap waits for the walk"),
      holds("many", "use-after-free", "so does the unmapping"),
      ...UNDER_MMU_LOCK,
    ]),
    ...cells("A0-no-ad", UNDER_MMU_LOCK),
    ...cells("A1", [
      fails("zap", "use-after-free", "the page is freed after its entry's address was read"),
      fails("many", "use-after-free", "the descriptor is freed while it is walked"),
    ]),
    ...cells("A2", [
      fails("reuse", "foreign-memory", "the head is right when it is looked at; the page changes hands after that"),
    ]),
    ...cells("A3", [fails("one-cpu", "deadlock", "who holds mmu_lock waits for a thread that it does not let run")]),
    ...cells("A4", [
      holds("zap", "use-after-free", "a plain store is a release on x86", BOTH),
      holds("many", "use-after-free", "a plain store is a release on x86", BOTH),
    ]),
    ...cells("A4-reordered", [fails("zap", "use-after-free", "the entry is read when the head is unlocked already")]),
    ...cells("A5", [
      holds("zap", "use-after-free", "the zap cannot leave the reverse map while it is walked"),
      holds("many", "use-after-free", "the descriptors cannot change while they are walked"),
      holds("fast-fault", "final", "a locked and changes A alone"),
      holds("sticky", "final", "A is clear"),
    ]),
    ...cells("A5-no-ad", [fails("sticky", "final", "nobody marks the entry, so it stays young for ever")]),
    ...cells("A6-store", [
      fails(
        "munmap",
        "isolation",
        "the store brings an entry back that was zapped; the next fault gives it its rights",
      ),
      fails("shadowing", "final", "the store brings MMU-W back, which says that a fault may make the entry writable"),
    ]),
    ...cells("A6-writers", [
      fails("logging", "final", CLOBBERED),
      holds("shadowing", "final", "aging never adds a right"),
      holds("munmap", "isolation", "the zap's store comes last, whatever aging has made of the entry"),
      holds("log", "final", "W goes last, and the log that it goes for is followed by a flush"),
      holds("zap", "use-after-free", "the lock bit does not depend on how entries change"),
    ]),
    ...cells("A7", [
      holds("zap", "use-after-free", "C1: the zap cannot leave the reverse map while it is walked", BOTH),
      holds("many", "use-after-free", "C2: the descriptors cannot change while they are walked", BOTH),
      holds("reuse", "foreign-memory", "a page that a walked reverse map leads to is not freed"),
      holds("one-cpu", "deadlock", "preemption is off while the lock bit is held"),
      holds("fast-fault", "final", "C3: a locked and changes A alone"),
      holds("held", "deadlock", "C5: a page fault in a present entry needs no reverse map"),
      holds("access", "final", "C6: the walk sets A"),
      holds("sticky", "final", "C6: A is clear"),
      holds("add", "final", "C2: the new entry waits for the walk"),
      fails("logging", "final", CLOBBERED),
    ]),
    ...cells("A7-no-ad", [
      holds("zap", "use-after-free", "C1", BOTH),
      holds("munmap", "isolation", "C4: the compare-exchange fails on an entry that was zapped"),
      fails("logging", "final", CLOBBERED),
      holds("log", "final", "C4: a fault that gives W back marks the page"),
      holds("shadowing", "final", "C4: the compare-exchange fails on an entry that has lost MMU-W", BOTH),
      holds("fast-fault", "final", "C4"),
      holds("held", "deadlock", "C5: a fast page fault gives the rights back without the lock bit"),
      holds("access", "final", "C6: the fault sets A in software"),
      holds("sticky", "final", "C6"),
    ]),
    ...cells("A8", [
      holds(
        "empty",
        "final",
        "who finds the head empty has nothing to walk; who waits for it finds it empty then",
        BOTH,
      ),
      holds("first", "final", "the first entry is stored at once, and is there before the head has it", BOTH),
    ]),
    ...cells("A9", [fails("add", "final", "the unlock stores the head as it was before, and the new entry is lost")]),
  ],
});
