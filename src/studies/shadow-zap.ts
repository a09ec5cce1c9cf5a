/**
 * shadow-zap: shadow pages are zapped and freed while others walk them, without mmu_lock or on the way to it.
 *
 *     a walk by a vCPU's thread                        commit_zap_page(), mmu_lock for write
 *     r1  interrupts off                               z1  the page is unlinked
 *     r2  mode = READING_SHADOW_PAGE_TABLES            z2  request; full barrier
 *     r3  full barrier                                 z3  mode: not OUTSIDE_GUEST_MODE? interrupt, and wait
 *     r4  reads entries                                z4  the page is freed
 *     r5  mode = OUTSIDE_GUEST_MODE; interrupts on
 *
 * In the guest it is the hardware that walks; the same interrupt makes it leave. Who waits for mmu_lock has nothing of the tables but its root, which is
 * counted, and asks again whether that is obsolete. Zaps come from the deletion of a memslot, all at once or page by page, and from a fault for which
 * there is no room: make_mmu_pages_available() takes the oldest pages, of whatever vCPU.
 *
 * Tasks: vcpu0 walks or faults; zap and vmm drop everything, or a memslot; vcpu1 is a vCPU without paging whose fault needs room. irq0 and irq1 are
 * interrupt handlers.
 */
import type { Steps } from "../engine/index.ts";
import { kvmGetDirtyLog } from "../kvm/dirty-log.ts";
import { KVM_MEM_LOG_DIRTY_PAGES } from "../kvm/memslots.ts";
import {
  DATA_PAGE,
  deleteSlot,
  loadCr3,
  mapData,
  NEW,
  OLD,
  readFault,
  readPage,
  type ShadowScene,
  type ShadowSceneOptions,
  sees,
  shadowScenes,
  touchAll,
  writeFault,
  writePage,
  zapAllFast,
} from "./shadow-guest-scene.ts";
import { cellsOf, study } from "./study.ts";

const read = readPage(DATA_PAGE);
const zaps = { threads: { zap: zapAllFast } };

function* fillUp({ shadow }: ShadowScene): Steps<void> {
  shadow.nMaxMmuPages.value = shadow.nUsedMmuPages.value + 1;
}

const fetchLog = ({ vm }: ShadowScene): Steps<unknown> => kvmGetDirtyLog(vm, 0);

const SCENES: Readonly<Record<string, ShadowSceneOptions>> = {
  "fast-fault": {
    guests: [{ warm: [writePage(OLD)], direct: true, handles: writeFault(OLD) }],
    flags: KVM_MEM_LOG_DIRTY_PAGES,
    prepare: fetchLog,
    ...zaps,
  },
  hardware: { guests: [{ warm: touchAll, inGuest: [read] }], ...zaps },
  fetch: { guests: [{ warm: [readPage(0)], handles: readFault(DATA_PAGE) }], ...zaps },
  delete: { guests: [{ warm: [readPage(0)], handles: readFault(DATA_PAGE) }], threads: { vmm: deleteSlot } },
  "recycle-hardware": {
    guests: [
      { warm: touchAll, inGuest: [read] },
      { warm: [writePage(NEW)], direct: true, handles: readFault(OLD) },
    ],
    prepare: fillUp,
  },
  "recycle-unsync": {
    guests: [
      { warm: [...touchAll, mapData(NEW)], runs: [[loadCr3, read]] },
      { warm: [writePage(NEW)], direct: true, handles: readFault(OLD) },
    ],
    prepare: fillUp,
    check: sees(0, NEW),
  },
  "recycle-fetch": {
    guests: [
      { warm: [readPage(0)], handles: readFault(DATA_PAGE) },
      { warm: [writePage(NEW)], direct: true, handles: readFault(OLD) },
    ],
    prepare: fillUp,
  },
  "recycle-fast": {
    guests: [
      { warm: [writePage(OLD)], direct: true, handles: writeFault(OLD) },
      { warm: [readPage(0)], handles: readFault(DATA_PAGE) },
    ],
    flags: KVM_MEM_LOG_DIRTY_PAGES,
    prepare: function* (scene) {
      yield* fetchLog(scene);
      yield* fillUp(scene);
    },
  },
};

export default study({
  id: "shadow-zap",
  title: "May shadow pages be freed while other vCPUs walk them, or are about to map something in them?",
  source:
    "arch/x86/kvm/mmu/mmu.c of Linux 7.2: walk_shadow_page_lockless_begin(), kvm_mmu_commit_zap_page(), kvm_mmu_zap_oldest_mmu_pages(), is_page_fault_stale()",
  variants: {
    "7.2": "Linux 7.2: flush before the page is freed, which waits for guests and walks",
    "7.2-slot": "the same without KVM_X86_QUIRK_SLOT_ZAP_ALL: a memslot's deletion zaps what belongs to the memslot",
  },
  cells: [
    ...cellsOf({ variant: "7.2", program: shadowScenes(SCENES) }, [
      [
        "fast-fault",
        "use-after-free",
        "the zap sees the mode, and waits until interrupts are on; or the walk sees the page unlinked",
      ],
      ["hardware", "use-after-free", "a vCPU has left the guest before the first page goes"],
      ["fetch", "final", "a fault whose root is obsolete by now starts over"],
      ["delete", "final", "a fault that has found the slot is waited for, and its mapping goes with the rest"],
      ["recycle-hardware", "use-after-free", "the flush comes before the free"],
      ["recycle-fast", "use-after-free", "a fast page fault is a walk like any other: the flush waits for it"],
      [
        "recycle-fetch",
        "final",
        "a fault that waits for mmu_lock has its root, which is not recycled, and builds the rest anew",
      ],
      [
        "recycle-unsync",
        "final",
        "a page out of step goes as well; who flushes finds nothing to be brought in step, and reads the table anew",
      ],
    ]),
    ...cellsOf({ variant: "7.2-slot", program: shadowScenes(SCENES, { slotZapAll: false }) }, [
      ["delete", "final", "pages that shadow the slot's tables go before it does, roots among them"],
    ]),
  ],
});
