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
 * Here is how entries change and what follows from it; roots are in tdp-roots.ts, zapping is in tdp-zap.ts, walks are in tdp-iter.ts.
 * Stands for tdp_mmu.c of 6.12 and 7.2.
 */
import {
  assertThat,
  Cell,
  type Cell as CellType,
  cell,
  compareExchangeEntry,
  exchangeEntry,
  load,
  loadEntry,
  type Steps,
  sameU64,
  storeEntry,
  type U64,
  type World,
} from "../engine/index.ts";
import { assertHeldRead, assertHeldWrite, callRcu, SpinLock } from "../kernel/index.ts";
import {
  ENTRIES_PER_TABLE,
  type Gfn,
  gfn,
  PAGE_SIZE,
  type Pfn,
  PG_LEVEL_2M,
  PG_LEVEL_4K,
  pagesPerLevel,
} from "../machine/index.ts";
import type { Kvm } from "./kvm.ts";
import { type KvmMmuPage, MmuPages, spFrame, spGfn, spLevel } from "./mmu-page.ts";
import { tdpMmuUnlinkSp } from "./nx-huge.ts";
import { kvmSetPfnDirty } from "./pfn-dirty.ts";
import { childRole, type RoleLayout, roleLayout } from "./role.ts";
import {
  checkSpteWritableInvariants,
  isDirtySpte,
  isFrozenSpte,
  isLargePte,
  isLastSpte,
  isShadowPresentPte,
  makeNonleafSpte,
  type SpteLayout,
  spteHasVolatileBits,
  spteLayout,
  spteToPfn,
} from "./spte.ts";
import type { TdpIter } from "./tdp-iter.ts";
import { kvmMmuGetTdpLevel } from "./tdp-level.ts";
import type { KvmEvent, SpText, StatEvent } from "./trace.ts";

/** Guest frames that there may be: what 4 levels map, or all of a CPU's 52 bits of address. */
const GFN_END = { 4: 2 ** 36, 5: 2 ** 40 } as const;

export class TdpMmu {
  readonly kvm: Kvm;
  readonly world: World;
  readonly layout: SpteLayout;
  readonly roles: RoleLayout;
  /** Level of the roots. */
  readonly rootLevel: 4 | 5;
  readonly pages: MmuPages;
  readonly tdpMmuPagesLock: SpinLock;
  /** kvm->arch.tdp_mmu_roots, the head of the list that goes on through sp->link: read under mmu_lock, changed with tdp_mmu_pages_lock as well. */
  readonly roots: CellType;
  /** tdp_mmu_max_gfn_exclusive(): walks of a whole root end here. */
  readonly gfnEnd: Gfn;
  /** kvm->arch.possible_nx_huge_pages: changed under tdp_mmu_pages_lock, or with mmu_lock held for write. */
  readonly possibleNxHugePages: { readonly head: CellType; readonly tail: CellType; readonly nrPages: CellType };
  /** Zaps of roots that are queued for workers, and those to be queued, with slots_lock held; null where the caller zaps. */
  readonly zapWork: CellType | null;
  readonly zapsToQueue: CellType | null;
  /** The RCU callback that frees a table. */
  readonly freeSpRcuCallback: number;

  constructor(kvm: Kvm) {
    const { world, variants } = kvm;
    this.kvm = kvm;
    this.world = world;
    this.layout = spteLayout(variants.kernel, variants.paging);
    this.roles = roleLayout(variants.kernel);
    this.pages = new MmuPages(world, this.layout);
    this.tdpMmuPagesLock = new SpinLock(world, "kvm->tdp_mmu_pages_lock");
    this.roots = cell(world, "kvm->arch.tdp_mmu_roots");
    this.rootLevel = kvmMmuGetTdpLevel(variants);
    this.gfnEnd = gfn(Math.min(variants.gfnEnd, GFN_END[this.rootLevel]));
    this.possibleNxHugePages = {
      head: cell(world, "possible_nx_huge_pages.head"),
      tail: cell(world, "possible_nx_huge_pages.tail"),
      nrPages: cell(world, "possible_nx_huge_pages.nr_pages"),
    };
    const hasWorkers = variants.rootZapper === "worker";
    this.zapWork = hasWorkers ? cell(world, "kvm->arch.tdp_mmu_zap_wq") : null;
    this.zapsToQueue = hasWorkers ? cell(world, "zaps to be queued") : null;
    this.freeSpRcuCallback = kvm.kernel.rcu.register((addr) => {
      kvm.world.clock?.gauge("unlinked pages", -1);
      return this.pages.free(this.pages.at(addr));
    });
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
  return { gen: 0, gfn: sp.gfn.value, role: sp.role.value, rootCount: sp.tdp_mmu_root_count.value, unsync: false };
}

// --- changing entries ------------------------------------------------------------------------------------------------

/** An entry, and what was read in it. */
type EntryAt = Pick<TdpIter, "sptepAddr" | "gfn" | "level" | "oldSpte" | "yielded">;

/**
 * tdp_mmu_set_spte_atomic(): changes the entry if it is still what the walk has read; false when it is not (the walk then has the new value).
 * mmu_lock held for read.
 */
export function* tdpMmuSetSpteAtomic(tdp: TdpMmu, iter: EntryAt, newSpte: U64): Steps<boolean> {
  assertHeldRead(tdp.kvm.mmuLock);
  assertThat(!iter.yielded && !isFrozenSpte(tdp.layout, iter.oldSpte), "a frozen SPTE is changed", "frozen-spte");
  const { sptepAddr, oldSpte, level } = iter;
  const found = yield* compareExchangeEntry(tdp.world, sptepAddr, oldSpte, newSpte);
  if (!sameU64(found, oldSpte)) {
    iter.oldSpte = found;
    return false;
  }
  yield* handleChangedSpte(tdp, iter.gfn, oldSpte, newSpte, level, true);
  return true;
}

/** tdp_mmu_iter_set_spte(): mmu_lock held for write. */
export function* tdpMmuIterSetSpte(tdp: TdpMmu, iter: TdpIter, newSpte: U64): Steps<void> {
  assertHeldWrite(tdp.kvm.mmuLock);
  iter.oldSpte = yield* tdpMmuSetSpte(tdp, iter.sptepAddr, iter.gfn, iter.level, iter.oldSpte, newSpte);
}

export function* tdpMmuSetSpte(
  tdp: TdpMmu,
  sptep: number,
  base: Gfn,
  level: number,
  old: U64,
  newSpte: U64,
): Steps<U64> {
  const oldSpte = yield* kvmTdpMmuWriteSpte(tdp, sptep, old, newSpte, level);
  yield* handleChangedSpte(tdp, base, oldSpte, newSpte, level, false);
  return oldSpte;
}

/** kvm_tdp_mmu_write_spte(): fetches the old value in the same step if anybody may be changing it meanwhile. */
function* kvmTdpMmuWriteSpte(tdp: TdpMmu, sptep: number, old: U64, newSpte: U64, level: number): Steps<U64> {
  const isLeaf = isShadowPresentPte(old) && isLastSpte(old, level);
  const isAtomic = isLeaf && spteHasVolatileBits(tdp.layout, old) && !tdp.kvm.lacks("tdp-plain-write-loses-dirty");
  if (isAtomic) return yield* exchangeEntry(tdp.world, sptep, newSpte);
  yield* storeEntry(tdp.world, sptep, newSpte);
  return old;
}

/** handle_changed_spte(): what follows from an entry's change. @param shared mmu_lock is held for read, so others may change entries too */
export function* handleChangedSpte(
  tdp: TdpMmu,
  base: Gfn,
  oldSpte: U64,
  newSpte: U64,
  level: number,
  shared: boolean,
): Steps<void> {
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
  // One for each entry of each table: not even made where nobody traces.
  const { tracepoints } = tdp.world;
  if (tracepoints && !reportLast) reportChange(tdp, base, oldSpte, newSpte, level);
  if (isLeaf) checkSpteWritableInvariants(tdp.layout, newSpte);
  if (wasLeaf && !isPresent) {
    tdp.world.clock?.spend("zap a leaf");
    if (tdp.kvm.variants.writesBack) yield* kvmSetPfnAccessed(tdp, spteToPfn(oldSpte));
  }
  // 7.2 marks pages when they are mapped.
  if (wasLeaf && tdp.kvm.variants.kernel === "6.12" && isDirtySpte(tdp.layout, oldSpte)) {
    const staysDirty = isPresent && !pfnChanged && isDirtySpte(tdp.layout, newSpte);
    if (!staysDirty) kvmSetPfnDirty(tdp.kvm, spteToPfn(oldSpte));
  }
  const hasPresence = level === PG_LEVEL_4K || !tdp.kvm.lacks("frozen-counted-as-large");
  const counted = hasPresence ? isLeaf : isLargePte(newSpte);
  if (counted !== (hasPresence ? wasLeaf : isLargePte(oldSpte))) {
    tdp.world.emit((counted ? LEAF_COMES : LEAF_GOES)[level] as StatEvent);
  }
  if (removesTable) yield* handleRemovedPt(tdp, spteToPfn(oldSpte) * PAGE_SIZE, shared);
  if (tracepoints && reportLast) reportChange(tdp, base, oldSpte, newSpte, level);
}

/** kvm_set_pfn_accessed(): touches struct page, and so must know that the frame has not been given away. */
function* kvmSetPfnAccessed({ world }: TdpMmu, frame: Pfn): Steps<void> {
  yield* load(new Cell<number>(world, frame * PAGE_SIZE, 8, false), "mark_page_accessed()");
}

function reportChange(tdp: TdpMmu, base: Gfn, oldSpte: U64, newSpte: U64, level: number): void {
  tdp.emit({ name: "kvm_tdp_mmu_spte_changed", asId: 0, gfn: base, level, oldSpte, newSpte });
}

/** The statistic that counts the leaves of a level. */
export function pagesStat(level: number): string {
  return level === PG_LEVEL_4K ? "pages_4k" : level === PG_LEVEL_2M ? "pages_2m" : "pages_1g";
}

/** By level: made once, as there is one for each entry of a guest. */
const LEAF_COMES = leafEvents(1);
const LEAF_GOES = leafEvents(-1);

function leafEvents(delta: number): readonly StatEvent[] {
  return [0, 1, 2, 3].map((level) => ({ name: "stat", stat: pagesStat(level), vcpu: null, delta }));
}

/**
 * handle_removed_pt(): the entries of a table that has been unlinked go too, and the table is freed after a grace period. With mmu_lock for read
 * each entry is frozen, so that a fault which is still in the table cannot put anything there that nobody would find again.
 */
function* handleRemovedPt(tdp: TdpMmu, table: number, shared: boolean): Steps<void> {
  const sp = tdp.pages.ofEntry(table);
  const level = spLevel(sp);
  if (tdp.world.tracepoints) tdp.emit({ name: "kvm_mmu_prepare_zap_page", sp: spText(sp) });
  const frozen = tdp.kvm.variants.freezesEntries ? tdp.layout.frozen : tdp.layout.nonPresent;
  const first = spGfn(sp);
  const pages = pagesPerLevel(level);
  yield* tdpMmuUnlinkSp(tdp, sp);
  for (let i = 0; i < ENTRIES_PER_TABLE; i++) {
    const sptep = table + 8 * i;
    const base = gfn(first + i * pages);
    if (base >= tdp.gfnEnd) break;
    let oldSpte: U64;
    if (shared) {
      // Somebody else may have frozen the entry and be about to write it.
      do {
        oldSpte = yield* exchangeEntry(tdp.world, sptep, frozen);
      } while (isFrozenSpte(tdp.layout, oldSpte));
    } else {
      oldSpte = yield* loadEntry(tdp.world, sptep);
      if (!isShadowPresentPte(oldSpte)) continue;
      oldSpte = yield* kvmTdpMmuWriteSpte(tdp, sptep, oldSpte, frozen, level);
    }
    yield* handleChangedSpte(tdp, base, oldSpte, frozen, level, shared);
  }
  tdp.world.clock?.gauge("unlinked pages", 1);
  yield* callRcu(tdp.kvm.kernel.rcu, sp.addr, tdp.freeSpRcuCallback);
}

// --- linking tables --------------------------------------------------------------------------------------------------

/** tdp_mmu_alloc_sp(), tdp_mmu_init_child_sp(). @param contents what the table holds before it is linked; null: nothing present */
export function tdpMmuAllocChildSp(tdp: TdpMmu, iter: TdpIter, contents: Uint32Array | null = null): KvmMmuPage {
  const parent = tdp.pages.ofEntry(iter.sptepAddr);
  const sp = tdp.pages.allocate(childRole(parent.role.value), iter.gfn, iter.sptepAddr, contents);
  if (tdp.world.tracepoints) tdp.emit({ name: "kvm_mmu_get_page", sp: spText(sp), created: true });
  return sp;
}

/** tdp_mmu_link_sp(): false when the entry is no longer what it was. The table's contents were written before it is linked. */
export function* tdpMmuLinkSp(tdp: TdpMmu, iter: TdpIter, sp: KvmMmuPage, shared: boolean): Steps<boolean> {
  const spte = makeNonleafSpte(tdp.layout, spFrame(sp));
  if (shared) return yield* tdpMmuSetSpteAtomic(tdp, iter, spte);
  yield* tdpMmuIterSetSpte(tdp, iter, spte);
  return true;
}
