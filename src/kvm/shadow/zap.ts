/**
 * Shadow pages go away in two steps: prepare unlinks a page from everything, commit flushes and frees.
 *
 *     prepare    the unsync pages below it, too; its entries: leaves are dropped, children lose a parent; its parents' entries are cleared;
 *                writes to its table need no attention any more; it is on the list of the zap and invalid
 *     commit     flush: no vCPU has it in its TLB, and no lockless walk that has begun is still in it; then it is freed
 *
 * A root that a vCPU has is prepared and stays, invalid, until the vCPU lets it go. Stands for __kvm_mmu_prepare_zap_page(),
 * kvm_mmu_commit_zap_page(), kvm_mmu_zap_oldest_mmu_pages(), kvm_zap_obsolete_pages(), kvm_mmu_zap_all() of 6.12 and 7.2.
 */
import { assertThat, loadEntry, type Steps, store } from "../../engine/index.ts";
import {
  assertHeldWrite,
  listAdd,
  listDel,
  listEntries,
  listEntriesReverse,
  mutexLock,
  mutexUnlock,
  writeLock,
  writeUnlock,
} from "../../kernel/index.ts";
import { gfn, PG_LEVEL_4K } from "../../machine/index.ts";
import type { KvmMemorySlot } from "../memslots.ts";
import { isMmioSpte } from "../mmio-spte.ts";
import { KVM_REQ_MMU_FREE_OBSOLETE_ROOTS, kvmFlushRemoteTlbs, kvmMakeAllCpusRequest } from "../requests.ts";
import { needsResched, yieldWriteLock } from "../resched.ts";
import { isLastSpte, isShadowPresentPte, spteToPfn } from "../spte.ts";
import { freeShadowPages } from "./free-designs.ts";
import { unaccountShadowNxHugePage } from "./nx-pages.ts";
import { hashLinkOf, linkOf, type ShadowPage, shadowSpText, spHasGptes, spLevel, spteOf } from "./page.ts";
import { pteListRemove, rmapTakeAll } from "./rmap.ts";
import type { ShadowMmu } from "./shadow-mmu.ts";
import { dropSpte, mmuSpteClearNoTrack, type Sptep } from "./spte-change.ts";
import { kvmUnlinkUnsyncPage, mmuPagesClearParents, mmuUnsyncWalk } from "./unsync.ts";
import { unsyncPagesIn } from "./unsync-walk.ts";
import { unaccountShadowed } from "./write-track.ts";

/** Pages that are unlinked and not yet freed. */
export type InvalidList = ShadowPage[];

// --- entries ---------------------------------------------------------------------------------------------------------

/** drop_parent_pte(): the entry no longer links the child. */
export function* dropParentPte(shadow: ShadowMmu, child: ShadowPage, sptep: Sptep): Steps<void> {
  yield* pteListRemove(shadow.world, child.parent_ptes, shadow.parentRmaps, sptep);
  yield* mmuSpteClearNoTrack(shadow, sptep);
}

/**
 * mmu_page_zap_pte(): the entry, whatever it is, becomes non-present. A child that loses its last parent stays, for when the guest uses the table
 * again. (One of a nested guest would go, too; there are none here.)
 */
export function* mmuPageZapPte(shadow: ShadowMmu, sp: ShadowPage, sptep: Sptep): Steps<void> {
  const spte = yield* loadEntry(shadow.world, sptep);
  if (isShadowPresentPte(spte)) {
    if (isLastSpte(spte, spLevel(sp))) yield* dropSpte(shadow, sptep);
    else yield* dropParentPte(shadow, shadow.pages.ofFrame(spteToPfn(spte)), sptep);
  } else if (isMmioSpte(shadow.layout, spte)) {
    yield* mmuSpteClearNoTrack(shadow, sptep);
  }
}

// --- pages -----------------------------------------------------------------------------------------------------------

/** What a zap has done. */
export interface Zapped {
  /** Pages that were unlinked: this one, unless it is a root in use, and unsync ones below it. */
  readonly pages: number;
  /** Others than this page have left active_mmu_pages: a walk of that list must begin again. */
  readonly listUnstable: boolean;
}

/** __kvm_mmu_prepare_zap_page() */
export function* prepareZapPage(shadow: ShadowMmu, sp: ShadowPage, list: InvalidList): Steps<Zapped> {
  assertHeldWrite(shadow.kvm.mmuLock);
  if (shadow.world.tracepoints) shadow.emit({ name: "kvm_mmu_prepare_zap_page", sp: shadowSpText(sp) });
  shadow.count("mmu_shadow_zapped", 1);
  let pages = yield* mmuZapUnsyncChildren(shadow, sp, list);
  for (let i = 0; i < shadow.entriesEnd; i++) yield* mmuPageZapPte(shadow, sp, spteOf(sp, i));
  yield* unlinkParents(shadow, sp);
  const listUnstable = pages > 0;
  const wasInvalid = shadow.isInvalid(sp);
  if (!wasInvalid && spHasGptes(sp)) yield* unaccountShadowed(shadow, sp);
  if (sp.unsync.value !== 0) yield* kvmUnlinkUnsyncPage(shadow, sp);
  let zappedRoot = false;
  // A root that was zapped before is on no list.
  listDel(shadow.world, linkOf(sp));
  if (sp.root_count.value === 0) {
    pages++;
    list.push(sp);
    unaccountMmuPage(shadow);
  } else {
    zappedRoot = !shadow.isObsolete(sp);
  }
  if (sp.nx_huge_page_disallowed.value !== 0) unaccountShadowNxHugePage(shadow, sp);
  // Marked, since is_obsolete_root() looks without mmu_lock; in Linux neither is.
  yield* store(sp.role, (sp.role.value | shadow.roles.invalid) >>> 0);
  // After it is invalid: who takes the request must find it so.
  if (zappedRoot) yield* kvmMakeAllCpusRequest(shadow.vm, KVM_REQ_MMU_FREE_OBSOLETE_ROOTS);
  return { pages, listUnstable };
}

/** mmu_zap_unsync_children(): nobody would synchronise them any more through this page. */
function* mmuZapUnsyncChildren(shadow: ShadowMmu, parent: ShadowPage, list: InvalidList): Steps<number> {
  if (spLevel(parent) === PG_LEVEL_4K) return 0;
  let zapped = 0;
  for (;;) {
    const walk = yield* mmuUnsyncWalk(shadow, parent);
    if (walk === null) return zapped;
    for (const { sp, parents } of unsyncPagesIn(walk)) {
      yield* prepareZapPage(shadow, sp, list);
      yield* mmuPagesClearParents(parents);
      zapped++;
    }
  }
}

/** kvm_mmu_unlink_parents() */
function* unlinkParents(shadow: ShadowMmu, sp: ShadowPage): Steps<void> {
  for (const addr of yield* rmapTakeAll(shadow.world, sp.parent_ptes, shadow.parentRmaps)) {
    yield* mmuSpteClearNoTrack(shadow, addr);
  }
}

/** kvm_mmu_commit_zap_page() */
export function* commitZapPage(shadow: ShadowMmu, list: InvalidList): Steps<void> {
  if (list.length === 0) return;
  // Also waits for lockless walks: whoever is in one has interrupts off.
  yield* kvmFlushRemoteTlbs(shadow.vm);
  const pages = list.splice(0);
  for (const sp of pages) listDel(shadow.world, hashLinkOf(sp));
  yield* freeShadowPages(shadow, pages);
}

/** kvm_mmu_remote_flush_or_zap() */
export function* remoteFlushOrZap(shadow: ShadowMmu, list: InvalidList, flush: boolean): Steps<void> {
  if (list.length > 0) yield* commitZapPage(shadow, list);
  else if (flush) yield* kvmFlushRemoteTlbs(shadow.vm);
}

// --- how many there may be -------------------------------------------------------------------------------------------

export function accountMmuPage(shadow: ShadowMmu): void {
  shadow.nUsedMmuPages.value += 1;
  if (shadow.kernel === "7.2") shadow.count("mmu_shadow_pages", 1);
}

function unaccountMmuPage(shadow: ShadowMmu): void {
  shadow.nUsedMmuPages.value -= 1;
  if (shadow.kernel === "7.2") shadow.count("mmu_shadow_pages", -1);
}

const KVM_MIN_FREE_MMU_PAGES = 5;
const KVM_REFILL_PAGES = 25;

/** kvm->arch.n_max_mmu_pages; it is worked out when it is first needed, for the slots that a VM is made with. */
function maxMmuPages(shadow: ShadowMmu): number {
  if (shadow.nMaxMmuPages.value === 0) shadow.nMaxMmuPages.value = defaultMmuPages(shadow);
  return shadow.nMaxMmuPages.value;
}

const MEMSLOT_PAGES_TO_MMU_PAGES_RATIO = 50;
const KVM_MIN_ALLOC_MMU_PAGES = 64;

/** One shadow page for each fifty pages of the guest's memory. */
function defaultMmuPages(shadow: ShadowMmu): number {
  const { memslots } = shadow.kvm;
  const slots = memslots.slotsOf(memslots.setAt(memslots.active.value));
  const pages = slots.reduce((sum, slot) => sum + slot.npages.value, 0);
  return Math.max(KVM_MIN_ALLOC_MMU_PAGES, Math.floor(pages / MEMSLOT_PAGES_TO_MMU_PAGES_RATIO));
}

function availableMmuPages(shadow: ShadowMmu): number {
  return Math.max(0, maxMmuPages(shadow) - shadow.nUsedMmuPages.value);
}

/** make_mmu_pages_available(): false when there is no room even so (-ENOSPC). */
export function* makeMmuPagesAvailable(shadow: ShadowMmu): Steps<boolean> {
  const available = availableMmuPages(shadow);
  if (available >= KVM_MIN_FREE_MMU_PAGES) return true;
  yield* zapOldestMmuPages(shadow, KVM_REFILL_PAGES - available);
  return availableMmuPages(shadow) > 0;
}

/** kvm_mmu_zap_oldest_mmu_pages(): the pages made first, but for roots in use. */
function* zapOldestMmuPages(shadow: ShadowMmu, wanted: number): Steps<void> {
  const list: InvalidList = [];
  let zapped = 0;
  for (let again = true; again; ) {
    again = false;
    for (const link of listEntriesReverse(shadow.world, shadow.activeMmuPages)) {
      const sp = shadow.pages.ofLink(link);
      if (sp.root_count.value !== 0) continue;
      const { pages, listUnstable } = yield* prepareZapPage(shadow, sp, list);
      zapped += pages;
      if (zapped >= wanted) break;
      again = listUnstable;
      if (again) break;
    }
  }
  yield* commitZapPage(shadow, list);
  shadow.count("mmu_recycled", zapped);
}

/** kvm_mmu_change_mmu_pages() */
function* changeMmuPages(shadow: ShadowMmu, goal: number): Steps<void> {
  yield* writeLock(shadow.kvm.mmuLock);
  const used = shadow.nUsedMmuPages.value;
  let limit = goal;
  if (used > goal) {
    yield* zapOldestMmuPages(shadow, used - goal);
    limit = shadow.nUsedMmuPages.value;
  }
  shadow.nMaxMmuPages.value = limit;
  yield* writeUnlock(shadow.kvm.mmuLock);
}

/** KVM_SET_NR_MMU_PAGES: false (-EINVAL) for too few. */
export function* kvmVmIoctlSetNrMmuPages(shadow: ShadowMmu, pages: number): Steps<boolean> {
  if (pages < KVM_MIN_ALLOC_MMU_PAGES) return false;
  const { slotsLock } = shadow.kvm.memslots;
  yield* mutexLock(slotsLock);
  yield* changeMmuPages(shadow, pages);
  shadow.nRequestedMmuPages.value = pages;
  yield* mutexUnlock(slotsLock);
  return true;
}

/** kvm_arch_commit_memory_region(): the guest's memory has grown or shrunk, and with it the number of shadow pages, unless the VMM has set it. */
export function* adjustMmuPages(shadow: ShadowMmu): Steps<void> {
  if (shadow.nRequestedMmuPages.value === 0) yield* changeMmuPages(shadow, defaultMmuPages(shadow));
}

// --- all of them -----------------------------------------------------------------------------------------------------

/**
 * kvm_zap_obsolete_pages(): from the oldest on, up to the first page of the new generation. After every ten pages others may have the lock; what is unlinked
 * by then is found by nobody, and is not flushed yet: no vCPU is in the guest with a root of the old generation.
 */
export function* zapObsoletePages(shadow: ShadowMmu): Steps<void> {
  const { kvm } = shadow;
  const list: InvalidList = [];
  let batch = 0;
  let sinceLook = 0;
  for (let again = true; again; ) {
    again = false;
    for (const link of listEntriesReverse(shadow.world, shadow.activeMmuPages)) {
      const sp = shadow.pages.ofLink(link);
      if (!shadow.isObsolete(sp)) break;
      if (kvm.variants.yields && batch >= kvm.variants.zapBatch) {
        sinceLook = 0;
        if (yield* needsResched(kvm)) {
          yield* yieldWriteLock(kvm);
          batch = 0;
          again = true;
          break;
        }
      }
      const isOverdue = kvm.variants.yields && sinceLook >= kvm.variants.zapBatch;
      assertThat(
        !isOverdue,
        `${sinceLook} shadow pages are zapped without a look at who waits for mmu_lock`,
        "lock-hold",
      );
      const { pages, listUnstable } = yield* prepareZapPage(shadow, sp, list);
      if (listUnstable || !kvm.lacks("zap-batch-not-counted")) batch += pages;
      sinceLook += pages;
      again = listUnstable;
      if (again) break;
    }
  }
  yield* commitZapPage(shadow, list);
}

/**
 * kvm_mmu_zap_memslot_pages_and_flush(): what shadows tables in the slot goes, since the counts of that are the slot's and go with it.
 * @param flush something else was zapped, and is not flushed yet
 */
export function* kvmMmuZapMemslotPagesAndFlush(shadow: ShadowMmu, slot: KvmMemorySlot, flush: boolean): Steps<void> {
  const { kvm } = shadow;
  const first = slot.base_gfn.value;
  const list: InvalidList = [];
  let pending = flush;
  for (let n = 0; n < slot.npages.value; n++) {
    for (const sp of shadow.validPagesOf(gfn(first + n))) yield* prepareZapPage(shadow, sp, list);
    if (!kvm.variants.yields || !(yield* needsResched(kvm))) continue;
    yield* remoteFlushOrZap(shadow, list, pending);
    pending = false;
    yield* yieldWriteLock(kvm);
  }
  yield* remoteFlushOrZap(shadow, list, pending);
}

/** kvm_mmu_zap_all(), its shadow pages: the VM goes away. Newest first. */
export function* zapAllShadowPages(shadow: ShadowMmu): Steps<void> {
  const list: InvalidList = [];
  for (let again = true; again; ) {
    again = false;
    for (const link of listEntries(shadow.world, shadow.activeMmuPages)) {
      again = (yield* prepareZapPage(shadow, shadow.pages.ofLink(link), list)).listUnstable;
      if (again) break;
    }
  }
  yield* commitZapPage(shadow, list);
}

/** list_add() of a page that was made. */
export function addActivePage(shadow: ShadowMmu, sp: ShadowPage): void {
  listAdd(shadow.world, linkOf(sp), shadow.activeMmuPages);
  listAdd(shadow.world, hashLinkOf(sp), shadow.bucketOf(sp.gfn.value as Parameters<typeof shadow.bucketOf>[0]));
}
