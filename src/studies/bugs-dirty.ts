/**
 * bugs-dirty: writes of the guest that got lost between an entry and whoever asks what was written.
 *
 * Tasks: vcpu0 writes a page, or KVM does for it; zap takes its entry away; vmm fetches the log, or resets the ring; irq0 is the CPU's interrupt handler.
 */
import { type Cell, type Steps, store, u64 } from "../engine/index.ts";
import { MMU_NOTIFY_CLEAR, notifyStart } from "../kernel/index.ts";
import { collectDirtyRing, kvmResetDirtyRings } from "../kvm/dirty-ring.ts";
import { KVM_MEM_LOG_DIRTY_PAGES, type KvmMemorySlot } from "../kvm/memslots.ts";
import { gfnToRmap } from "../kvm/shadow/slot-arch.ts";
import { kvmMmuSyncRoots } from "../kvm/shadow/sync.ts";
import { gfn, PAGE_SIZE, type Pfn } from "../machine/index.ts";
import { type Copies, dirtyLogProblem, wordAt } from "../oracle/dirty-log.ts";
import { dirtyReportProblem } from "../oracle/dirty-report.ts";
import { pageDirtyProblem } from "../oracle/page-dirty.ts";
import { type BugScenario, bugStudy, onShadow, onTdp } from "./bug-cells.ts";
import { fetchAndCopy, write } from "./dirty-log.ts";
import {
  addToEntry,
  DATA_PAGE,
  DIRECTORY,
  DIRECTORY_PAGE,
  emulates,
  OLD,
  readPage,
  type ShadowScene,
  shadowHostPage,
  TABLE,
  TABLE_PAGE,
  touchAll,
  writeEntry,
  writeFault,
  writePage,
} from "./shadow-guest-scene.ts";
import { hostPage } from "./tdp-scene.ts";

const FRAMES = 2;

/** A bit of an entry that is the guest's to use; the first word of its directory before. */
const SOFTWARE_BIT = 0x200;
const DIRECTORY_WORD = TABLE * PAGE_SIZE + 0x63;

/** P, A and D. */
const READ_ONLY = u64(0, 0x61);
const WRITTEN = 77;

/** The reverse map of a frame of the first memslot. */
function rmapOf({ world, vm }: ShadowScene, frame: number): Cell {
  return gfnToRmap(world, vm.kvm.memslots.byId(0) as KvmMemorySlot, gfn(frame), 1);
}

/** The memslot that is logged has these two frames. */
const LOGGED = 512;

/** Takes the entries that are in the ring, gives the first one an offset before the slot, and has the ring reset. */
function* resetWrapped({ vm }: ShadowScene): Steps<number> {
  const ring = vm.vcpus[0]?.dirtyRing ?? null;
  if (ring === null) throw new Error("unreachable");
  yield* collectDirtyRing(ring);
  yield* store(ring.entry(0).offset, u64(-1, -1));
  yield* store(ring.entry(1).offset, u64(0, 0));
  return yield* kvmResetDirtyRings(vm);
}

const SCENARIOS: readonly BugScenario[] = [
  {
    // The invalidation does not end, so a write that is made was made through the entry that it zaps.
    ...onTdp("zap", {
      frames: FRAMES,
      flags: KVM_MEM_LOG_DIRTY_PAGES,
      variants: { gfnEnd: FRAMES, paging: "ept", pml: true },
      guests: [[write(0, 2)]],
      warm: [0],
      prepare: fetchAndCopy,
      threads: {
        zap: ({ mm }) => notifyStart(mm, { start: hostPage(0), end: hostPage(1), event: MMU_NOTIFY_CLEAR }),
      },
      check: ({ vm }, { vcpu0 }) => (vcpu0 === "done" ? dirtyReportProblem(vm.tdp, 0) : null),
    }),
    property: "final",
    models: ["sc", "tso"],
    because: "the entry is exchanged: what the guest did to it until then is in the value that comes out",
    without: {
      "tdp-plain-write-loses-dirty": {
        because: "the CPU sets D between the zap's reading of the entry and its store",
      },
    },
  },
  {
    // The guest sets a bit that is its own in an entry of a table that is shadowed, and the log is fetched meanwhile.
    ...onShadow("cmpxchg", {
      flags: KVM_MEM_LOG_DIRTY_PAGES,
      guests: [{ warm: touchAll, handles: emulates(addToEntry(DIRECTORY_PAGE, SOFTWARE_BIT)) }],
      threads: { vmm: fetchAndCopy },
      check: (scene, results) => {
        const slot = scene.vm.kvm.memslots.byId(0) as KvmMemorySlot;
        const copies = { [DIRECTORY]: DIRECTORY_WORD, ...(results["vmm"] as Copies) };
        return dirtyLogProblem(scene.vm, slot, copies);
      },
    }),
    property: "final",
    models: ["sc", "tso"],
    because: "who writes to guest memory in the guest's place marks the page, whether or not the comparison succeeds",
    without: {
      "emulated-cmpxchg-not-dirty": {
        because: "KVM exchanges the word itself: no entry is written through, and the page is in no log",
      },
    },
  },
  {
    // The guest has taken the right to write away, and flushes. With 7.2 the page was marked when it was mapped writable.
    ...onShadow("sync", {
      variants: { kernel: "6.12" },
      keepsDirty: true,
      guests: [
        { warm: [readPage(DATA_PAGE)], keepsTlb: true, inGuest: [writePage(DATA_PAGE, WRITTEN)] },
        {
          warm: [...touchAll, writeEntry(TABLE_PAGE, DATA_PAGE, OLD, READ_ONLY)],
          handles: (vcpu) => kvmMmuSyncRoots(vcpu, vcpu.vm.shadow as ShadowScene["shadow"]),
        },
      ],
      check: (scene) => {
        const frame = scene.mm.frameAt(shadowHostPage(OLD)) as Pfn;
        if (wordAt(scene.world, frame).peek() !== WRITTEN) return null;
        return pageDirtyProblem(scene.shadow, frame, rmapOf(scene, OLD));
      },
    }),
    property: "final",
    models: ["sc", "tso"],
    because:
      "the entry is exchanged, and the page of one that was dirty is marked (in 6.12; 7.2 marks it when it is mapped)",
    without: {
      "sync-page-loses-dirty": {
        because: "the entry, made anew, allows no write: when it is dropped it says that nothing was written",
      },
    },
  },
  {
    // The VMM has collected two entries, and one of them is not as it was when the ring is reset.
    ...onShadow("ring-offset", {
      dirtyRingSize: 4096,
      entries: [
        [TABLE, DATA_PAGE + 1, LOGGED],
        [TABLE, DATA_PAGE + 2, LOGGED + 1],
      ],
      slots: [{ baseGfn: LOGGED, npages: 2, flags: KVM_MEM_LOG_DIRTY_PAGES }],
      guests: [
        {
          warm: [writePage(DATA_PAGE + 1), writePage(DATA_PAGE + 2)],
          handles: writeFault(DATA_PAGE + 1),
        },
      ],
      threads: { vmm: resetWrapped },
    }),
    property: "out-of-bounds",
    models: ["sc", "tso"],
    because: "an entry whose frame is not in the slot is left alone, wherever the batch that it begins may end",
    without: {
      "dirty-ring-offset-wraps": {
        because:
          "the first entry's offset is -1, the second's 0: the batch ends inside the slot, and begins before its reverse maps",
      },
    },
  },
];

export default bugStudy({
  id: "bugs-dirty",
  title: "Writes that nobody was told of: found without the fixes, absent with them?",
  scenarios: SCENARIOS,
});
