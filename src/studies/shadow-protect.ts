/**
 * shadow-protect: write protection, under mmu_lock, against fast page faults, which give W back without it.
 *
 *     rmap_write_protect(), mmu_lock for write            fast_page_fault()
 *     p1  read the entry                                  f1  read the entry: MMU-writable
 *     p2  for the log: W goes                             f2  compare-exchange: W is there again
 *         for a shadow page: W and MMU-W go               f3  the frame is marked dirty
 *     p3  flush, if MMU-W went or the log is handed out
 *
 * For the log W may come back, as long as the frame is marked after that. For a frame that a shadow page now stands for it may not: KVM would not see the
 * guest edit its tables. Only direct pages are mended so; here a vCPU without paging writes to a frame that is a table of another's.
 *
 * Tasks: vcpu0, without paging, writes; vmm fetches the log and copies what it names; vcpu1's fault makes a shadow page. irq0 and irq1 are interrupt
 * handlers.
 */
import type { Results, Steps } from "../engine/index.ts";
import { framesOf, kvmGetDirtyLog } from "../kvm/dirty-log.ts";
import { KVM_MEM_LOG_DIRTY_PAGES, type KvmMemorySlot } from "../kvm/memslots.ts";
import { type Copies, copyFrames, dirtyLogProblem } from "../oracle/dirty-log.ts";
import {
  DATA_PAGE,
  DIRECTORY,
  editDirectly,
  OLD,
  readFault,
  type ShadowScene,
  type ShadowSceneOptions,
  shadowScenes,
  TABLE,
  writeFault,
  writePage,
} from "./shadow-guest-scene.ts";
import { cellsOf, study } from "./study.ts";

const slotOf = ({ vm }: ShadowScene): KvmMemorySlot => vm.kvm.memslots.byId(0) as KvmMemorySlot;

/** The log is fetched, and what it names is copied. */
function* fetchAndCopy(scene: ShadowScene): Steps<Copies> {
  const log = yield* kvmGetDirtyLog(scene.vm, 0);
  if (typeof log === "number") return {};
  return yield* copyFrames(scene.vm, slotOf(scene), framesOf(log));
}

const logged = {
  flags: KVM_MEM_LOG_DIRTY_PAGES,
  threads: { vmm: fetchAndCopy },
  check: (scene: ShadowScene, results: Results) =>
    dirtyLogProblem(scene.vm, slotOf(scene), { [OLD]: OLD, ...(results["vmm"] as Copies) }),
} as const;

const SCENES: Readonly<Record<string, ShadowSceneOptions>> = {
  "log-writable": {
    ...logged,
    guests: [
      { warm: [writePage(OLD)], direct: true, keepsTlb: true, inGuest: [writePage(OLD, 11), writePage(OLD, 12)] },
    ],
  },
  "log-protected": {
    ...logged,
    guests: [{ warm: [writePage(OLD)], direct: true, runs: [[writePage(OLD, 11), writePage(OLD, 12)]] }],
    prepare: fetchAndCopy,
  },
  table: {
    flags: KVM_MEM_LOG_DIRTY_PAGES,
    guests: [
      { warm: [editDirectly(TABLE)], direct: true, handles: writeFault(TABLE) },
      { warm: [], handles: readFault(DATA_PAGE) },
    ],
    prepare: fetchAndCopy,
  },
  directory: {
    flags: KVM_MEM_LOG_DIRTY_PAGES,
    guests: [
      { warm: [editDirectly(DIRECTORY)], direct: true, handles: writeFault(DIRECTORY) },
      { warm: [], handles: readFault(DATA_PAGE) },
    ],
    prepare: fetchAndCopy,
  },
};

export default study({
  id: "shadow-protect",
  title: "Does write protection of shadow pages' entries stand up to fast page faults?",
  source:
    "arch/x86/kvm/mmu/mmu.c of Linux 7.2: spte_write_protect(), fast_page_fault(), kvm_arch_mmu_enable_log_dirty_pt_masked()",
  variants: { "7.2": "Linux 7.2: MMU-writable goes with W where a shadow page stands for the frame" },
  cells: cellsOf({ variant: "7.2", program: shadowScenes(SCENES) }, [
    ["log-writable", "final", "the bit is cleared, W goes, TLBs are flushed, and only then is the page copied"],
    ["log-protected", "final", "the frame is marked after W is back: in the log of before, or in the next one"],
    [
      "table",
      "final",
      "the compare-exchange fails on an entry that has lost MMU-W; the fault then takes mmu_lock, and makes the table unsync",
    ],
    ["directory", "final", "the same, and under mmu_lock the frame is found write-tracked"],
  ]),
});
