/**
 * gpc-refresh: when may a gfn_to_pfn_cache be invalidated, and what must make its refresh start over?
 *
 * Thread: "KVM: pfncache: ..." on kvm@vger.kernel.org, August to October 2024 (D. Woodhouse, S. Christopherson). Linux starts a refresh over
 * whenever any invalidation is in flight, which a storm of unrelated invalidations can keep up for ever. The thread proposes to invalidate at
 * invalidate_range_end(), to look at ranges, and to wait.
 *
 * Tasks: `refresh` refreshes the cache and then uses it as the read side does; `reader` uses it; `munmap` unmaps and frees the page;
 * `other` invalidates elsewhere. Isolation is G1 of the thread's notes, progress G2, absence of deadlock G3.
 */
import {
  awaitUntil,
  Cell,
  type MemoryModel,
  cell as newCell,
  type Program,
  program,
  type Steps,
  startLoop,
  store,
  type World,
} from "../engine/index.ts";
import {
  invalidateRange,
  Kernel,
  kthread,
  MMU_NOTIFY_CLEAR,
  Mm,
  madviseDontneed,
  munmap,
  notifyEnd,
  notifyStart,
  PageFrames,
  PROT_READ,
  PROT_WRITE,
  readLock,
  readUnlock,
  zapRange,
} from "../kernel/index.ts";
import { GfnToPfnCache, kvmGpcCheck, kvmGpcRefresh } from "../kvm/gfn-to-pfn-cache.ts";
import { Kvm } from "../kvm/kvm.ts";
import { mmuNotifierOps } from "../kvm/mmu-notifier.ts";
import { type GpcDesign, type KvmVariants, LINUX_7_2 } from "../kvm/variants.ts";
import { gfn, type Hva, hva, PAGE_SIZE, pfnToHpa } from "../machine/index.ts";
import { mappingPublished } from "../oracle/isolation.ts";
import { type CellDescription, cell, type Study, type StudyCell, study } from "./study.ts";

const BASE = hva(0x10000000);
const page = (n: number): Hva => hva(BASE + n * PAGE_SIZE);
/** The cached page, with neighbours on both sides. Pages 2 to 5 are a memslot. */
const CACHED = page(3);

export interface Scene {
  readonly world: World;
  readonly mm: Mm;
  /** kvm_gpc_refresh(): false when the page cannot be had. */
  refresh(): Steps<boolean>;
  /** The read side, as in every user of the cache: the mapping is used if it is valid. */
  use(): Steps<void>;
  /** Set by scenarios in which one task begins when another has got somewhere. */
  readonly started: Cell;
}

export interface SceneOptions {
  readonly design: GpcDesign;
  /** The body that it runs on, when that is not our own (see {@link GPC_HOST}). */
  readonly make?: (world: World, options: SceneOptions) => Scene;
  /** False for a cache of a host address that no memslot has (kvm_gpc_activate_hva()). */
  readonly memslot?: boolean;
  /** The cache is valid to begin with. */
  readonly valid?: boolean;
  /** Linux starts over as often as it takes; a complete exploration needs a bound (see KvmVariants). */
  readonly retriesMax?: number;
  /** Fixes that the VM does without. */
  readonly undone?: KvmVariants["undone"];
  /** Look at what a refresh lets users have at the moment when it does. */
  readonly publication?: boolean;
}

/** The scene on our own body. */
export interface OwnScene extends Scene {
  readonly gpc: GfnToPfnCache;
}

export function makeScene(world: World, options: SceneOptions): OwnScene {
  const { design, memslot = true, valid = false, retriesMax = 1, publication = false } = options;
  const { undone = LINUX_7_2.undone } = options;
  const kernel = new Kernel(world);
  const frames = new PageFrames(world);
  const mm = new Mm(world, frames, BASE, 8);
  for (let n = 0; n < 8; n++) mm.addVma(page(n), page(n + 1), PROT_READ | PROT_WRITE);
  const frame = mm.populate(CACHED, "the page");
  mm.populate(page(5), "another page");
  const kvm = new Kvm(world, kernel, mm, { ...LINUX_7_2, gpc: design, gpcRetriesMax: retriesMax, undone });
  mm.notifiers.push(mmuNotifierOps(kvm));
  if (publication) kvm.onGpcPublished = (published) => mappingPublished(world, published);
  const gpc = new GfnToPfnCache(kvm);
  const { fields } = gpc;
  kvm.gpcs.add(gpc);
  fields.active.value = 1;
  fields.uhva.value = CACHED;
  if (memslot) {
    kvm.memslots.addDuringSetup({ id: 0, baseGfn: gfn(0), npages: 4, userspaceAddr: page(2), flags: 0 });
    fields.gpa.value = PAGE_SIZE;
    fields.generation.value = 2;
  }
  if (valid) {
    fields.valid.value = 1;
    fields.pfn.value = frame;
    fields.khva.value = pfnToHpa(frame);
  }
  return {
    ...{ world, mm, gpc },
    refresh: () => kvmGpcRefresh(gpc),
    use: () => useCache(world, gpc),
    started: newCell(world, "started"),
  };
}

/** Where things are in the host process and in the guest, for scenes on another body. */
export const GPC_HOST = { base: BASE, pages: 8, cached: CACHED, slot: { first: page(2), pages: 4 }, other: page(5) };

// --- tasks -----------------------------------------------------------------------------------------------------------

function* useCache(world: World, gpc: GfnToPfnCache): Steps<void> {
  yield* readLock(gpc.lock);
  if (yield* kvmGpcCheck(gpc)) {
    yield* store(new Cell<number>(world, gpc.fields.khva.value, 8, false), 1, "*khva = 1");
  }
  yield* readUnlock(gpc.lock);
}

function* refreshAndUse(scene: Scene): Steps<void> {
  if (yield* scene.refresh()) yield* scene.use();
}

function* unmapCached({ mm }: Scene): Steps<void> {
  yield* munmap(mm, CACHED, hva(CACHED + PAGE_SIZE));
}

/** Invalidates [start, end) again and again. */
function* storm({ world, mm }: Scene, start: Hva, end: Hva): Steps<void> {
  const again = startLoop(world);
  for (;;) {
    again();
    yield* invalidateRange(mm, start, end);
  }
}

type TaskOf = (scene: Scene) => Steps<unknown>;

function gpcProgram(
  name: string,
  options: SceneOptions,
  tasks: Readonly<Record<string, TaskOf>>,
  daemons: string[] = [],
): Program {
  const threads = Object.entries(tasks).map(([task, body]) => [
    task,
    (scene: Scene) => kthread(scene.world, body(scene)),
  ]);
  return program<Scene>({
    name,
    setup: (world) => (options.make ?? makeScene)(world, options),
    tasks: Object.fromEntries(threads) as Record<string, TaskOf>,
    daemons,
  });
}

const refresh: TaskOf = refreshAndUse;
const reader: TaskOf = (scene) => scene.use();
const unmap: TaskOf = unmapCached;

// --- scenarios -------------------------------------------------------------------------------------------------------

/** A refresh of an invalid cache, then its use, while the page is unmapped. */
const use = (options: SceneOptions): Program => gpcProgram("use", options, { refresh, munmap: unmap });

/** The same, and nothing is used: is what the refresh makes valid allowed at that moment? */
const nascent = (options: SceneOptions): Program =>
  gpcProgram(
    "nascent",
    { ...options, publication: true },
    {
      refresh: (scene) => scene.refresh(),
      munmap: unmap,
    },
  );

/** The same, when start() has returned before the refresh begins. */
const inFlight = (options: SceneOptions): Program =>
  gpcProgram(
    "in-flight",
    { ...options, publication: true },
    {
      refresh: function* (scene) {
        yield* awaitUntil(scene.started, (value) => value === 1, "(start() has returned)");
        yield* scene.refresh();
      },
      munmap: function* ({ mm, started }) {
        const range = { start: CACHED, end: hva(CACHED + PAGE_SIZE), event: MMU_NOTIFY_CLEAR };
        yield* zapRange(mm, range, "madvise(MADV_DONTNEED)", function* () {
          yield* store(started, 1, "(start() has returned)");
        });
      },
    },
  );

/** A valid cache is used while the page is unmapped. */
const valid = (options: SceneOptions): Program =>
  gpcProgram("valid", { ...options, valid: true }, { reader, munmap: unmap });

/** A second user beside the one that refreshes. */
const readers = (options: SceneOptions): Program => gpcProgram("readers", options, { refresh, reader, munmap: unmap });

/** Two invalidations at once, one of them elsewhere in the memslot. */
const two = (options: SceneOptions): Program =>
  gpcProgram("two", options, {
    refresh,
    munmap: unmap,
    other: ({ mm }) => madviseDontneed(mm, page(5), page(6)),
  });

/** One invalidation that covers the page, then unrelated ones for ever. */
const invalidationStorm = (design: GpcDesign, make?: SceneOptions["make"]): Program =>
  gpcProgram(
    "storm",
    { design, ...(make === undefined ? {} : { make }), retriesMax: Number.POSITIVE_INFINITY },
    {
      refresh: (scene) => scene.refresh(),
      storm: function* (scene) {
        yield* invalidateRange(scene.mm, CACHED, hva(CACHED + PAGE_SIZE));
        yield* storm(scene, page(6), page(7));
      },
    },
    ["storm"],
  );

/** Unrelated invalidations on both sides of the page, each beginning before the other ends, for ever: their union covers it. */
const bothSides = (design: GpcDesign): Program =>
  gpcProgram(
    "both-sides",
    { design, retriesMax: Number.POSITIVE_INFINITY },
    {
      refresh: (scene) => scene.refresh(),
      storm: function* ({ world, mm }) {
        const below = { start: page(0), end: page(1), event: MMU_NOTIFY_CLEAR };
        const above = { start: page(6), end: page(7), event: MMU_NOTIFY_CLEAR };
        yield* notifyStart(mm, below);
        const again = startLoop(world);
        for (;;) {
          again();
          yield* notifyStart(mm, above);
          yield* notifyEnd(mm, below);
          yield* notifyStart(mm, below);
          yield* notifyEnd(mm, above);
        }
      },
    },
    ["storm"],
  );

/** The scenarios of the design that Linux has, for other bodies; the options name the body. */
export const GPC_SCENARIOS = { use, valid, readers, two, storm: invalidationStorm };

// --- cells -----------------------------------------------------------------------------------------------------------

type Scenario = (options: SceneOptions) => Program;

function isolation(
  variant: string,
  scenario: string,
  scene: Scenario,
  options: SceneOptions,
  expected: "holds" | "fails",
  because: string,
  models: readonly MemoryModel[] = ["sc", "tso"],
): StudyCell[] {
  return models.map((model) =>
    cell({ variant, scenario, property: "isolation", model, expected, because, program: () => scene(options) }),
  );
}

function progress(variant: string, design: GpcDesign, expected: "holds" | "fails", because: string): StudyCell {
  const description: CellDescription = {
    variant,
    scenario: "storm",
    property: "progress",
    strategy: "graph",
    expected,
    because,
    program: () => invalidationStorm(design),
  };
  return cell(description);
}

const SAME_IN_TSO = "the locks order everything that matters, so store buffers add nothing";

const cells: StudyCell[] = [
  ...isolation(
    "D0",
    "use",
    use,
    { design: "D0" },
    "holds",
    `the count is raised before, and the sequence after; ${SAME_IN_TSO}`,
  ),
  ...isolation(
    "D0",
    "valid",
    valid,
    { design: "D0" },
    "holds",
    "start() clears `valid` under gpc->lock before it returns",
  ),
  ...isolation("D0", "readers", readers, { design: "D0" }, "holds", "as with one user"),
  ...isolation(
    "D0",
    "two",
    two,
    { design: "D0" },
    "holds",
    "each invalidation keeps the count above zero until it has moved the sequence",
  ),
  progress("D0", "D0", "fails", "any invalidation anywhere keeps the count above zero when the refresh looks (G2)"),

  ...isolation(
    "D0h",
    "use",
    use,
    { design: "D0", memslot: false },
    "fails",
    "no memslot, so the sequence never moves: an invalidation between two looks at the count is invisible (F2)",
  ),

  ...isolation(
    "D1",
    "in-flight",
    inFlight,
    { design: "D1" },
    "fails",
    "the refresh does not look whether an invalidation is in flight, and publishes what it found before end()",
    ["sc"],
  ),
  ...isolation(
    "D1",
    "nascent",
    nascent,
    { design: "D1" },
    "fails",
    "start() returns while the refresh looks the frame up, and nothing says so until end()",
    ["sc"],
  ),
  ...isolation("D1", "valid", valid, { design: "D1" }, "fails", "the cache stays valid from start() to end() (F1)", [
    "sc",
  ]),

  ...isolation(
    "D2",
    "in-flight",
    inFlight,
    { design: "D2" },
    "holds",
    "the refresh waits for end(), which clears needs_invalidation, and looks the frame up again",
    ["sc"],
  ),
  ...isolation(
    "D2",
    "nascent",
    nascent,
    { design: "D2" },
    "fails",
    "an invalidation can start, and start() return, after the wait and before gpc->lock is taken; the thread's notes expect the nascent cache to be fine",
    ["sc"],
  ),
  ...isolation("D2", "valid", valid, { design: "D2" }, "fails", "the cache stays valid from start() to end() (F1)", [
    "sc",
  ]),
  progress("D2", "D2", "holds", "the refresh waits only for invalidations that cover it"),

  cell({
    variant: "D3",
    scenario: "use",
    property: "deadlock",
    expected: "fails",
    because: "the inner `continue` takes gpc->lock again",
    program: () => use({ design: "D3" }),
  }),

  ...isolation(
    "D3'",
    "use",
    use,
    { design: "D3'" },
    "fails",
    "an invalidation whose start() ran before the refresh set the flag, and that ends before the range is looked at, is invisible",
    ["sc"],
  ),
  progress("D3'", "D3'", "holds", "only invalidations that cover the page make the refresh start over"),

  ...isolation(
    "D3s",
    "use",
    use,
    { design: "D3s" },
    "holds",
    "the sequence shows the invalidation that D3' cannot see",
  ),
  ...isolation("D3s", "two", two, { design: "D3s" }, "holds", "as with one invalidation", ["sc"]),
  progress("D3s", "D3s", "holds", "unrelated invalidations outside memslots do not move the sequence"),

  ...isolation("D4", "use", use, { design: "D4" }, "holds", "of `valid` and the range, one side sees the other's"),
  ...isolation("D4", "valid", valid, { design: "D4" }, "holds", "start() clears `valid` before it returns"),
  ...isolation("D4", "readers", readers, { design: "D4" }, "holds", "as with one user"),
  ...isolation(
    "D4",
    "two",
    two,
    { design: "D4" },
    "holds",
    "the union of the ranges covers the page as long as the invalidation that does is in flight",
  ),
  progress("D4", "D4", "holds", "the refresh waits only for invalidations that cover it"),
  cell({
    variant: "D4",
    scenario: "both-sides",
    property: "progress",
    strategy: "graph",
    expected: "fails",
    because: "the union of the ranges never shrinks while any invalidation is in flight",
    program: () => bothSides("D4"),
  }),

  ...isolation(
    "D4h",
    "use",
    use,
    { design: "D4", memslot: false },
    "fails",
    "it still relies on the sequence, which no memslot moves (F2)",
    ["sc"],
  ),

  ...isolation("D4-nomb", "use", use, { design: "D4-nomb" }, "holds", "store buffering needs store buffers (F3)", [
    "sc",
  ]),
  ...isolation(
    "D4-nomb",
    "use",
    use,
    { design: "D4-nomb" },
    "fails",
    "`valid` waits in the store buffer while the range is read (F3)",
    ["tso"],
  ),

  ...isolation(
    "D5",
    "use",
    use,
    { design: "D5" },
    "fails",
    "an invalidation starts between the look at the range and taking gpc->lock, and finds nothing valid to clear",
    ["sc"],
  ),
];

const definition: Study = study({
  id: "gpc-refresh",
  title: "When may a gfn_to_pfn_cache be invalidated, and what must make a refresh start over?",
  source: 'kvm@vger.kernel.org, August to October 2024, "KVM: pfncache: ..." (v1 to v3 and the review)',
  variants: {
    D0: "Linux 6.9 to 7.2: invalidate at start(), start over on any invalidation; cache of a memslot's page",
    D0h: "the same for a host address outside all memslots",
    D1: "v1: invalidate at end(), needs_invalidation",
    D2: "v2: the same, and wait for invalidations in flight that cover the page",
    D3: "v3 patches 1-3 as posted: invalidate at start(), retry on a range with the inner continue",
    "D3'": "the same with the outer continue",
    D3s: "the same, and the sequence number kept",
    D4: "the counter-proposal: wait, snapshot, look up, valid, barrier, range-based retry; lockless look in start()",
    D4h: "the same for a host address outside all memslots",
    "D4-nomb": "the counter-proposal without the barrier in the refresh",
    D5: "the seed's worry: look at the range, take gpc->lock, set valid, look at nothing again",
  },
  cells,
});

export default definition;
