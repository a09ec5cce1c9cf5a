/**
 * bugs-shadow: shadow pages that stood for what the guest's tables no longer said, or never did.
 *
 * Tasks: vcpu0 and vcpu1 run guests of one address space (shadow-guest-scene.ts), vmm is the VMM's thread or a device that it has let at the guest's
 * memory; irq0 and irq1 are interrupt handlers.
 */
import { awaitUntil, Cell, type Results, type Steps, store } from "../engine/index.ts";
import { putPage, unmapPfn } from "../kernel/index.ts";
import type { KvmMemorySlot } from "../kvm/memslots.ts";
import { gfnToRmap } from "../kvm/shadow/slot-arch.ts";
import { gfn, PAGE_SIZE, type Pfn, X86_CR0_PG, X86_CR4_PAE, X86_CR4_SMAP, X86_CR4_SMEP } from "../machine/index.ts";
import { type BugScenario, bugStudy, onShadow } from "./bug-cells.ts";
import {
  changeEntry,
  DATA_PAGE,
  DIRECTORY,
  deleteSlot,
  executePage,
  mapData,
  NEW,
  OLD,
  type Reads,
  readFault,
  readPage,
  type ShadowScene,
  shadowHostPage,
  TABLE,
  touchAll,
  writeEntry,
  writePage,
} from "./shadow-guest-scene.ts";

/** Page 0 and its neighbours are mapped. */
const touchTable = [readPage(0)];

/** Pages of 4K that an entry of each level maps. */
const PER_DIRECTORY_ENTRY = 512;
const PER_UPPER_ENTRY = 512 * 512;

/** Bits of the guest's entries: P, A, D; P, W, D; and P, W, A, D, PS. */
const READ_ONLY = 0x61;
const NOT_ACCESSED = 0x43;
const LARGE = 0xe3;

// --- a second way to the same table ----------------------------------------------------------------------------------

/** Page 8 once more, by the next entry of the directory. */
const AGAIN = PER_DIRECTORY_ENTRY + DATA_PAGE;
/** A frame that no memslot has. */
const NOWHERE = 100;

// --- large pages of the guest ----------------------------------------------------------------------------------------

/** Where the guest's page of 2M is, as it was and as it will be; each begins with a memslot of a few pages. */
const FIRST = 512;
const SECOND = 1024;
const LARGE_PAGE = PER_DIRECTORY_ENTRY;

/** When a page of the second memslot is mapped, the first one goes. */
function* deleteFirst(scene: ShadowScene): Steps<void> {
  const { world, vm } = scene;
  const slot = vm.kvm.memslots.byId(2) as KvmMemorySlot;
  yield* awaitUntil(gfnToRmap(world, slot, gfn(SECOND + 16), 1), (head) => head !== 0, "(the page is mapped)");
  yield* deleteSlot(scene, 1);
}

// --- rights ----------------------------------------------------------------------------------------------------------

/** Frame of the guest's table of level 3. */
const UPPER = 2;
/** Where the guest has it in its address space. */
const UPPER_PAGE = 17;
/** The directory once more, by an entry that allows no writes. */
const GUARDED = PER_UPPER_ENTRY;

/** The first word of a frame of the guest. */
function wordOf({ world, mm }: ShadowScene, frame: number): number {
  const pfn = mm.frameAt(shadowHostPage(frame)) as Pfn;
  return new Cell<number>(world, pfn * PAGE_SIZE, 8, false).peek();
}

const FORBIDDEN = 99;
function notForbidden(scene: ShadowScene, frame: number): string | null {
  return wordOf(scene, frame) === FORBIDDEN ? `frame ${frame} was written by who may not write it` : null;
}

// --- modes -----------------------------------------------------------------------------------------------------------

/** Protected mode with paging, 64 bits and NX, as the others; the supervisor may write what is read-only. */
const WITHOUT_WP = X86_CR0_PG + 1;
/** A page that is read-only; and the user's. */
const OTHER_PAGE = DATA_PAGE + 1;
const USERS = 0x67;
const USER_PAGE = {
  entries: [
    [1, 0, UPPER, USERS],
    [UPPER, 0, DIRECTORY, USERS],
    [DIRECTORY, 0, TABLE, USERS],
    [TABLE, OTHER_PAGE, NEW, READ_ONLY | 4],
  ],
} as const;

/** The guest need not have flushed: nothing was where it reads, before. */
function readsNew(_scene: ShadowScene, results: Results): string | null {
  const value = (results["vcpu0"] as Reads).at(-1);
  return value === NEW
    ? null
    : `the guest reads frame ${value} where its tables have led to frame ${NEW} from the first`;
}

const SCENARIOS: readonly BugScenario[] = [
  {
    ...onShadow("mmio", {
      entries: [[DIRECTORY, 1, TABLE]],
      changesUnseen: true,
      guests: [
        { warm: [readPage(DATA_PAGE)], keepsTlb: true, inGuest: [readPage(DATA_PAGE)] },
        { warm: [], runs: [[readPage(AGAIN)]] },
      ],
      threads: { vmm: (scene) => changeEntry(scene, [TABLE, DATA_PAGE, NOWHERE]) },
    }),
    property: "final",
    models: ["sc", "tso"],
    because: "the mapping that stands there is dropped, and leaves its reverse map, before the entry says MMIO",
    without: {
      "mmio-spte-over-present-spte": {
        because:
          "the guest's entry was changed unseen; by another way to the table its page becomes MMIO, and the reverse map still has it",
      },
    },
  },
  {
    ...onShadow("large", {
      entries: [[DIRECTORY, 1, FIRST, LARGE]],
      slots: [
        { baseGfn: FIRST, npages: 24 },
        { baseGfn: SECOND, npages: 24 },
      ],
      changesUnseen: true,
      guests: [{ warm: [readPage(LARGE_PAGE)], handles: readFault(LARGE_PAGE + 16) }],
      prepare: (scene) => changeEntry(scene, [DIRECTORY, 1, SECOND, LARGE]),
      threads: { vmm: deleteFirst },
    }),
    property: "rmap-consistent",
    models: ["sc"],
    because: "the table that stands there maps other frames: it goes first, and one of the frames at hand is linked",
    without: {
      "direct-page-reused-for-other-gfn": {
        because:
          "the guest's entry was changed unseen: a frame of the new page is mapped in the old one's table, whose own idea of its frames differs",
      },
    },
  },
  {
    ...onShadow("rights", {
      entries: [
        [UPPER, 1, DIRECTORY, READ_ONLY],
        [DIRECTORY, 1, TABLE, READ_ONLY],
      ],
      guests: [
        { warm: [readPage(AGAIN)], runs: [[writePage(DATA_PAGE)]] },
        { warm: [], runs: [[readPage(GUARDED + AGAIN), writePage(GUARDED + DATA_PAGE, FORBIDDEN)]] },
      ],
      check: (scene) => notForbidden(scene, OLD),
    }),
    property: "final",
    models: ["sc"],
    because: "the directory has a page for each set of rights that it is reached with",
    without: {
      "inherited-permissions": {
        because:
          "one page stands for the directory in both: it was made for a read-only way to a last table, and has a writable one since",
      },
    },
  },
  {
    ...onShadow("link", {
      entries: [[TABLE, UPPER_PAGE, UPPER]],
      guests: [
        {
          warm: [...touchAll, readPage(UPPER_PAGE), mapData(NEW)],
          runs: [[writeEntry(UPPER_PAGE, 1, DIRECTORY), readPage(GUARDED), readPage(GUARDED + DATA_PAGE)]],
        },
      ],
      check: readsNew,
    }),
    property: "final",
    models: ["sc", "tso"],
    because: "what is below a page is brought in step before the page is linked in a new place",
    without: {
      "link-before-sync": {
        because:
          "the guest has changed a last table, and then leads to it where nothing was before: it need not flush, and finds the old frame",
      },
    },
  },
  {
    ...onShadow("driver", {
      entries: [[TABLE, OTHER_PAGE, NEW, NOT_ACCESSED]],
      pfnMapped: [TABLE],
      guests: [{ warm: [readPage(DATA_PAGE)], handles: readFault(OTHER_PAGE) }],
      threads: {
        *driver({ mm }) {
          const frame = yield* unmapPfn(mm, shadowHostPage(TABLE));
          if (frame !== null) yield* putPage(mm.frames, frame);
        },
      },
    }),
    property: "isolation",
    models: ["sc", "tso"],
    because: "the bit is set through the VMM's page tables: what is not mapped there any more is not written",
    without: {
      "gpte-cmpxchg-on-guessed-frame": {
        because:
          "the driver has taken the page away and freed it; its VMA is still there, and the frame follows from that",
      },
    },
  },
  {
    // As the tail pages of a large allocation are, which is counted at its first page only.
    ...onShadow("uncounted", {
      pfnMapped: [OLD],
      guests: [{ warm: touchTable, handles: readFault(DATA_PAGE) }],
      *prepare({ mm }) {
        mm.frames.refcountOf(mm.frameAt(shadowHostPage(OLD)) as Pfn).value = 0;
      },
      threads: {
        *driver({ world, mm }) {
          const frame = mm.frameAt(shadowHostPage(OLD)) as Pfn;
          yield* store(new Cell<number>(world, frame * PAGE_SIZE, 8, false), 1, "the driver uses its page");
        },
      },
    }),
    property: "isolation",
    models: ["sc", "tso"],
    because: "KVM holds no reference on a page that get_user_pages() does not give",
    without: {
      "pfn-mapped-page-without-refcount": {
        because: "the count goes from 0 to 1 and back, which frees the page under the driver",
      },
    },
  },
  {
    ...onShadow("wp", {
      entries: [[TABLE, OTHER_PAGE, NEW, READ_ONLY]],
      guests: [
        { warm: [], registers: { cr0: WITHOUT_WP }, runs: [[writePage(OTHER_PAGE)]] },
        { warm: [], runs: [[writePage(OTHER_PAGE, FORBIDDEN)]] },
      ],
      check: (scene) => notForbidden(scene, NEW),
    }),
    property: "final",
    models: ["sc"],
    because: "a vCPU with CR0.WP has shadow pages of its own",
    without: {
      "role-lacks-a-mode-bit/cr0_wp": {
        because:
          "a page that may only be read is writable for the supervisor whose CR0.WP is clear, and so for the other",
      },
    },
  },
  {
    ...onShadow("smep", {
      ...USER_PAGE,
      guests: [
        { warm: [], registers: { cr0: WITHOUT_WP }, runs: [[writePage(OTHER_PAGE)]] },
        {
          warm: [],
          registers: { cr0: WITHOUT_WP, cr4: X86_CR4_PAE | X86_CR4_SMEP },
          runs: [[executePage(OTHER_PAGE)]],
        },
      ],
      check: ({ vm }) => (vm.vcpus[1]?.guest.next === 0 ? null : "the supervisor executes a page of the user's"),
    }),
    property: "final",
    models: ["sc"],
    because: "a vCPU with SMEP has shadow pages of its own",
    without: {
      "role-lacks-a-mode-bit/smep": {
        because: "the write has made the user's page the supervisor's, which it may execute",
      },
    },
  },
  {
    ...onShadow("smap", {
      ...USER_PAGE,
      guests: [
        { warm: [], registers: { cr0: WITHOUT_WP }, runs: [[writePage(OTHER_PAGE)]] },
        {
          warm: [],
          registers: { cr0: WITHOUT_WP, cr4: X86_CR4_PAE | X86_CR4_SMAP },
          runs: [[writePage(OTHER_PAGE, FORBIDDEN)]],
        },
      ],
      check: (scene) => notForbidden(scene, NEW),
    }),
    property: "final",
    models: ["sc"],
    because: "a vCPU with SMAP has shadow pages of its own",
    without: {
      "role-lacks-a-mode-bit/smap": {
        because: "the write has made the user's page the supervisor's, which SMAP does not keep it from",
      },
    },
  },
];

export default bugStudy({
  id: "bugs-shadow",
  title: "Shadow pages that did not fit the guest's tables: found without the fixes, absent with them?",
  scenarios: SCENARIOS,
});
