/**
 * lazy-large-spte: may a large SPTE that has to be write-protected stay, read-only, until a fault needs small pages?
 *
 * The review of the patch found a loop, which has little to do with large pages. Let gfn 4 hold a page table of the guest that the walk to the address v
 * goes through, let v lead to gfn 4 itself, and let the emulator not know the instruction that stores to v:
 *
 *     1  a large writable SPTE maps gfns 0 to 511
 *     2  gfn 4 becomes shadowed
 *     3  the large SPTE is write-protected
 *     4  the guest stores to v: write fault
 *     5  emulation fails
 *     6  gfn 4 is unshadowed, and the guest runs the store once more
 *     7  the store faults: the walk to v needs the shadow page of gfn 4. Go on with 2
 *
 * The store retires only when every table of the walk is shadowed and gfn 4 may be written; a shadowed table above the last level may not.
 * One vCPU, so the state graph is a line, and the loop a lasso.
 *
 * Source: LKML, X. Guangrong, M. Tosatti, 2012-11, "KVM: MMU: lazily drop large spte".
 */
import type { Results, Steps } from "../engine/index.ts";
import { framesOf, kvmGetDirtyLog, kvmMmuSlotApplyFlags, kvmPrepareDirtyBitmap } from "../kvm/dirty-log.ts";
import { KVM_MEM_LOG_DIRTY_PAGES, type KvmMemorySlot } from "../kvm/memslots.ts";
import { spteAt } from "../kvm/shadow/rmap.ts";
import { gfnToRmap } from "../kvm/shadow/slot-arch.ts";
import { isWritablePte } from "../kvm/spte.ts";
import type { KvmVariants } from "../kvm/variants.ts";
import { gfn, PAGE_SIZE, PG_LEVEL_2M, touch } from "../machine/index.ts";
import { type Copies, copyFrames, dirtyLogProblem } from "../oracle/dirty-log.ts";
import {
  DELIVERY,
  DELIVERY_STACK_APART,
  FLUSH,
  type Guest,
  NO_SELF_MAP,
  SELF_MAP_L2,
  SELF_MAP_LARGE,
  selfMapL1,
  TABLE_STORE,
} from "./self-map-guests.ts";
import { accessAt, type ShadowedGuest, type ShadowedGuestOptions, shadowedGuest } from "./shadowed-guest.ts";
import { cell, type Expected, type StudyCell, study } from "./study.ts";
import { type TdpScene, type TdpSceneOptions, tdpScene } from "./tdp-scene.ts";

// --- how a run must end ----------------------------------------------------------------------------------------------

type Check = ShadowedGuestOptions["check"];

function faultsOf({ world }: { readonly world: ShadowedGuest["world"] }): number {
  const running = world.trace.filter(({ task }) => task !== null && world.tasks.includes(task));
  return running.filter(({ event }) => event.name === "kvm_page_fault").length;
}

/** The vCPU's run ends so, after at most so many page faults. */
function ends(
  how: "done" | "internal-error",
  faultsMax: number,
  also: (scene: ShadowedGuest) => string | null = () => null,
): Check {
  return (scene: ShadowedGuest, results: Results) => {
    if (results["vcpu0"] !== how) return `the run ends with ${String(results["vcpu0"])}, not with ${how}`;
    const faults = faultsOf(scene);
    return faults > faultsMax ? `${faults} page faults, more than ${faultsMax}` : also(scene);
  };
}

/** The refutation of the thread: with nothing shadowed under it the large SPTE may be written again. */
function largeIsWritable({ vm, world }: ShadowedGuest): string | null {
  const { memslots } = vm.kvm;
  const slot = memslots.byId(0) as KvmMemorySlot;
  const head = gfnToRmap(world, slot, gfn(0), PG_LEVEL_2M).value;
  if (head === 0) return "no large SPTE maps frame 0";
  return isWritablePte(spteAt(world, head).value) ? null : "the large SPTE is read-only";
}

// --- cells on the shadow MMU -----------------------------------------------------------------------------------------

interface Row {
  readonly scenario: string;
  readonly guest: Guest;
  readonly design: Partial<KvmVariants>;
  readonly expected: Expected;
  readonly because: string;
  readonly check?: Check;
}

function shadowCells(variant: string, rows: readonly Row[]): StudyCell[] {
  return rows.map(({ scenario, guest, design, expected, because, check = () => null }) =>
    cell({
      variant,
      scenario,
      property: "progress",
      strategy: "graph",
      expected,
      because,
      program: () => shadowedGuest(`lazy-large-spte ${scenario}`, { ...guest, variants: design, check }),
    }),
  );
}

const RETRY: Partial<KvmVariants> = { failedEmulation: "retry" };
const STALE: Partial<KvmVariants> = { ...RETRY, unprotectsAtEntry: true };

const selfMaps = (design: Partial<KvmVariants>, expected: Expected, because: string, faultsMax = 0): Row[] => {
  const check = expected === "holds" ? { check: ends("internal-error", faultsMax) } : {};
  return [
    { scenario: "self-map", guest: SELF_MAP_L2, design, expected, because, ...check },
    { scenario: "seven-steps", guest: SELF_MAP_LARGE, design, expected, because, ...check },
  ];
};

const SHADOW_CELLS: readonly StudyCell[] = [
  ...shadowCells(
    "B1",
    selfMaps(RETRY, "fails", "the walk to v makes the shadow page of gfn 4 anew, and with it the write protection"),
  ),
  ...shadowCells("B2", [
    {
      scenario: "self-map-l1",
      guest: selfMapL1(),
      design: RETRY,
      expected: "holds",
      because: "the last-level table becomes unsync and may be written: nothing is emulated",
      check: ends("done", 1),
    },
  ]),
  ...shadowCells("B2'", [
    {
      scenario: "prefetched",
      guest: selfMapL1(accessAt("read", 5 * PAGE_SIZE)),
      design: RETRY,
      expected: "holds",
      because: "prefetched read-only; the write fault itself is no prefetch and unsyncs: one more fault",
      check: ends("done", 2),
    },
    {
      scenario: "synchronized",
      guest: selfMapL1(accessAt("write", TABLE_STORE), FLUSH),
      design: RETRY,
      expected: "holds",
      because: "the flush write-protects the table again; the next write fault unsyncs: one more fault",
      check: ends("done", 2),
    },
    {
      scenario: "never-unsync",
      guest: selfMapL1(),
      design: { ...RETRY, unsync: false },
      expected: "fails",
      because: "refused at every fault, a last-level table is as an upper one",
    },
  ]),
  ...shadowCells(
    "B3",
    selfMaps(
      { failedEmulation: "unprotect-then-report" },
      "holds",
      "the fault that makes the shadow page anew sees that the store is to a table on its way; by then it was zapped",
      3,
    ),
  ),
  ...shadowCells(
    "B4",
    selfMaps({ failedEmulation: "retry-once" }, "holds", "the second fault at the same place is not retried", 3),
  ),
  ...shadowCells("B5", [
    {
      scenario: "no-self-map",
      guest: NO_SELF_MAP,
      design: RETRY,
      expected: "holds",
      because: "unshadowed, gfn 4 is not shadowed again by the walk to v: the large SPTE becomes writable",
      check: ends("done", 4, largeIsWritable),
    },
  ]),
  ...shadowCells("B9", [
    {
      scenario: "delivery",
      guest: DELIVERY,
      design: { ...STALE, pageSizing: "before-tables", largeProtected: "dropped" },
      expected: "fails",
      because: "the entry unshadows, a large page is allowed, its table is shadowed, the page is too large",
    },
  ]),
  ...shadowCells("B9-self-map-first", [
    {
      scenario: "delivery",
      guest: DELIVERY,
      design: { ...STALE, pageSizing: "self-map-first", largeProtected: "dropped" },
      expected: "holds",
      because: "a table lies in the page, so it is mapped by 4K at once",
      check: ends("done", 4),
    },
  ]),
  ...shadowCells("B9-lazy", [
    {
      scenario: "delivery",
      guest: DELIVERY,
      design: { ...STALE, pageSizing: "before-tables" },
      expected: "fails",
      because:
        "the gate wants the large SPTE, read-only; the stack in the same page wants small ones; each drops the other's",
    },
    {
      scenario: "stack-apart",
      guest: DELIVERY_STACK_APART,
      design: { ...STALE, pageSizing: "before-tables" },
      expected: "holds",
      because: "the large SPTE is installed read-only, and a gate is only read",
      check: ends("done", 5),
    },
  ]),
  ...shadowCells("7.2", [
    ...selfMaps({}, "holds", "the walk is looked at before anything is zapped, and the place is remembered", 3),
    {
      scenario: "self-map-l1",
      guest: selfMapL1(),
      design: {},
      expected: "holds",
      because: "the last-level table becomes unsync",
      check: ends("done", 1),
    },
    {
      scenario: "no-self-map",
      guest: NO_SELF_MAP,
      design: {},
      expected: "holds",
      because: "gfn 4 is unshadowed once, and the store retires",
      check: ends("done", 4, largeIsWritable),
    },
    {
      scenario: "delivery",
      guest: DELIVERY,
      design: {},
      expected: "holds",
      because: "the size is chosen when the tables are shadowed",
      check: ends("done", 4),
    },
  ]),
];

// --- dirty logging ---------------------------------------------------------------------------------------------------

function slotOf({ vm }: TdpScene): KvmMemorySlot {
  return vm.kvm.memslots.byId(0) as KvmMemorySlot;
}

/** The large page of set-up is write-protected: logging has begun. */
function* beginLogging(scene: TdpScene): Steps<void> {
  const slot = slotOf(scene);
  slot.flags.value = KVM_MEM_LOG_DIRTY_PAGES;
  const update = { old: null, new: slot, change: "flags-only" } as const;
  kvmPrepareDirtyBitmap(scene.vm, update);
  yield* kvmMmuSlotApplyFlags(scene.vm, { ...update, old: slot });
}

function* fetchAndCopy(scene: TdpScene): Steps<Copies> {
  const log = yield* kvmGetDirtyLog(scene.vm, 0);
  return typeof log === "number" ? {} : yield* copyFrames(scene.vm, slotOf(scene), framesOf(log));
}

const NOTHING: Partial<KvmVariants> = {};
const LOGGED: Pick<TdpSceneOptions, "frames" | "hugePage" | "warm" | "prepare"> = {
  frames: 512,
  hugePage: true,
  warm: [0],
  prepare: beginLogging,
};
const LAZY_SPLIT = { tdpMmu: false, eagerPageSplit: false } as const;

/** Two pages of a large one are written, and the log is fetched at any time. */
function twoWrites(variants: Partial<KvmVariants>): ReturnType<typeof tdpScene> {
  return tdpScene("two-writes", {
    ...LOGGED,
    guests: [[touch(0, "write"), touch(1, "write")]],
    params: LAZY_SPLIT,
    variants: { faultsMax: 4, ...variants },
    threads: { vmm: fetchAndCopy },
    check: (scene, results) => dirtyLogProblem(scene.vm, slotOf(scene), { 0: 1, 1: 0, ...(results["vmm"] as Copies) }),
  });
}

/** One page of a large one is written, alone. */
function oneWrite(variants: Partial<KvmVariants>): ReturnType<typeof tdpScene> {
  const unbounded = { faultsMax: Number.POSITIVE_INFINITY, ...variants };
  return tdpScene("one-write", { ...LOGGED, guests: [[touch(0, "write")]], params: LAZY_SPLIT, variants: unbounded });
}

/** Pages of a large one are read. */
function reads(variants: Partial<KvmVariants>): ReturnType<typeof tdpScene> {
  return tdpScene("reads", {
    ...LOGGED,
    guests: [[touch(0, "read"), touch(1, "read"), touch(9, "read")]],
    params: LAZY_SPLIT,
    variants: { faultsMax: 4, ...variants },
    check: (scene) => {
      const faults = faultsOf(scene);
      return faults === 0 ? null : `${faults} faults of reads`;
    },
  });
}

const LOGGING_CELLS: readonly StudyCell[] = [
  cell({
    variant: "B6-eager",
    scenario: "reads",
    property: "final",
    expected: "fails",
    because: "the large SPTE is gone, and each 4K page faults",
    program: () => reads({ largeProtected: "dropped" }),
  }),
  cell({
    variant: "B6-lazy",
    scenario: "reads",
    property: "final",
    expected: "holds",
    because: "the large SPTE is still there to be read through",
    program: () => reads(NOTHING),
  }),
  cell({
    variant: "B7",
    scenario: "two-writes",
    property: "final",
    expected: "fails",
    because: "W for 512 pages, one of them in the log",
    program: () => twoWrites({ fastFixesLarge: true }),
  }),
  cell({
    variant: "7.2",
    scenario: "two-writes",
    property: "final",
    expected: "holds",
    because: "a large SPTE is left to the slow path, which maps 4K",
    program: () => twoWrites(NOTHING),
  }),
  cell({
    variant: "B8",
    scenario: "one-write",
    property: "progress",
    strategy: "graph",
    expected: "fails",
    because: "the walk for a 4K page ends at the large SPTE and changes nothing",
    program: () => oneWrite({ largeMakesWay: false }),
  }),
  cell({
    variant: "7.2",
    scenario: "one-write",
    property: "progress",
    strategy: "graph",
    expected: "holds",
    because: "the large SPTE is replaced by a table",
    program: () => oneWrite(NOTHING),
  }),
];

export default study({
  id: "lazy-large-spte",
  title: "May a large SPTE that has to be write-protected stay until a fault needs small pages?",
  source: "LKML, 2012-11-05: KVM: MMU: lazily drop large spte",
  variants: {
    B1: "a store that cannot be emulated is always retried (before 3.9); self-map at level 2",
    B2: "the same; self-map at level 1",
    "B2'": "the same, where unsync was refused",
    B3: "unprotect, then report a store to a table of its own walk (6.1)",
    B4: "retry, but not twice at one place",
    B5: "retry always; no self-map (step 6 as it was first posted)",
    "B6-eager": "a large SPTE under write protection is dropped",
    "B6-lazy": "it becomes read-only (the patch, and Linux)",
    B7: "lazy, and fast_page_fault() at any level (caf6900f2d8a)",
    B8: "lazy, and a direct fault does not drop the large SPTE (before 404381c5839d)",
    B9: "an event is being delivered: unprotect first, size before tables, too large is dropped (before 7751babd3c6d)",
    "B9-self-map-first": "the same with 7751babd3c6d: 4K where a table lies in the page",
    "B9-lazy": "the same as B9 with the patch instead: too large is read-only",
    "7.2": "Linux 7.2",
  },
  cells: [...SHADOW_CELLS, ...LOGGING_CELLS],
});
