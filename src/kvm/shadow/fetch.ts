/**
 * Building the way to a page in the shadow tables, under mmu_lock held for write.
 *
 *     fetch        for each table that the guest's walk went through:
 *                    its shadow page is found or made: from here on the guest cannot change the table without KVM knowing
 *                    below it everything is brought in step
 *                    the guest's entry is read again: still what the walk saw? else start over
 *                    link
 *                  from the guest's page down to the size that the host has: direct pages
 *                  the leaf; its neighbours
 *     direct_map   direct pages all the way
 *
 * Protecting the table first and reading its entry second is what makes the result true: a store that comes before the protection is seen by the
 * reading, one that comes after faults. Stands for FNAME(fetch), FNAME(gpte_changed), direct_map() of 6.12 and 7.2.
 */
import { loadEntry, type Steps, sameU64, store, type U64 } from "../../engine/index.ts";
import {
  alignToLevel,
  type Gpa,
  guestEntrySize,
  type Pfn,
  PG_LEVEL_2M,
  PG_LEVEL_4K,
  pagesPerLevel,
} from "../../machine/index.ts";
import { calcCpuRole, guestLevels, PAE_ROOT_LEVEL } from "../cpu-role.ts";
import { type GuestWalk, readGuestAtomic, readGuestWordsAtomic, walkedEntry } from "../guest-walk.ts";
import { kvmMmuHugepageAdjust } from "../huge-page.ts";
import { KVM_PFN_NOSLOT, type KvmPageFault, type RetPf } from "../page-fault.ts";
import { isLargePte, isShadowPresentPte, spteToPfn } from "../spte.ts";
import type { Vcpu } from "../vcpu.ts";
import { getChildSp, linkShadowPage } from "./get-page.ts";
import { adjustBeforeTables, refuseTooLarge } from "./large-designs.ts";
import { accountShadowNxHugePage } from "./nx-pages.ts";
import { spteAt } from "./rmap.ts";
import { mmuSetSpte, PTE_PREFETCH_NUM, ptePrefetch, validateDirectSpte } from "./set-spte.ts";
import type { ShadowMmu } from "./shadow-mmu.ts";
import { mmuSyncChildren } from "./sync.ts";
import { type ShadowWalk, shadowWalkInit, shadowWalkNext } from "./walk.ts";

/** What a re-reading of the guest's last-level entry has seen of the whole group around it. */
interface Reread {
  gptes: readonly U64[] | null;
}

/** FNAME(gpte_changed): is the guest's entry still what the walk saw? */
function* gpteChanged(vcpu: Vcpu, walk: GuestWalk, level: number, reread: Reread): Steps<boolean> {
  const entry = walkedEntry(walk, level);
  const size = guestEntrySize(vcpu.guest.mode);
  if (level > PG_LEVEL_4K) {
    const now = yield* readGuestAtomic(vcpu, entry.gpa, size);
    return now === null || !sameU64(now, entry.pte);
  }
  const group = PTE_PREFETCH_NUM * size;
  const base = entry.gpa - (entry.gpa & (group - 1));
  const gptes = yield* readGuestWordsAtomic(vcpu, base as Gpa, size, PTE_PREFETCH_NUM);
  if (gptes === null) return true;
  reread.gptes = gptes;
  return !sameU64(gptes[(entry.gpa - base) / size] as U64, entry.pte);
}

/** The level that the vCPU's own tables start from; a PAE root is KVM's, and its tables are those of level 2. */
function topLevelOf(vcpu: Vcpu, shadow: ShadowMmu): number {
  const levels = guestLevels(calcCpuRole(shadow.kernel, shadow.roles, vcpu.guest.mode));
  return levels === PAE_ROOT_LEVEL ? PG_LEVEL_2M : levels;
}

/** What a fault is about to map. */
export interface FetchTarget {
  readonly walk: GuestWalk;
  /** The rights of the guest's entry, changed where CR0.WP is clear. */
  readonly access: number;
}

/** FNAME(fetch) */
export function* fetch(vcpu: Vcpu, shadow: ShadowMmu, fault: KvmPageFault, target: FetchTarget): Steps<RetPf> {
  const { walk, access } = target;
  const reread: Reread = { gptes: null };
  if (yield* gpteChanged(vcpu, walk, topLevelOf(vcpu, shadow), reread)) return "retry";
  const it = shadowWalkInit(vcpu, shadow, vcpu.mmu.root.hpa.value, fault.addr);
  if (it === null) return "retry";
  yield* adjustBeforeTables(shadow, fault, walk);
  if (!(yield* fetchIndirect(vcpu, shadow, { it, walk, fault, reread }))) return "retry";
  // The size comes after the tables: making their shadow pages may have forbidden a large one.
  const isLast = shadow.kvm.variants.pageSizing === "after-tables";
  if (isLast && fault.slot !== null) yield* kvmMmuHugepageAdjust(shadow.kvm, fault, fault.slot);
  requested(shadow, fault, access);
  yield* fetchDirect(shadow, it, fault, access);
  const refused = yield* refuseTooLarge(shadow, fault, it.sptep);
  if (refused !== null) return refused;
  const result = yield* setTarget(vcpu, shadow, it, fault, access);
  if (result === "spurious") return result;
  yield* ptePrefetch(vcpu, shadow, it.sptep, reread.gptes);
  return result;
}

interface IndirectFetch {
  readonly it: ShadowWalk;
  readonly walk: GuestWalk;
  readonly fault: KvmPageFault;
  readonly reread: Reread;
}

/** The levels that the guest has tables for; false when one of them has changed. */
function* fetchIndirect(vcpu: Vcpu, shadow: ShadowMmu, { it, walk, fault, reread }: IndirectFetch): Steps<boolean> {
  const { kvm } = shadow;
  const syncs = !kvm.lacks("link-before-sync");
  const rightsOfLast = kvm.lacks("inherited-permissions");
  for (;;) {
    yield* store(it.sp.write_flooding_count, 0);
    if (it.level === walk.level) return true;
    const below = walkedEntry(walk, it.level - 1);
    const { sptep } = it;
    const gfn = below.tableGfn;
    const access = rightsOfLast ? walkedEntry(walk, walk.level).ptAccess : below.ptAccess;
    const sp = yield* getChildSp(vcpu, shadow, { sptep, gfn, direct: false, access });
    // Nothing out of step may come within reach: the guest need not flush what it never had.
    const isBehind = syncs && sp !== null && sp.unsync_children.value !== 0;
    if (isBehind && !(yield* mmuSyncChildren(vcpu, shadow, sp, false))) return false;
    const readsAgain = sp !== null || !shadow.kvm.lacks("shadow-entry-from-stale-gpte");
    if (readsAgain && (yield* gpteChanged(vcpu, walk, it.level - 1, reread))) return false;
    if (sp !== null) yield* linkShadowPage(shadow, sptep, sp);
    if (fault.write && gfn === fault.gfn) fault.writeFaultToShadowPgtable = true;
    if (!shadowWalkNext(shadow, it, yield* loadEntry(shadow.world, sptep))) return false;
  }
}

/** From the guest's page down to the goal: the guest's page is larger than what the host, or KVM's own rules, allow. */
function* fetchDirect(shadow: ShadowMmu, it: ShadowWalk, fault: KvmPageFault, access: number): Steps<void> {
  for (;;) {
    const { sptep, level } = it;
    adjustDisallowedHugepage(shadow, fault, yield* loadEntry(shadow.world, sptep), level);
    if (level === fault.goalLevel) return;
    yield* validateDirectSpte(shadow, sptep, access);
    const gfn = alignToLevel(fault.gfn, level);
    const sp = yield* getChildSp(null, shadow, { sptep, gfn, direct: true, access });
    if (sp !== null) {
      yield* linkShadowPage(shadow, sptep, sp);
      if (fault.hugePageDisallowed) accountShadowNxHugePage(shadow, sp, fault.reqLevel >= level);
    }
    shadowWalkNext(shadow, it, yield* loadEntry(shadow.world, sptep));
  }
}

/** disallowed_hugepage_adjust(), for a page that was split to be executed. */
function adjustDisallowedHugepage(shadow: ShadowMmu, fault: KvmPageFault, spte: U64, level: number): void {
  if (!shadow.nxHugePagesOn() || level === PG_LEVEL_4K || level !== fault.goalLevel) return;
  if (!isShadowPresentPte(spte) || isLargePte(spte)) return;
  const child = shadow.pages.ofFrame(spteToPfn(spte));
  if (child.nx_huge_page_disallowed.value === 0) return;
  const inPage = fault.gfn % pagesPerLevel(level);
  fault.pfn = (fault.pfn + inPage - (inPage % pagesPerLevel(level - 1))) as Pfn;
  fault.goalLevel--;
}

function requested(shadow: ShadowMmu, fault: KvmPageFault, access: number): void {
  if (!shadow.world.tracepoints) return;
  const { gfn, pfn, goalLevel } = fault;
  const exact = pfn === KVM_PFN_NOSLOT ? pfn : pfn + (gfn % pagesPerLevel(goalLevel));
  shadow.emit({ name: "kvm_mmu_spte_requested", gfn, pfn: exact, level: goalLevel, access });
}

function setTarget(vcpu: Vcpu, shadow: ShadowMmu, it: ShadowWalk, fault: KvmPageFault, access: number): Steps<RetPf> {
  return mmuSetSpte(vcpu, shadow, {
    slot: fault.slot,
    sptep: it.sptep,
    access,
    gfn: alignToLevel(fault.gfn, it.level),
    pfn: fault.pfn,
    hostWritable: fault.mapWritable,
    write: fault.write,
    prefetch: fault.prefetch,
  });
}

/** direct_map(): a guest without paging, or nested paging without the TDP MMU. */
export function* directMap(vcpu: Vcpu, shadow: ShadowMmu, fault: KvmPageFault): Steps<RetPf> {
  const access = shadow.bits.all;
  if (fault.slot !== null) yield* kvmMmuHugepageAdjust(shadow.kvm, fault, fault.slot);
  requested(shadow, fault, access);
  const it = shadowWalkInit(vcpu, shadow, vcpu.mmu.root.hpa.value, fault.addr);
  if (it === null) return "retry";
  for (;;) {
    const { sptep, level } = it;
    adjustDisallowedHugepage(shadow, fault, yield* loadEntry(shadow.world, sptep), level);
    if (level === fault.goalLevel) break;
    const gfn = alignToLevel(fault.gfn, level);
    if (!shadow.kvm.variants.largeMakesWay) {
      const spte = spteAt(shadow.world, sptep).value;
      if (isShadowPresentPte(spte) && isLargePte(spte)) return "retry";
    }
    const sp = yield* getChildSp(null, shadow, { sptep, gfn, direct: true, access });
    if (sp !== null) {
      yield* linkShadowPage(shadow, sptep, sp);
      if (fault.hugePageDisallowed) accountShadowNxHugePage(shadow, sp, fault.reqLevel >= level);
    }
    shadowWalkNext(shadow, it, yield* loadEntry(shadow.world, sptep));
  }
  const result = yield* setTarget(vcpu, shadow, it, fault, access);
  if (result === "spurious") return result;
  yield* ptePrefetch(vcpu, shadow, it.sptep, null);
  return result;
}
