/**
 * shadow-write: a vCPU writes to a page table while another walks it. Does the walk's result stand?
 *
 * Upper tables are write-tracked: a write to one faults, and KVM carries it out and zaps the entry. Last-level tables are write-protected until they
 * become unsync. A fault walks the guest's tables without any lock, and builds on what it has read:
 *
 *     the fault, mmu_lock for write                     the writer
 *     f1  indirect_shadow_pages++                       w1  the entry, in guest memory
 *     f2  full barrier                                  w2  full barrier
 *     f3  W goes from the table's frame; flush          w3  indirect_shadow_pages == 0? then nobody shadows it
 *     f4  gpte_changed(): the entry is read again       w4  mmu_lock: the shadow entry is zapped
 *
 * A write that comes before f3 is seen by f4; one that comes after it faults. And a write that is being carried out, which no protection stops, either
 * finds the page counted, or its value is seen by f4.
 *
 * Three writes to an upper table without a walk through it in between are a flood: hardly a page table any more. Its shadow pages are zapped, and freed,
 * while other vCPUs and their walkers are in them.
 *
 * Tasks: vcpu0 and vcpu1 share the guest's memory; one of them may be without paging, so that it needs no table. Some of them only run the handler of
 * an exit. irq0 and irq1 are interrupt handlers.
 */
import {
  DATA_PAGE,
  DIRECTORY,
  DIRECTORY_PAGE,
  editDirectly,
  emulates,
  invlpg,
  mapDataDirectly,
  NEW,
  readFault,
  readPage,
  replaceTable,
  replaceTableDirectly,
  type ShadowSceneOptions,
  sees,
  shadowScenes,
  TABLE,
  TABLE_PAGE,
  touchAll,
  writeFault,
  zapAllFast,
} from "./shadow-guest-scene.ts";
import { cellsOf, study } from "./study.ts";

const read = readPage(DATA_PAGE);
const tables = [readPage(TABLE_PAGE), readPage(DIRECTORY_PAGE)];

const edit = editDirectly(DIRECTORY);
const flooding = { warm: [edit, edit], direct: true, handles: emulates(edit) } as const;

const SCENES: Readonly<Record<string, ShadowSceneOptions>> = {
  replace: {
    guests: [
      { warm: tables, runs: [[replaceTable, invlpg(DATA_PAGE), read]] },
      { warm: tables, handles: readFault(DATA_PAGE) },
    ],
    check: sees(0, NEW),
  },
  "replace-handled": {
    guests: [
      { warm: tables, handles: emulates(replaceTable) },
      { warm: tables, handles: readFault(DATA_PAGE) },
    ],
  },
  "table-first": {
    guests: [
      { warm: [editDirectly(TABLE)], direct: true, keepsTlb: true, inGuest: [mapDataDirectly] },
      { warm: [], handles: readFault(DATA_PAGE) },
    ],
  },
  "directory-first": {
    guests: [
      { warm: [editDirectly(DIRECTORY)], direct: true, keepsTlb: true, inGuest: [replaceTableDirectly] },
      { warm: [], handles: readFault(DATA_PAGE) },
    ],
  },
  "pages-first": {
    guests: [
      { warm: [], direct: true, handles: emulates(replaceTableDirectly) },
      { warm: [], runs: [[read]] },
    ],
    prepare: zapAllFast,
  },
  flood: {
    guests: [{ warm: touchAll, inGuest: [read] }, flooding],
  },
  "flood-walk": {
    guests: [{ warm: touchAll, handles: writeFault(DIRECTORY_PAGE) }, flooding],
  },
  "flood-fetch": {
    guests: [{ warm: tables, handles: readFault(DATA_PAGE) }, flooding],
  },
};

export default study({
  id: "shadow-write",
  title: "Does a fault stand up to another vCPU's writes to the tables that it walks?",
  source:
    "arch/x86/kvm/mmu/mmu.c and paging_tmpl.h of Linux 7.2: kvm_mmu_track_write(), FNAME(fetch), account_shadowed(), detect_write_flooding()",
  variants: { "7.2": "Linux 7.2: protect and count first, read again second; zap what was written" },
  cells: cellsOf({ variant: "7.2", program: shadowScenes(SCENES) }, [
    ["replace", "final", "what the fault links before the zap is zapped; what it would link after it is found changed"],
    ["replace-handled", "final", "the same, of the two handlers alone"],
    [
      "table-first",
      "final",
      "a write by a cached translation is over when the flush is, and the entry is read after that",
    ],
    ["directory-first", "final", "the same for a table that stays protected"],
    [
      "pages-first",
      "final",
      "the frame was shadowed when the write faulted, and is not when it is carried out: between the write and the look there is a full barrier, " +
        "without which it waits in the store buffer while a page is made from what was there before",
    ],
    ["flood", "use-after-free", "the flush waits until the vCPU has left the guest, and its walker the page"],
    [
      "flood-walk",
      "use-after-free",
      "the flush waits for a walk that has begun; one that begins later does not find the page",
    ],
    ["flood-fetch", "final", "under mmu_lock the fault looks for the page anew"],
  ]),
});
