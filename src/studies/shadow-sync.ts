/**
 * shadow-sync: does the guest see what it has written to its page tables, once it has flushed?
 *
 * Shadow pages may be out of step with the guest's tables for as long as the guest's TLB might be. A last-level table becomes writable to the guest
 * when its pages have been marked unsync; a MOV to CR3 or INVLPG brings them in step, and MOV to CR3 looks at the mark without mmu_lock.
 *
 *     mmu_try_to_unsync_pages(), another vCPU's fault          the vCPU that writes and flushes
 *     u1  unsync = 1, the parents' counts up to the root       s1  write through the writable SPTE
 *     u2  smp_wmb()                                            s2  exit: full barrier
 *     u3  the SPTE becomes writable                            s3  is_unsync_root(): root->unsync, unsync_children
 *
 * x86 makes u1 visible before u3 without any barrier: what smp_wmb() forbids is that the compiler exchanges them.
 *
 * Being brought in step is a zap of its own kind: the frame leaves the reverse map, so nobody who unmaps it later would find who has it cached. And
 * while it goes on others zap: the host, whoever drops all roots, and in its middle, when mmu_lock is given away to who waits for it.
 *
 * Tasks: vcpu1 writes and flushes; vcpu0 is a vCPU of the same address space, or the handler of its fault alone; munmap takes the old frame away,
 * zap drops all roots; irq0 and irq1 are interrupt handlers.
 */
import type { Steps } from "../engine/index.ts";
import { munmap, writeLock, writeUnlock } from "../kernel/index.ts";
import { kvmMmuInvlpg } from "../kvm/control-registers.ts";
import { kvmFlushRemoteTlbs } from "../kvm/requests.ts";
import { kvmMmuSyncRoots } from "../kvm/shadow/sync.ts";
import type { Vcpu } from "../kvm/vcpu.ts";
import { type Gva, gfn, PAGE_SIZE } from "../machine/index.ts";
import {
  DATA_PAGE,
  invlpg,
  loadCr3,
  mapData,
  NEW,
  OLD,
  readPage,
  type ShadowScene,
  type ShadowSceneOptions,
  sees,
  shadowHostPage,
  shadowScenes,
  TABLE,
  TABLE_PAGE,
  touchAll,
  writeFault,
  zapAllFast,
} from "./shadow-guest-scene.ts";
import { cellsOf, study } from "./study.ts";

const read = readPage(DATA_PAGE);
/** All is mapped, the table write-protected. */
const seen = touchAll;
/** Page 8 is another frame since, and nobody has flushed: the table is unsync. */
const behind = [...touchAll, mapData(NEW)];

const unmapOld = ({ mm }: ShadowScene) => munmap(mm, shadowHostPage(OLD), shadowHostPage(OLD + 1));

/** The table's own mapping is gone, as for NUMA balancing: writing to it would fault. So there is nothing to write-protect, and flush, when it is read. */
export function* unmapTable({ vm }: ShadowScene): Steps<void> {
  yield* writeLock(vm.kvm.mmuLock);
  yield* vm.ops.unmapGfnRange({ start: gfn(TABLE), end: gfn(TABLE + 1) });
  yield* kvmFlushRemoteTlbs(vm);
  yield* writeUnlock(vm.kvm.mmuLock);
}

/** The vCPU's thread carries out what its guest has asked for. */
const syncRoots = (vcpu: Vcpu): Steps<void> => kvmMmuSyncRoots(vcpu, vcpu.vm.shadow as ShadowScene["shadow"]);
const invalidateData = (vcpu: Vcpu): Steps<void> => kvmMmuInvlpg(vcpu, (DATA_PAGE * PAGE_SIZE) as Gva);

/** Another vCPU has the old frame in its TLB, and uses it while the host takes that away. */
const stale = { unmapped: [OLD], threads: { munmap: unmapOld } } as const;
const user = { warm: [read], keepsTlb: true, inGuest: [read] } as const;

const SCENES: Readonly<Record<string, ShadowSceneOptions>> = {
  cr3: {
    guests: [
      { warm: seen, handles: writeFault(TABLE_PAGE) },
      { warm: seen, runs: [[mapData(NEW), loadCr3, read]] },
    ],
    check: sees(1, NEW),
  },
  invlpg: {
    guests: [
      { warm: seen, handles: writeFault(TABLE_PAGE) },
      { warm: seen, runs: [[mapData(NEW), invlpg(DATA_PAGE), read]] },
    ],
    check: sees(1, NEW),
  },
  again: {
    guests: [
      { warm: behind, runs: [[mapData(OLD)]] },
      { warm: seen, runs: [[loadCr3, read]] },
    ],
  },
  "again-handled": {
    guests: [
      { warm: behind, handles: writeFault(TABLE_PAGE) },
      { warm: seen, handles: syncRoots },
    ],
  },
  "cr3-unmap": { guests: [user, { warm: behind, handles: syncRoots }], ...stale, prepare: unmapTable },
  "invlpg-unmap": { guests: [user, { warm: behind, handles: invalidateData }], ...stale },
  zap: { guests: [{ warm: behind, runs: [[loadCr3, read]] }], threads: { zap: zapAllFast }, check: sees(0, NEW) },
  "zap-two": {
    guests: [
      { warm: seen, handles: writeFault(TABLE_PAGE) },
      { warm: behind, handles: syncRoots },
    ],
    threads: { zap: zapAllFast },
  },
};

const YIELDS = { yields: true, zapBatch: 2 } as const;
const UNORDERED = shadowScenes(SCENES, { unsyncMark: "after-writable" });

export default study({
  id: "shadow-sync",
  title: "Does the guest see what it has written to its page tables, once it has flushed?",
  source:
    "arch/x86/kvm/mmu/mmu.c of Linux 7.2: mmu_try_to_unsync_pages(), kvm_mmu_sync_roots(), kvm_mmu_invalidate_addr()",
  variants: {
    "7.2": "Linux 7.2: unsync before writable, brought in step when the guest flushes",
    "7.2-yielding": "the same, and somebody may wait for mmu_lock at any time",
    unordered: "without smp_wmb(), as a compiler may have it: writable first, marked afterwards",
  },
  cells: [
    ...cellsOf({ variant: "7.2", program: shadowScenes(SCENES) }, [
      [
        "cr3",
        "final",
        "who could write by the entry that another has made writable finds the mark that was made before",
      ],
      ["invlpg", "final", "INVLPG looks at the mark under mmu_lock"],
      ["again", "final", "W is taken, and flushed, before the table is read: a later write makes it unsync anew"],
      [
        "cr3-unmap",
        "isolation",
        "what was dropped is flushed before mmu_lock is: the host that unmaps it finds no reverse map",
      ],
      ["invlpg-unmap", "isolation", "the one entry that was dropped is flushed from every TLB"],
      ["zap", "final", "the root that is looked at without mmu_lock is counted, and stays allocated when it is zapped"],
    ]),
    ...cellsOf({ variant: "7.2-yielding", program: shadowScenes(SCENES, YIELDS) }, [
      ["again-handled", "final", "the pages are looked for anew when the lock is back"],
      ["zap-two", "final", "the root is counted, and what is below it is looked for anew"],
      ["cr3-unmap", "isolation", "what was dropped is flushed before the lock is given away"],
    ]),
    ...cellsOf({ variant: "unordered", program: UNORDERED, expected: "fails" }, [
      ["cr3", "final", "the guest writes and flushes between the two, and finds nothing unsync"],
    ]),
    ...cellsOf({ variant: "unordered", program: UNORDERED }, [
      ["invlpg", "final", "both are done before mmu_lock is dropped"],
    ]),
  ],
});
