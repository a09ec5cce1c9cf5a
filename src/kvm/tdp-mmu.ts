/**
 * The TDP MMU: one set of page tables for the guest's physical memory, changed by many vCPUs at once.
 *
 * Faults hold mmu_lock for read and change entries by compare-exchange; zapping holds it for write. Tables are RCU-protected: a walk runs
 * in a read-side section, and a table that is unlinked is freed after a grace period.
 *
 *     an entry:   non-present  -->  table or leaf           by whoever wins the compare-exchange
 *                 leaf         -->  non-present             zap (mmu_lock for write), flush before the lock is dropped
 *                 table        -->  non-present             zap of a root; its entries are zapped too, the table freed by RCU
 *
 * Stands for tdp_mmu.c of 6.12 and 7.2, as far as faults, notifier unmap and teardown go.
 */
import {
  arrayOf,
  assertThat,
  Cell,
  type Cell as CellType,
  compareExchange,
  exchange,
  load,
  ptr,
  type Steps,
  Struct,
  sameU64,
  store,
  type U64,
  UsageError,
  u32,
  type View,
  type World,
} from "../engine/index.ts";
import {
  assertHeld,
  assertHeldRead,
  assertHeldWrite,
  callRcu,
  rcuReadLock,
  rcuReadUnlock,
  SpinLock,
  spinLock,
  spinUnlock,
} from "../kernel/index.ts";
import {
  ENTRIES_PER_TABLE,
  type Gfn,
  gfn,
  type Hpa,
  PAGE_SIZE,
  PG_LEVEL_1G,
  PG_LEVEL_2M,
  PG_LEVEL_4K,
  pagesPerLevel,
} from "../machine/index.ts";
import type { Kvm } from "./kvm.ts";
import { type KvmMmuPage, MmuPages, spFrame, spGfn, spLevel } from "./mmu-page.ts";
import { childRole, type RoleLayout, roleLayout, tdpRootRole } from "./role.ts";
import {
  checkSpteWritableInvariants,
  isFrozenSpte,
  isLastSpte,
  isShadowPresentPte,
  makeNonleafSpte,
  type SpteLayout,
  spteHasVolatileBits,
  spteLayout,
  spteToPfn,
} from "./spte.ts";
import { type TdpIter, tdpIterNext, tdpIterStart } from "./tdp-iter.ts";
import type { KvmEvent, SpText, StatEvent } from "./trace.ts";

/** Guest frames that a 4-level root maps. */
const GFN_END: Gfn = gfn(2 ** 36);
export const TDP_ROOT_LEVEL = 4;

const ROOTS_MAX = 8;
const ROOT_FIELDS = { count: u32, roots: arrayOf(ptr, ROOTS_MAX) };
const ROOTS = new Struct("tdp_mmu_roots", ROOT_FIELDS);

export class TdpMmu {
  readonly kvm: Kvm;
  readonly world: World;
  readonly layout: SpteLayout;
  readonly roles: RoleLayout;
  readonly pages: MmuPages;
  readonly tdpMmuPagesLock: SpinLock;
  /** kvm->arch.tdp_mmu_roots: read under mmu_lock, changed with tdp_mmu_pages_lock as well. */
  readonly roots: View<typeof ROOT_FIELDS>;
  /** The RCU callback that frees a table. */
  readonly freeSpRcuCallback: number;

  constructor(kvm: Kvm) {
    const { world, variants } = kvm;
    this.kvm = kvm;
    this.world = world;
    this.layout = spteLayout(variants.kernel);
    this.roles = roleLayout(variants.kernel);
    this.pages = new MmuPages(world, this.layout);
    this.tdpMmuPagesLock = new SpinLock(world, "kvm->tdp_mmu_pages_lock");
    this.roots = ROOTS.allocate(world, "tdp_mmu_roots");
    this.freeSpRcuCallback = kvm.kernel.rcu.register((addr) => this.pages.free(this.pages.at(addr)));
  }

  emit(event: KvmEvent): void {
    this.world.emit(event);
  }

  count(stat: string, delta: number): void {
    const event: StatEvent = { name: "stat", stat, vcpu: null, delta };
    this.world.emit(event);
  }
}

export function spText(sp: KvmMmuPage): SpText {
  return { gfn: sp.gfn.value, role: sp.role.value, rootCount: sp.tdp_mmu_root_count.value, unsync: false };
}

// --- roots -----------------------------------------------------------------------------------------------------------

/** kvm_tdp_mmu_alloc_root(): the root for this kind of vCPU, with a reference. mmu_lock held for read. */
export function* kvmTdpMmuAllocRoot(tdp: TdpMmu): Steps<KvmMmuPage> {
  assertHeldRead(tdp.kvm.mmuLock);
  const role = tdpRootRole(tdp.roles, TDP_ROOT_LEVEL);
  const found = yield* findRoot(tdp, role);
  if (found !== null) return found;
  yield* spinLock(tdp.tdpMmuPagesLock);
  // Another vCPU may have made the same root while the lock was not held.
  let root = yield* findRoot(tdp, role);
  if (root === null) {
    root = tdp.pages.allocate(role, gfn(0), 0);
    tdp.emit({ name: "kvm_mmu_get_page", sp: spText(root), created: true });
    // One reference for the vCPU, one that the TDP MMU keeps until the root is invalidated.
    root.tdp_mmu_root_count.value = 2;
    const count = yield* load(tdp.roots.count);
    if (count === ROOTS_MAX) throw new UsageError(`more than ${ROOTS_MAX} TDP roots: raise ROOTS_MAX`);
    yield* store(tdp.roots.roots(count), root.addr);
    yield* store(tdp.roots.count, count + 1);
  }
  yield* spinUnlock(tdp.tdpMmuPagesLock);
  return root;
}

/** A valid root of that role, with a reference taken; null when there is none. */
function* findRoot(tdp: TdpMmu, role: number): Steps<KvmMmuPage | null> {
  for (const root of yield* allRoots(tdp)) {
    if (root.role.value === role && (yield* getRoot(root))) return root;
  }
  return null;
}

/** kvm_tdp_mmu_get_root(): false when the last reference is gone. */
function* getRoot(root: KvmMmuPage): Steps<boolean> {
  for (;;) {
    const count = yield* load(root.tdp_mmu_root_count);
    if (count === 0) return false;
    if ((yield* compareExchange(root.tdp_mmu_root_count, count, count + 1)) === count) return true;
  }
}

/** The roots on the list, invalid ones included. mmu_lock held. */
function* allRoots(tdp: TdpMmu): Steps<KvmMmuPage[]> {
  assertHeld(tdp.kvm.mmuLock);
  const count = yield* load(tdp.roots.count);
  const roots: KvmMmuPage[] = [];
  for (let i = 0; i < count; i++) roots.push(tdp.pages.at(yield* load(tdp.roots.roots(i))));
  return roots;
}

function isInvalid(tdp: TdpMmu, root: KvmMmuPage): boolean {
  return (root.role.value & tdp.roles.invalid) !== 0;
}

// --- changing entries ------------------------------------------------------------------------------------------------

/**
 * tdp_mmu_set_spte_atomic(): changes the entry if it is still what the walk has read; false when it is not (the walk then has the new value).
 * mmu_lock held for read.
 */
export function* tdpMmuSetSpteAtomic(tdp: TdpMmu, iter: TdpIter, newSpte: U64): Steps<boolean> {
  assertHeldRead(tdp.kvm.mmuLock);
  assertThat(!iter.yielded && !isFrozenSpte(tdp.layout, iter.oldSpte), "a frozen SPTE is changed", "frozen-spte");
  const { sptep, oldSpte, level } = iter;
  const found = yield* compareExchange(sptep, oldSpte, newSpte);
  if (!sameU64(found, oldSpte)) {
    iter.oldSpte = found;
    return false;
  }
  yield* handleChangedSpte(tdp, { gfn: iter.gfn, level, oldSpte, newSpte, shared: true });
  return true;
}

/** tdp_mmu_iter_set_spte(): mmu_lock held for write. */
export function* tdpMmuIterSetSpte(tdp: TdpMmu, iter: TdpIter, newSpte: U64): Steps<void> {
  assertHeldWrite(tdp.kvm.mmuLock);
  iter.oldSpte = yield* tdpMmuSetSpte(tdp, iter.sptep, iter.gfn, iter.level, iter.oldSpte, newSpte);
}

function* tdpMmuSetSpte(
  tdp: TdpMmu,
  sptep: CellType<U64>,
  base: Gfn,
  level: number,
  old: U64,
  newSpte: U64,
): Steps<U64> {
  const oldSpte = yield* kvmTdpMmuWriteSpte(tdp, sptep, old, newSpte, level);
  yield* handleChangedSpte(tdp, { gfn: base, level, oldSpte, newSpte, shared: false });
  return oldSpte;
}

/** kvm_tdp_mmu_write_spte(): fetches the old value in the same step if anybody may be changing it meanwhile. */
function* kvmTdpMmuWriteSpte(tdp: TdpMmu, sptep: CellType<U64>, old: U64, newSpte: U64, level: number): Steps<U64> {
  const { kernel } = tdp.kvm.variants;
  const isLeaf = isShadowPresentPte(old) && isLastSpte(old, level);
  if (isLeaf && spteHasVolatileBits(tdp.layout, old, kernel)) return yield* exchange(sptep, newSpte);
  yield* store(sptep, newSpte);
  return old;
}

interface ChangedSpte {
  readonly gfn: Gfn;
  readonly level: number;
  readonly oldSpte: U64;
  readonly newSpte: U64;
  /** mmu_lock is held for read, so others may change entries too. */
  readonly shared: boolean;
}

/** handle_changed_spte(): what follows from an entry's change. */
function* handleChangedSpte(tdp: TdpMmu, change: ChangedSpte): Steps<void> {
  const { level, oldSpte, newSpte } = change;
  const wasPresent = isShadowPresentPte(oldSpte);
  const isPresent = isShadowPresentPte(newSpte);
  const wasLeaf = wasPresent && isLastSpte(oldSpte, level);
  const isLeaf = isPresent && isLastSpte(newSpte, level);
  const pfnChanged = spteToPfn(oldSpte) !== spteToPfn(newSpte);
  assertThat(!(wasLeaf && isLeaf && pfnChanged), "a present leaf SPTE changes its frame", "spte-frame-change");
  if (sameU64(oldSpte, newSpte)) return;
  const removesTable = wasPresent && !wasLeaf && (isLeaf || !isPresent || pfnChanged);
  // 7.2 reports a table's removal after its entries', earlier kernels before them.
  const reportLast = removesTable && tdp.kvm.variants.kernel === "7.2";
  if (!reportLast) reportChange(tdp, change);
  if (isLeaf) checkSpteWritableInvariants(tdp.layout, newSpte);
  if (isLeaf !== wasLeaf) tdp.count(pagesStat(level), isLeaf ? 1 : -1);
  if (removesTable) yield* handleRemovedPt(tdp, spteToPfn(oldSpte) * PAGE_SIZE, change.shared);
  if (reportLast) reportChange(tdp, change);
}

function reportChange(tdp: TdpMmu, { gfn: base, level, oldSpte, newSpte }: ChangedSpte): void {
  tdp.emit({ name: "kvm_tdp_mmu_spte_changed", asId: 0, gfn: base, level, oldSpte, newSpte });
}

function pagesStat(level: number): string {
  return level === PG_LEVEL_4K ? "pages_4k" : level === PG_LEVEL_2M ? "pages_2m" : "pages_1g";
}

/**
 * handle_removed_pt(): the entries of a table that has been unlinked go too, and the table is freed after a grace period. With mmu_lock for read
 * each entry is frozen, so that a fault which is still in the table cannot put anything there that nobody would find again.
 */
function* handleRemovedPt(tdp: TdpMmu, table: number, shared: boolean): Steps<void> {
  const sp = tdp.pages.ofEntry(table);
  const level = spLevel(sp);
  tdp.emit({ name: "kvm_mmu_prepare_zap_page", sp: spText(sp) });
  const { frozen } = tdp.layout;
  for (let i = 0; i < ENTRIES_PER_TABLE; i++) {
    const sptep = new Cell<U64>(tdp.world, table + 8 * i, 8, true);
    const base = gfn(spGfn(sp) + i * pagesPerLevel(level));
    let oldSpte: U64;
    if (shared) {
      // Somebody else may have frozen the entry and be about to write it.
      do {
        oldSpte = yield* exchange(sptep, frozen);
      } while (isFrozenSpte(tdp.layout, oldSpte));
    } else {
      oldSpte = yield* load(sptep);
      if (!isShadowPresentPte(oldSpte)) continue;
      oldSpte = yield* kvmTdpMmuWriteSpte(tdp, sptep, oldSpte, frozen, level);
    }
    yield* handleChangedSpte(tdp, { gfn: base, level, oldSpte, newSpte: frozen, shared });
  }
  yield* callRcu(tdp.kvm.kernel.rcu, sp.addr, tdp.freeSpRcuCallback);
}

// --- linking tables --------------------------------------------------------------------------------------------------

/** tdp_mmu_alloc_sp(), tdp_mmu_init_child_sp() */
export function tdpMmuAllocChildSp(tdp: TdpMmu, iter: TdpIter): KvmMmuPage {
  const parent = tdp.pages.ofEntry(iter.sptep.addr);
  const sp = tdp.pages.allocate(childRole(parent.role.value), iter.gfn, iter.sptep.addr);
  tdp.emit({ name: "kvm_mmu_get_page", sp: spText(sp), created: true });
  return sp;
}

/** tdp_mmu_link_sp(), for a fault: false when the entry is no longer what it was. The table's contents were written before it is linked. */
export function* tdpMmuLinkSp(tdp: TdpMmu, iter: TdpIter, sp: KvmMmuPage): Steps<boolean> {
  return yield* tdpMmuSetSpteAtomic(tdp, iter, makeNonleafSpte(tdp.layout, spFrame(sp)));
}

// --- zapping ---------------------------------------------------------------------------------------------------------

/** kvm_tdp_mmu_unmap_gfn_range(): the notifier's zap; true when a TLB flush is needed. mmu_lock held for write. */
export function* kvmTdpMmuUnmapGfnRange(tdp: TdpMmu, start: Gfn, end: Gfn): Steps<boolean> {
  let flush = false;
  for (const root of yield* allRoots(tdp)) {
    if (yield* tdpMmuZapLeafs(tdp, root, start, end)) flush = true;
  }
  return flush;
}

/** tdp_mmu_zap_leafs(): tables are left in place. */
function* tdpMmuZapLeafs(tdp: TdpMmu, root: KvmMmuPage, start: Gfn, end: Gfn): Steps<boolean> {
  assertHeldWrite(tdp.kvm.mmuLock);
  let flush = false;
  yield* rcuReadLock(tdp.kvm.kernel.rcu);
  const iter = yield* tdpIterStart(tdp.world, root, PG_LEVEL_4K, start, end);
  for (; iter.valid; yield* tdpIterNext(iter)) {
    if (!isShadowPresentPte(iter.oldSpte) || !isLastSpte(iter.oldSpte, iter.level)) continue;
    yield* tdpMmuIterSetSpte(tdp, iter, tdp.layout.nonPresent);
    // vCPUs that use an invalid root flush when they load the next one.
    if (!isInvalid(tdp, root)) flush = true;
  }
  yield* rcuReadUnlock(tdp.kvm.kernel.rcu);
  return flush;
}

/** kvm_tdp_mmu_zap_all(): the VM goes away. mmu_lock held for write. */
export function* kvmTdpMmuZapAll(tdp: TdpMmu): Steps<void> {
  for (const root of yield* allRoots(tdp)) yield* tdpMmuZapRoot(tdp, root);
}

/** tdp_mmu_zap_root(), exclusively: level by level from the bottom, so that no single step takes a large table with it. */
function* tdpMmuZapRoot(tdp: TdpMmu, root: KvmMmuPage): Steps<void> {
  yield* rcuReadLock(tdp.kvm.kernel.rcu);
  for (const zapLevel of [PG_LEVEL_4K, PG_LEVEL_2M, PG_LEVEL_1G, spLevel(root)]) {
    const iter = yield* tdpIterStart(tdp.world, root, zapLevel, gfn(0), GFN_END);
    for (; iter.valid; yield* tdpIterNext(iter)) {
      if (!isShadowPresentPte(iter.oldSpte) || iter.level > zapLevel) continue;
      yield* tdpMmuIterSetSpte(tdp, iter, tdp.layout.nonPresent);
    }
  }
  yield* rcuReadUnlock(tdp.kvm.kernel.rcu);
}

/** Host-physical address of a root's table: what nCR3 is loaded with. */
export function rootHpa(root: KvmMmuPage): Hpa {
  return root.spt.value as Hpa;
}
