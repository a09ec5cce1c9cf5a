/**
 * The roots of a vCPU under the shadow MMU.
 *
 *     guest           root
 *     4, 5 levels     the shadow page of the table that CR3 points at
 *     PAE             four entries of KVM's own (pae_root), one for each PDPTE: shadow pages of the guest's level-2 tables
 *     32-bit          four entries: quadrants 0 to 3 of the table that CR3 points at
 *     no paging       four entries: direct pages, a gigabyte each
 *     (nested paging without the TDP MMU: one direct page of level 4)
 *
 *     MOV CR3         the root in use goes to the front of three that are kept; if one of those is for the new CR3, it is used again, and
 *                     brought in step before the guest runs
 *
 * A vCPU holds a count on each of its roots: one that is zapped meanwhile stays allocated, invalid, until it is let go. Stands for kvm_mmu_load(),
 * mmu_alloc_shadow_roots(), mmu_alloc_direct_roots(), kvm_mmu_free_roots(), kvm_mmu_new_pgd(), kvm_mmu_free_obsolete_roots() of 6.12 and 7.2.
 */
import { load, orU64, type Steps, U64_ZERO } from "../../engine/index.ts";
import { writeLock, writeUnlock } from "../../kernel/index.ts";
import {
  entryFrame,
  frameBits,
  type Gfn,
  gfn,
  hpaToPfn,
  isPresent,
  PAGE_SIZE,
  PG_LEVEL_2M,
  PT_PRESENT_MASK,
} from "../../machine/index.ts";
import { PAE_ROOT_LEVEL, roleAtLevel } from "../cpu-role.ts";
import { gfnToMemslot, isVisibleMemslot } from "../memslots.ts";
import { KVM_REQ_MMU_FREE_OBSOLETE_ROOTS } from "../requests.ts";
import { roleIsDirect, roleLevel, tdpRootRole } from "../role.ts";
import { spteToPfn } from "../spte.ts";
import { kvmMmuGetTdpLevel } from "../tdp-level.ts";
import type { Vcpu } from "../vcpu.ts";
import { KVM_MMU_NUM_PREV_ROOTS, type RootCells } from "../vcpu-mmu.ts";
import { getShadowPage } from "./get-page.ts";
import { type ShadowPage, spHpa } from "./page.ts";
import type { ShadowMmu } from "./shadow-mmu.ts";
import { mmuFirstShadowRootAlloc } from "./slot-arch.ts";
import { kvmMmuSyncRoots, shadowRootRole } from "./sync.ts";
import { commitZapPage, type InvalidList, makeMmuPagesAvailable, prepareZapPage } from "./zap.ts";

/** INVALID_PAGE */
const INVALID_ROOT = 0;
const FRAMES_PER_GIGABYTE = 2 ** 18;
const PAE_ENTRIES = 4;

/** mmu->root_role. */
function rootRoleOf(vcpu: Vcpu, shadow: ShadowMmu): number {
  return shadow.kvm.params.npt
    ? tdpRootRole(shadow.roles, kvmMmuGetTdpLevel(shadow.kvm.variants), true)
    : shadowRootRole(vcpu, shadow);
}

// --- getting roots ---------------------------------------------------------------------------------------------------

/** kvm_mmu_load(): false when there is no room for the tables. The caller flushes the vCPU's TLB. */
export function* kvmShadowMmuLoad(vcpu: Vcpu, shadow: ShadowMmu): Steps<boolean> {
  const role = rootRoleOf(vcpu, shadow);
  const plan = roleIsDirect(role) ? directRoots(role) : yield* guestRoots(vcpu, shadow, role);
  if (plan === null) return false;
  yield* mmuFirstShadowRootAlloc(shadow);
  yield* writeLock(shadow.kvm.mmuLock);
  const hasRoom = yield* makeMmuPagesAvailable(shadow);
  if (hasRoom) yield* allocateRoots(vcpu, shadow, role, plan);
  yield* writeUnlock(shadow.kvm.mmuLock);
  if (hasRoom) yield* kvmMmuSyncRoots(vcpu, shadow);
  return hasRoom;
}

/** What the entries of the root stand for; null for one that the guest has not got. */
type RootPlan = readonly (Gfn | null)[];

function directRoots(role: number): RootPlan {
  if (roleLevel(role) > PAE_ROOT_LEVEL) return [gfn(0)];
  return Array.from({ length: PAE_ENTRIES }, (_, i) => gfn(i * FRAMES_PER_GIGABYTE));
}

/** The tables that CR3, or the PDPTEs, name. Looked up before mmu_lock is taken. Null: CR3 points at no memory. */
function* guestRoots(vcpu: Vcpu, shadow: ShadowMmu, role: number): Steps<RootPlan | null> {
  const { mode } = vcpu.guest;
  const root = gfn(Math.floor(mode.cr3 / PAGE_SIZE));
  if (!(yield* isVisibleGfn(shadow, root))) return null;
  if (roleLevel(role) > PAE_ROOT_LEVEL) return [root];
  if (mode.levels === 2) return Array.from({ length: PAE_ENTRIES }, () => root);
  const plan: (Gfn | null)[] = [];
  for (const pdpte of vcpu.mmu.pdptes) {
    const table = gfn(entryFrame(pdpte));
    plan.push(isPresent(pdpte) && (yield* isVisibleGfn(shadow, table)) ? table : null);
  }
  return plan;
}

function* isVisibleGfn(shadow: ShadowMmu, frame: Gfn): Steps<boolean> {
  return isVisibleMemslot(yield* gfnToMemslot(shadow.kvm.memslots, frame));
}

/** mmu_alloc_shadow_roots(), mmu_alloc_direct_roots() under mmu_lock */
function* allocateRoots(vcpu: Vcpu, shadow: ShadowMmu, role: number, plan: RootPlan): Steps<void> {
  const { mmu } = vcpu;
  const { mode } = vcpu.guest;
  if (plan.length === 1) {
    const root = yield* mmuAllocRoot(vcpu, shadow, plan[0] as Gfn, role);
    mmu.root.hpa.value = spHpa(root);
  } else {
    const isQuartered = mode.paging && mode.levels === 2;
    for (const [i, table] of plan.entries()) {
      const entry = mmu.paeRootEntry(i);
      if (table === null) {
        entry.value = U64_ZERO;
        continue;
      }
      const root = yield* mmuAllocRoot(vcpu, shadow, table, roleAtLevel(role, PG_LEVEL_2M, isQuartered ? i : 0));
      entry.value = orU64(PT_PRESENT_MASK, frameBits(hpaToPfn(spHpa(root))));
    }
    mmu.root.hpa.value = mmu.paeRootTable();
  }
  mmu.root.pgd.value = roleIsDirect(role) ? 0 : mode.cr3;
}

/** mmu_alloc_root() */
function* mmuAllocRoot(vcpu: Vcpu, shadow: ShadowMmu, table: Gfn, role: number): Steps<ShadowPage> {
  const root = yield* getShadowPage(vcpu, shadow, table, role);
  root.root_count.value += 1;
  return root;
}

// --- letting roots go ------------------------------------------------------------------------------------------------

/** kvm_mmu_free_roots(). */
export function* kvmShadowMmuFreeRoots(vcpu: Vcpu, shadow: ShadowMmu, roots: readonly RootCells[]): Steps<void> {
  const present = roots.filter((root) => root.hpa.value !== INVALID_ROOT);
  if (present.length === 0) return;
  const list: InvalidList = [];
  yield* writeLock(shadow.kvm.mmuLock);
  for (const root of present) yield* freeRoot(vcpu, shadow, root, list);
  yield* commitZapPage(shadow, list);
  yield* writeUnlock(shadow.kvm.mmuLock);
}

/** All roots of the vCPU, those kept for later first. */
export function allRootsOf(vcpu: Vcpu): readonly RootCells[] {
  return [...vcpu.mmu.prevRoots, vcpu.mmu.root];
}

function* freeRoot(vcpu: Vcpu, shadow: ShadowMmu, root: RootCells, list: InvalidList): Steps<void> {
  const { mmu } = vcpu;
  const hpa = root.hpa.value;
  if (mmu.isPaeRoot(hpa)) {
    for (let i = 0; i < PAE_ENTRIES; i++) {
      const entry = mmu.paeRootEntry(i);
      const value = entry.value;
      if (!isPresent(value)) continue;
      yield* putRootPage(shadow, shadow.pages.ofFrame(spteToPfn(value)), list);
      entry.value = U64_ZERO;
    }
  } else {
    yield* putRootPage(shadow, shadow.pages.ofRoot(hpa) as ShadowPage, list);
  }
  root.hpa.value = INVALID_ROOT;
  root.pgd.value = 0;
}

/** mmu_free_root_page() */
function* putRootPage(shadow: ShadowMmu, sp: ShadowPage, list: InvalidList): Steps<void> {
  const count = sp.root_count.value - 1;
  sp.root_count.value = count;
  if (count === 0 && shadow.isInvalid(sp)) yield* prepareZapPage(shadow, sp, list);
}

/** is_obsolete_root(). A PAE root is judged by nobody but its pages: any that is gone makes it obsolete. */
function* isObsolete(vcpu: Vcpu, shadow: ShadowMmu, root: RootCells): Steps<boolean> {
  const hpa = root.hpa.value;
  if (hpa === INVALID_ROOT) return false;
  const sp = shadow.pages.ofRoot(hpa);
  // A root without a page of its own is let go whenever it is asked for; a new one costs little.
  if (vcpu.mmu.isPaeRoot(hpa) || sp === null) return true;
  const isInvalid = ((yield* load(sp.role)) & shadow.roles.invalid) !== 0;
  return isInvalid || sp.mmu_valid_gen.value !== (yield* load(shadow.vm.mmuValidGen));
}

/** is_obsolete_sp() of the root that a fault wants to map in, under mmu_lock. */
export function isObsoleteShadowRoot(vcpu: Vcpu, shadow: ShadowMmu): boolean {
  const hpa = vcpu.mmu.root.hpa.value;
  if (vcpu.mmu.isPaeRoot(hpa)) return vcpu.hasRequest(KVM_REQ_MMU_FREE_OBSOLETE_ROOTS);
  return shadow.isObsolete(shadow.pages.ofRoot(hpa) as ShadowPage);
}

/** kvm_mmu_free_obsolete_roots() */
export function* kvmShadowMmuFreeObsoleteRoots(vcpu: Vcpu, shadow: ShadowMmu): Steps<void> {
  const obsolete: RootCells[] = [];
  for (const root of allRootsOf(vcpu)) if (yield* isObsolete(vcpu, shadow, root)) obsolete.push(root);
  yield* kvmShadowMmuFreeRoots(vcpu, shadow, obsolete);
}

// --- another address space -------------------------------------------------------------------------------------------

interface Root {
  readonly hpa: number;
  readonly pgd: number;
}

function get(root: RootCells): Root {
  return { hpa: root.hpa.value, pgd: root.pgd.value };
}

function set(root: RootCells, { hpa, pgd }: Root): void {
  root.hpa.value = hpa;
  root.pgd.value = pgd;
}

/** is_root_usable() */
function isRootUsable(shadow: ShadowMmu, root: Root, pgd: number, role: number): boolean {
  if (root.hpa === INVALID_ROOT || (!roleIsDirect(role) && root.pgd !== pgd)) return false;
  return shadow.pages.ofRoot(root.hpa)?.role.value === role;
}

/**
 * kvm_mmu_new_pgd(): true when a root for the new CR3 is there. It may be out of step: the caller asks for it to be synchronised.
 *
 *     C 0 1 2    the root in use, and those kept; each that does not fit is moved one place back, and the last one is let go
 */
export function* kvmMmuNewPgd(vcpu: Vcpu, shadow: ShadowMmu, pgd: number): Steps<boolean> {
  const { mmu } = vcpu;
  const role = rootRoleOf(vcpu, shadow);
  const current = mmu.root;
  // A root of four entries is the vCPU's only one: it cannot be kept.
  if (mmu.isPaeRoot(current.hpa.value)) yield* kvmShadowMmuFreeRoots(vcpu, shadow, [current]);
  if (current.hpa.value === INVALID_ROOT) return findWithoutCurrent(vcpu, shadow, pgd, role);
  if (isRootUsable(shadow, get(current), pgd, role)) return true;
  for (const kept of mmu.prevRoots) {
    const before = get(current);
    set(current, get(kept));
    set(kept, before);
    if (isRootUsable(shadow, get(current), pgd, role)) return true;
  }
  yield* kvmShadowMmuFreeRoots(vcpu, shadow, [current]);
  return false;
}

/** cached_root_find_without_current() */
function findWithoutCurrent(vcpu: Vcpu, shadow: ShadowMmu, pgd: number, role: number): boolean {
  const { root, prevRoots } = vcpu.mmu;
  const at = prevRoots.findIndex((kept) => isRootUsable(shadow, get(kept), pgd, role));
  if (at < 0) return false;
  set(root, get(prevRoots[at] as RootCells));
  for (let i = at; i < KVM_MMU_NUM_PREV_ROOTS - 1; i++) {
    set(prevRoots[i] as RootCells, get(prevRoots[i + 1] as RootCells));
  }
  set(prevRoots[KVM_MMU_NUM_PREV_ROOTS - 1] as RootCells, { hpa: INVALID_ROOT, pgd: 0 });
  return true;
}

/** Levels of the tables that the hardware walks from the root. */
export function hardwareLevels(vcpu: Vcpu, shadow: ShadowMmu): 3 | 4 | 5 {
  const level = roleLevel(shadowRootRole(vcpu, shadow));
  return level === 5 ? 5 : level === 4 ? 4 : 3;
}
