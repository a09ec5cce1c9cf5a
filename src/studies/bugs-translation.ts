/**
 * bugs-translation: guests that saw by old translations what they had changed, or what was no longer theirs.
 *
 * Tasks: vcpu0 and vcpu1 run guests of one address space (shadow-guest-scene.ts), or only the handler of an exit; vmm fetches the dirty log, munmap takes
 * a page away; irq0 and irq1 are interrupt handlers.
 */
import type { Steps } from "../engine/index.ts";
import { munmap } from "../kernel/index.ts";
import { kvmGetDirtyLog } from "../kvm/dirty-log.ts";
import { KVM_MEM_LOG_DIRTY_PAGES } from "../kvm/memslots.ts";
import { kvmMmuSyncRoots } from "../kvm/shadow/sync.ts";
import type { Vcpu } from "../kvm/vcpu.ts";
import { type BugScenario, bugStudy, onShadow } from "./bug-cells.ts";
import {
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
} from "./shadow-guest-scene.ts";
import { unmapTable } from "./shadow-sync.ts";

const read = readPage(DATA_PAGE);
const tables = [readPage(TABLE_PAGE), readPage(DIRECTORY_PAGE)];

const fetchLog = ({ vm }: ShadowScene): Steps<unknown> => kvmGetDirtyLog(vm, 0);
const syncRoots = (vcpu: Vcpu): Steps<void> => kvmMmuSyncRoots(vcpu, vcpu.vm.shadow as ShadowScene["shadow"]);

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
];

export default bugStudy({
  id: "bugs-translation",
  title: "Old translations of the guest's: found without the fixes, absent with them?",
  scenarios: SCENARIOS,
});
