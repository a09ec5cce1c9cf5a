/**
 * Unsync pages: shadow pages of last-level tables that the guest writes to directly, until it must be able to see what it wrote.
 *
 *     the guest writes to a shadowed table          the guest flushes: CR3, INVLPG; or the page is used anew
 *       no upper table, all its pages level 4K        write-protect the table's frame; flush
 *       unsync = 1; parents know                      unsync = 0
 *       wmb                                           each entry is compared with the guest's (sync-spte.ts)
 *       the SPTE becomes writable
 *
 *     a page's parents have a bit for each entry below which something is unsync, and the number of those bits; so do theirs, up to the root
 *
 * The write barrier is what lets is_unsync_root() look without mmu_lock: a vCPU that flushes after the guest has written sees unsync, since the guest
 * could write only through the writable SPTE. Stands for mmu_try_to_unsync_pages(), kvm_mmu_mark_parents_unsync(), mmu_unsync_walk() of 6.12 and
 * 7.2.
 */
import { assertThat, load, loadEntry, type Steps, store } from "../../engine/index.ts";
import { spinLock, spinUnlock } from "../../kernel/index.ts";
import { type Gfn, PG_LEVEL_2M, PG_LEVEL_4K } from "../../machine/index.ts";
import { isLpageDisallowed } from "../lpage-info.ts";
import type { KvmMemorySlot } from "../memslots.ts";
import { isLargePte, isShadowPresentPte, spteToPfn } from "../spte.ts";
import { type ShadowPage, shadowSpText, spLevel, spteIndex, spteOf } from "./page.ts";
import { rmapEntries } from "./rmap.ts";
import type { ShadowMmu } from "./shadow-mmu.ts";
import { kvmGfnIsWriteTracked } from "./slot-arch.ts";
import type { Sptep } from "./spte-change.ts";
import type { PathToPage, UnsyncWalk, WalkedPage } from "./unsync-walk.ts";

// --- becoming unsync -------------------------------------------------------------------------------------------------

export interface UnsyncRequest {
  readonly slot: KvmMemorySlot;
  readonly gfn: Gfn;
  /** An entry is made anew while its page is brought up to date: nothing may become unsync by that. */
  readonly synchronizing: boolean;
  /** Nobody has asked for the page yet. */
  readonly prefetch: boolean;
  /** Takes what is to be marked later ({@link KvmVariants.unsyncMark}); null where nothing is. */
  readonly unmarked: ShadowPage[] | null;
}

/** mmu_try_to_unsync_pages(): true when the frame may be mapped writable. */
export function* mmuTryToUnsyncPages(shadow: ShadowMmu, request: UnsyncRequest): Steps<boolean> {
  const { slot, gfn } = request;
  if (yield* kvmGfnIsWriteTracked(shadow, slot, gfn)) return false;
  // Where a huge page is allowed, nothing is shadowed.
  if (shadow.kernel === "7.2" && !isLpageDisallowed(shadow.world, slot, gfn, PG_LEVEL_2M)) return true;
  return yield* tryToUnsyncPagesOf(shadow, request);
}

function* tryToUnsyncPagesOf(shadow: ShadowMmu, request: UnsyncRequest): Steps<boolean> {
  const { gfn, synchronizing, prefetch, unmarked } = request;
  let locked = false;
  for (const sp of shadow.validPagesOf(gfn)) {
    if (synchronizing) return false;
    if ((yield* load(sp.unsync)) !== 0) continue;
    if (prefetch || !shadow.kvm.variants.unsync) return false;
    if (!locked) {
      locked = true;
      yield* spinLock(shadow.mmuUnsyncPagesLock);
      // Another vCPU that holds mmu_lock only for read may have been faster.
      if ((yield* load(sp.unsync)) !== 0) continue;
    }
    assertThat(spLevel(sp) === PG_LEVEL_4K, "an upper table becomes unsync", "unsync-only-last-level");
    if (unmarked !== null) unmarked.push(sp);
    else yield* kvmUnsyncPage(shadow, sp);
  }
  if (locked) yield* spinUnlock(shadow.mmuUnsyncPagesLock);
  // smp_wmb(): unsync is visible before the SPTE is writable. Stores leave an x86 store buffer in order, so nothing is needed.
  return true;
}

/** kvm_unsync_page() */
export function* kvmUnsyncPage(shadow: ShadowMmu, sp: ShadowPage): Steps<void> {
  if (shadow.world.tracepoints) shadow.emit({ name: "kvm_mmu_unsync_page", sp: shadowSpText(sp) });
  shadow.count("mmu_unsync", 1);
  yield* store(sp.unsync, 1);
  yield* markParentsUnsync(shadow, sp);
}

/** kvm_mmu_mark_parents_unsync() */
function* markParentsUnsync(shadow: ShadowMmu, sp: ShadowPage): Steps<void> {
  for (const addr of rmapEntries(shadow.world, sp.parent_ptes.value)) yield* markUnsync(shadow, addr);
}

/** mark_unsync(): something below the entry is unsync. */
export function* markUnsync(shadow: ShadowMmu, sptep: Sptep): Steps<void> {
  const sp = shadow.pages.ofEntry(sptep);
  const index = spteIndex(sptep);
  if (hasUnsyncChild(sp, index)) return;
  setUnsyncChild(sp, index, true);
  const children = sp.unsync_children.value;
  yield* store(sp.unsync_children, children + 1);
  if (children === 0) yield* markParentsUnsync(shadow, sp);
}

function hasUnsyncChild(sp: ShadowPage, index: number): boolean {
  return ((sp.unsync_child_bitmap(index >>> 5).value >>> (index & 31)) & 1) !== 0;
}

function setUnsyncChild(sp: ShadowPage, index: number, set: boolean): void {
  const word = sp.unsync_child_bitmap(index >>> 5);
  const bit = 1 << (index & 31);
  word.value = (set ? word.value | bit : word.value & ~bit) >>> 0;
}

/** clear_unsync_child_bit(). Linux changes the count plainly; is_unsync_root() reads it meanwhile. */
function* clearUnsyncChildBit(sp: ShadowPage, index: number): Steps<void> {
  yield* store(sp.unsync_children, sp.unsync_children.value - 1);
  setUnsyncChild(sp, index, false);
}

/** kvm_unlink_unsync_page() */
export function* kvmUnlinkUnsyncPage(shadow: ShadowMmu, sp: ShadowPage): Steps<void> {
  assertThat(sp.unsync.value !== 0, "a page that is not unsync is synchronised", "unsync-state");
  if (shadow.world.tracepoints) shadow.emit({ name: "kvm_mmu_sync_page", sp: shadowSpText(sp) });
  yield* store(sp.unsync, 0);
  shadow.count("mmu_unsync", -1);
}

// --- finding unsync pages --------------------------------------------------------------------------------------------

const KVM_PAGE_ARRAY_NR = 16;

/** mmu_unsync_walk(): up to sixteen pages; null when nothing below is unsync. */
export function* mmuUnsyncWalk(shadow: ShadowMmu, sp: ShadowPage): Steps<UnsyncWalk | null> {
  if ((yield* load(sp.unsync_children)) === 0) return null;
  const found: WalkedPage[] = [{ sp, index: -1 }];
  const leaves = yield* walkUnsync(shadow, sp, found);
  return leaves === 0 ? null : found;
}

/** Adds a page; true when no more may be added. */
function addPage(found: WalkedPage[], sp: ShadowPage, index: number): boolean {
  const known = sp.unsync.value !== 0 && found.some((each) => each.sp.addr === sp.addr);
  if (known) return false;
  found.push({ sp, index });
  return found.length === KVM_PAGE_ARRAY_NR;
}

/** __mmu_unsync_walk(): how many unsync pages there are below; -1 when the array is full. Bits that lead nowhere are cleared. */
function* walkUnsync(shadow: ShadowMmu, sp: ShadowPage, found: WalkedPage[]): Steps<number> {
  let leaves = 0;
  for (let index = 0; index < shadow.entriesEnd; index++) {
    if (!hasUnsyncChild(sp, index)) continue;
    const spte = yield* loadEntry(shadow.world, spteOf(sp, index));
    if (!isShadowPresentPte(spte) || isLargePte(spte)) {
      yield* clearUnsyncChildBit(sp, index);
      continue;
    }
    const child = shadow.pages.ofFrame(spteToPfn(spte));
    if (child.unsync_children.value > 0) {
      if (addPage(found, child, index)) return -1;
      const below = yield* walkUnsync(shadow, child, found);
      if (below < 0) return below;
      if (below === 0) yield* clearUnsyncChildBit(sp, index);
      leaves += below;
    } else if (child.unsync.value !== 0) {
      leaves++;
      if (addPage(found, child, index)) return -1;
    } else {
      yield* clearUnsyncChildBit(sp, index);
    }
  }
  return leaves;
}

/** mmu_pages_clear_parents(): the page is in step now; parents forget it, up to the first that still has others. */
export function* mmuPagesClearParents(parents: PathToPage): Steps<void> {
  for (const { parent, index } of parents) {
    if (!hasUnsyncChild(parent, index)) return;
    yield* clearUnsyncChildBit(parent, index);
    if (parent.unsync_children.value > 0) return;
  }
}
