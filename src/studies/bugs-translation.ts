/**
 * bugs-translation: guests that saw by old translations what they had changed, or what was no longer theirs.
 *
 * Tasks: vcpu0 and vcpu1 run guests of one address space (shadow-guest-scene.ts), or only the handler of an exit; vmm fetches the dirty log, munmap takes
 * a page away, flush is the guest on vcpu1; irq0 and irq1 are interrupt handlers.
 */
import { Cell, compareExchange, load, retire, type Steps } from "../engine/index.ts";
import { mremap, munmap } from "../kernel/index.ts";
import { kvmGetDirtyLog } from "../kvm/dirty-log.ts";
import { KVM_MEM_LOG_DIRTY_PAGES, type KvmMemorySlot } from "../kvm/memslots.ts";
import { rmapEntries, spteAt } from "../kvm/shadow/rmap.ts";
import { gfnToRmap } from "../kvm/shadow/slot-arch.ts";
import { kvmMmuSyncRoots } from "../kvm/shadow/sync.ts";
import { isWritablePte } from "../kvm/spte.ts";
import {
  KVM_VCPU_FLUSH_TLB,
  KVM_VCPU_PREEMPTED,
  kvmStealTimeSetPreempted,
  STEAL_TIME_PREEMPTED,
} from "../kvm/steal-time.ts";
import { kvmArchVcpuIoctlRun, type Vcpu } from "../kvm/vcpu.ts";
import { gfn, gpa, PAGE_SIZE, pfnToHpa } from "../machine/index.ts";
import { isLogged } from "../oracle/dirty-log.ts";
import { type BugScenario, bugStudy, onShadow } from "./bug-cells.ts";
import {
  changeEntry,
  DATA_PAGE,
  DIRECTORY_PAGE,
  editDirectly,
  invlpg,
  mapData,
  mapDataDirectly,
  NEW,
  OLD,
  readFault,
  readPage,
  type ShadowScene,
  sees,
  shadowHostPage,
  TABLE,
  TABLE_PAGE,
  touchAll,
  writeFault,
  writePage,
} from "./shadow-guest-scene.ts";
import { unmapTable } from "./shadow-sync.ts";

const read = readPage(DATA_PAGE);
const tables = [readPage(TABLE_PAGE), readPage(DIRECTORY_PAGE)];

const fetchLog = ({ vm }: ShadowScene): Steps<unknown> => kvmGetDirtyLog(vm, 0);
const syncRoots = (vcpu: Vcpu): Steps<void> => kvmMmuSyncRoots(vcpu, vcpu.vm.shadow as ShadowScene["shadow"]);

// --- one entry, two frames -------------------------------------------------------------------------------------------

const slotOf = ({ vm }: ShadowScene): KvmMemorySlot => vm.kvm.memslots.byId(0) as KvmMemorySlot;

/**
 * The host moves the page to where another frame of the guest is; the guest, whose table is unsync, makes that page 8, and its other vCPU reads it; the log is
 * fetched. The entry is as it was, and is of the other frame.
 */
function* moveAndFetch(scene: ShadowScene): Steps<void> {
  yield* mremap(scene.mm, shadowHostPage(OLD), PAGE_SIZE, shadowHostPage(NEW));
  yield* changeEntry(scene, [TABLE, DATA_PAGE, NEW]);
  yield* readFault(DATA_PAGE)(scene.vm.vcpus[1] as Vcpu);
  yield* fetchLog(scene);
}

/** Where the guest may write, its writes must be in the next log. */
function writableIsLogged(scene: ShadowScene): string | null {
  const { world, vm } = scene;
  const slot = slotOf(scene);
  const head = gfnToRmap(world, slot, gfn(NEW), 1).peek();
  const isWritable = rmapEntries(world, head).some((addr) => isWritablePte(spteAt(world, addr).peek()));
  return isWritable && !isLogged(vm, slot, NEW) ? `frame ${NEW} may be written, and is in no log` : null;
}

// --- flushes that are asked for --------------------------------------------------------------------------------------

const STEAL_TIME = gpa(0x40);

/** A vCPU that the scheduler takes the CPU from, and gives it back. */
function* outAndBack(vcpu: Vcpu): Steps<void> {
  yield* kvmStealTimeSetPreempted(vcpu);
  yield* kvmArchVcpuIoctlRun(vcpu, [read]);
}

/**
 * kvm_flush_tlb_multi() of the guest, on vcpu1's CPU, for vcpu0: page 8 is another frame by now. The old one is nobody's after that. A vCPU that has a CPU
 * gets an interrupt, which is nothing of KVM's.
 */
function* askForFlush({ world, mm }: ShadowScene): Steps<void> {
  const frame = mm.frameAt(shadowHostPage(0));
  const old = mm.frameAt(shadowHostPage(OLD));
  if (frame === null || old === null) return;
  const preempted = new Cell<number>(world, frame * PAGE_SIZE + STEAL_TIME + STEAL_TIME_PREEMPTED, 1, false);
  const state = yield* load(preempted, "guest: preempted?");
  if ((state & KVM_VCPU_PREEMPTED) === 0) return;
  const asked = yield* compareExchange(preempted, state, state | KVM_VCPU_FLUSH_TLB, "guest: ask for a flush");
  if (asked === state) yield* retire(world, pfnToHpa(old), "the guest has flushed it", "isolation");
}

const SCENARIOS: readonly BugScenario[] = [
  {
    // vcpu0, without paging, writes to what is a table of vcpu1's, by a translation that it has.
    ...onShadow("log", {
      flags: KVM_MEM_LOG_DIRTY_PAGES,
      guests: [
        { warm: [editDirectly(TABLE)], direct: true, keepsTlb: true, inGuest: [mapDataDirectly] },
        { warm: [], handles: readFault(DATA_PAGE) },
      ],
      threads: { vmm: fetchLog },
    }),
    property: "final",
    models: ["sc", "tso"],
    because: "the entry is still MMU-writable, so TLBs may have it writable: they are flushed before the table is read",
    without: {
      "dirty-log-flush-after-unlock": {
        because: "the log has taken W and not flushed yet; a table is read, and then written by an old translation",
      },
    },
  },
  {
    ...onShadow("sync", {
      guests: [
        { warm: [read], keepsTlb: true, inGuest: [read] },
        { warm: [...touchAll, mapData(NEW)], handles: syncRoots },
      ],
      unmapped: [OLD],
      prepare: unmapTable,
      threads: { munmap: ({ mm }) => munmap(mm, shadowHostPage(OLD), shadowHostPage(OLD + 1)) },
    }),
    property: "isolation",
    models: ["sc", "tso"],
    because: "what was dropped is flushed before mmu_lock is: the host that unmaps it finds no reverse map",
    without: {
      "sync-drops-spte-without-flush": {
        because: "one vCPU brings the table in step, another has the old page cached; the host finds it unmapped",
      },
    },
  },
  {
    ...onShadow("stale", {
      guests: [
        { warm: tables, handles: readFault(DATA_PAGE) },
        { warm: tables, runs: [[mapData(NEW), invlpg(DATA_PAGE), read]] },
      ],
      check: sees(1, NEW),
    }),
    property: "final",
    models: ["sc", "tso"],
    because: "under mmu_lock, with the table protected or unsync, the guest's entry is read again at each level",
    without: {
      "shadow-entry-from-stale-gpte": {
        because:
          "the table has a shadow page since long, so the entry that was read before the guest changed it is used",
      },
    },
  },
  {
    ...onShadow("moved", {
      flags: KVM_MEM_LOG_DIRTY_PAGES,
      guests: [
        { warm: [...touchAll, writePage(DATA_PAGE, OLD), mapData(OLD)], handles: writeFault(DATA_PAGE) },
        { warm: touchAll },
      ],
      unmapped: [OLD, NEW],
      prepare: fetchLog,
      threads: { vmm: moveAndFetch },
      check: writableIsLogged,
    }),
    property: "final",
    models: ["sc"],
    because: "the entry of a table that the guest can change is mended under mmu_lock only",
    without: {
      "fast-fault-aba-indirect": {
        because:
          "the entry is what it was, and maps the other frame: W comes back, and the first frame is marked dirty",
      },
    },
  },
  {
    ...onShadow("preempted", {
      guests: [{ warm: [read], keepsTlb: true, handles: outAndBack }, { warm: [...touchAll, mapData(NEW)] }],
      unmapped: [OLD],
      *prepare({ vm }) {
        (vm.vcpus[0] as Vcpu).stealTime = STEAL_TIME;
      },
      threads: { flush: askForFlush },
    }),
    property: "isolation",
    models: ["sc", "tso"],
    because: "the byte is exchanged: what was asked until then is done, and who asks later finds that the vCPU runs",
    without: {
      "pv-tlb-flush-flag-lost": {
        because:
          "the flush is asked for between the reading and the writing; the vCPU goes on with its old translation",
      },
    },
  },
];

export default bugStudy({
  id: "bugs-translation",
  title: "Old translations of the guest's: found without the fixes, absent with them?",
  scenarios: SCENARIOS,
});
