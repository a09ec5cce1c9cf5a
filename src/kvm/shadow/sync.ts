/**
 * Bringing shadow pages back in step with the guest's tables.
 *
 *     sync_spte           one entry: the guest's entry is read again; gone, or another frame: drop it; other rights: make it anew
 *     kvm_sync_page       all entries of a page
 *     mmu_sync_children   all unsync pages below a page: write-protect their tables, flush, then sync each
 *     kvm_mmu_sync_roots  everything below the vCPU's root, when the guest flushes its TLB
 *
 * Write protection comes before the reading: what the guest writes after that faults. Stands for FNAME(sync_spte), __kvm_sync_page(),
 * mmu_sync_children(), kvm_mmu_sync_roots(), is_unsync_root() of 6.12 and 7.2.
 */
import { load, loadEntry, type Steps, sameU64, type U64 } from "../../engine/index.ts";
import { writeLock, writeUnlock } from "../../kernel/index.ts";
import {
  ENTRIES_PER_TABLE,
  type Gpa,
  guestEntryFrame,
  guestEntrySize,
  hasReservedBits,
  isAccessed,
  isPresent,
  PAGE_SIZE,
  PG_LEVEL_4K,
  gfn as toGfn,
} from "../../machine/index.ts";
import {
  calcCpuRole,
  calcShadowRootRole,
  gpteAccess,
  roleQuadrant,
  syncRoleIgnored,
  withoutUndoneBits,
} from "../cpu-role.ts";
import { protectCleanGpte, readGuestAtomic } from "../guest-walk.ts";
import { gfnToMemslot, type KvmMemorySlot } from "../memslots.ts";
import { getMmioSpteGfn, isMmioSpte } from "../mmio-spte.ts";
import { KVM_REQ_MMU_SYNC, kvmMakeRequest } from "../requests.ts";
import { needsResched, yieldWriteLock } from "../resched.ts";
import { isHostWritableSpte, spteToPfn } from "../spte.ts";
import type { Vcpu } from "../vcpu.ts";
import type { RootCells } from "../vcpu-mmu.ts";
import { makeShadowSpte, markShadowMmioSpte } from "./make-spte.ts";
import { type ShadowPage, spteOf } from "./page.ts";
import { kvmShadowMmuFreeRoots } from "./roots.ts";
import type { ShadowMmu } from "./shadow-mmu.ts";
import { dropSpte, kvmMmuSlotGfnWriteProtect, mmuSpteClearNoTrack, mmuSpteUpdate, type Sptep } from "./spte-change.ts";
import { kvmUnlinkUnsyncPage, mmuPagesClearParents, mmuUnsyncWalk } from "./unsync.ts";
import { unsyncPagesIn } from "./unsync-walk.ts";
import { type InvalidList, prepareZapPage, remoteFlushOrZap } from "./zap.ts";

/** What came of an entry or a page: nothing to do, TLBs must be flushed, or it cannot be brought in step. */
export type SyncResult = "same" | "flush" | "failed";

/** FNAME(get_level1_sp_gpa): where the guest's entries of a last-level page begin. */
function level1SpGpa(vcpu: Vcpu, sp: ShadowPage): Gpa {
  const quadrantBytes = ENTRIES_PER_TABLE * guestEntrySize(vcpu.guest.mode);
  return (sp.gfn.value * PAGE_SIZE + roleQuadrant(sp.role.value) * quadrantBytes) as Gpa;
}

/** FNAME(prefetch_invalid_gpte): nothing may be mapped for the entry, so what is mapped goes. */
export function* prefetchInvalidGpte(vcpu: Vcpu, shadow: ShadowMmu, sptep: Sptep, gpte: U64): Steps<boolean> {
  // Only what the guest has accessed: else its A bit would not be set when it does.
  if (isPresent(gpte) && isAccessed(gpte) && !hasReservedBits(vcpu.guest.mode, gpte, PG_LEVEL_4K)) return false;
  yield* dropSpte(shadow, sptep);
  return true;
}

/** FNAME(sync_spte) */
function* syncSpte(vcpu: Vcpu, shadow: ShadowMmu, sp: ShadowPage, index: number): Steps<SyncResult> {
  const { mode } = vcpu.guest;
  const sptep = spteOf(sp, index);
  const gpteGpa = (level1SpGpa(vcpu, sp) + index * guestEntrySize(mode)) as Gpa;
  const gpte = yield* readGuestAtomic(vcpu, gpteGpa, guestEntrySize(mode));
  if (gpte === null) return "failed";
  if (yield* prefetchInvalidGpte(vcpu, shadow, sptep, gpte)) return "flush";
  const frame = toGfn(guestEntryFrame(mode, gpte, PG_LEVEL_4K));
  const rights = (sp.role.value >>> 8) & shadow.bits.all & gpteAccess(shadow.bits, gpte);
  const access = protectCleanGpte(shadow.bits, rights, gpte);
  const spte = yield* loadEntry(shadow.world, sptep);
  if (isMmioSpte(shadow.layout, spte)) {
    if (getMmioSpteGfn(shadow.layout, spte) !== frame) yield* mmuSpteClearNoTrack(shadow, sptep);
    else yield* markShadowMmioSpte(shadow, sptep, frame, access);
    return "same";
  }
  if (frame !== shadow.pages.gfnOf(sp, index)) {
    yield* dropSpte(shadow, sptep);
    return "flush";
  }
  // A and D are set in the guest's entry, so nothing is lost by leaving the entry as it is.
  if (shadow.pages.accessOf(sp, index) === access) return "same";
  shadow.pages.setTranslation(sp, index, frame, access);
  const slot = (yield* gfnToMemslot(shadow.kvm.memslots, frame)) as KvmMemorySlot;
  const made = yield* makeShadowSpte(vcpu, shadow, {
    unmarked: null,
    level: PG_LEVEL_4K,
    slot,
    gfn: frame,
    pfn: spteToPfn(spte),
    access,
    old: spte,
    prefetch: true,
    synchronizing: true,
    hostWritable: isHostWritableSpte(shadow.layout, spte),
  });
  return (yield* mmuSpteUpdate(shadow, sptep, made.spte)) ? "flush" : "same";
}

/** kvm_sync_spte() */
export function* kvmSyncSpte(vcpu: Vcpu, shadow: ShadowMmu, sp: ShadowPage, index: number): Steps<SyncResult> {
  const spte = yield* loadEntry(shadow.world, spteOf(sp, index));
  if (sameU64(spte, shadow.layout.nonPresent)) return "same";
  return yield* syncSpte(vcpu, shadow, sp, index);
}

/** kvm_sync_page(): a page of another mode of paging, or whose table is gone, is zapped. */
export function* kvmSyncPage(vcpu: Vcpu, shadow: ShadowMmu, sp: ShadowPage, list: InvalidList): Steps<SyncResult> {
  const result = yield* syncWholePage(vcpu, shadow, sp);
  if (result === "failed") yield* prepareZapPage(shadow, sp, list);
  return result;
}

function* syncWholePage(vcpu: Vcpu, shadow: ShadowMmu, sp: ShadowPage): Steps<SyncResult> {
  const rootRole = shadowRootRole(vcpu, shadow);
  if (((sp.role.value ^ rootRole) & ~syncRoleIgnored(shadow.roles)) !== 0) return "failed";
  let flush = false;
  for (let i = 0; i < shadow.entriesEnd; i++) {
    const result = yield* kvmSyncSpte(vcpu, shadow, sp, i);
    if (result === "failed") return "failed";
    flush ||= result === "flush";
  }
  return flush ? "flush" : "same";
}

/** mmu->root_role of a vCPU without nested paging. */
export function shadowRootRole(vcpu: Vcpu, shadow: ShadowMmu): number {
  const { kernel, kvm, roles } = shadow;
  const role = calcShadowRootRole(roles, calcCpuRole(kernel, roles, vcpu.guest.mode));
  return kvm.lacksAny ? withoutUndoneBits(roles, role, (fix) => kvm.lacks(fix)) : role;
}

/**
 * mmu_sync_children(): false when somebody waits for mmu_lock and the caller cannot give it away; the vCPU is asked to do the rest before it enters the
 * guest.
 */
export function* mmuSyncChildren(vcpu: Vcpu, shadow: ShadowMmu, parent: ShadowPage, canYield: boolean): Steps<boolean> {
  const list: InvalidList = [];
  let flush = false;
  for (;;) {
    const walk = yield* mmuUnsyncWalk(shadow, parent);
    if (walk === null) break;
    let isProtected = false;
    for (const { sp } of unsyncPagesIn(walk)) {
      const frame = toGfn(sp.gfn.value);
      const slot = yield* gfnToMemslot(shadow.kvm.memslots, frame);
      if (slot !== null && (yield* kvmMmuSlotGfnWriteProtect(shadow, slot, frame, PG_LEVEL_4K))) isProtected = true;
    }
    // The guest's stores to the tables fault from here on; only now are the tables read.
    if (isProtected) {
      yield* remoteFlushOrZap(shadow, list, true);
      flush = false;
    }
    for (const { sp, parents } of unsyncPagesIn(walk)) {
      yield* kvmUnlinkUnsyncPage(shadow, sp);
      if ((yield* kvmSyncPage(vcpu, shadow, sp, list)) === "flush") flush = true;
      yield* mmuPagesClearParents(parents);
    }
    if (!shadow.kvm.variants.yields || !(yield* needsResched(shadow.kvm))) continue;
    yield* remoteFlushOrZap(shadow, list, flush);
    flush = false;
    if (!canYield) {
      yield* kvmMakeRequest(vcpu, KVM_REQ_MMU_SYNC);
      return false;
    }
    yield* yieldWriteLock(shadow.kvm);
  }
  yield* remoteFlushOrZap(shadow, list, flush && !shadow.kvm.lacks("sync-drops-spte-without-flush"));
  return true;
}

/**
 * is_unsync_root(), without mmu_lock. The guest's stores that made something unsync come after the mark, and this load comes after them on the vCPU
 * that stored, so a vCPU that flushes what it has written itself sees it.
 */
function* isUnsyncRoot(root: ShadowPage): Steps<boolean> {
  return (yield* load(root.unsync)) !== 0 || (yield* load(root.unsync_children)) !== 0;
}

/** kvm_mmu_sync_roots() */
export function* kvmMmuSyncRoots(vcpu: Vcpu, shadow: ShadowMmu): Steps<void> {
  const { mmu } = vcpu;
  const hpa = mmu.root.hpa.value;
  if (!vcpu.guest.mode.paging || hpa === 0) return;
  vcpu.clearMmioInfo(null);
  if (!mmu.isPaeRoot(hpa)) {
    const root = shadow.pages.ofRoot(hpa) as ShadowPage;
    if (!(yield* isUnsyncRoot(root))) return;
    yield* writeLock(shadow.kvm.mmuLock);
    yield* mmuSyncChildren(vcpu, shadow, root, true);
    yield* writeUnlock(shadow.kvm.mmuLock);
    return;
  }
  yield* writeLock(shadow.kvm.mmuLock);
  for (let i = 0; i < 4; i++) {
    const entry = mmu.paeRootEntry(i).value;
    if (isPresent(entry)) yield* mmuSyncChildren(vcpu, shadow, shadow.pages.ofFrame(spteToPfn(entry)), true);
  }
  yield* writeUnlock(shadow.kvm.mmuLock);
}

/** kvm_mmu_sync_prev_roots(): kept roots that are out of step are let go, which is as good. */
export function* kvmMmuSyncPrevRoots(vcpu: Vcpu, shadow: ShadowMmu): Steps<void> {
  const unsync: RootCells[] = [];
  for (const root of vcpu.mmu.prevRoots) {
    const sp = shadow.pages.ofRoot(root.hpa.value);
    if (sp !== null && (yield* isUnsyncRoot(sp))) unsync.push(root);
  }
  yield* kvmShadowMmuFreeRoots(vcpu, shadow, unsync);
}
