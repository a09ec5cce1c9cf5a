/**
 * Finding the shadow page for a frame and a role, or making it, and linking it below another.
 *
 *     found, unsync      it is brought in step, but stays unsync: the guest may go on writing until it flushes
 *     found otherwise    a page of the same frame in another role is left alone, unless it is unsync and the frame is about to be an
 *                        upper table, which must not be written any more: that page is zapped
 *     not found          a new page; its table is write-protected (write-track.ts)
 *
 * Stands for kvm_mmu_find_shadow_page(), kvm_mmu_alloc_shadow_page(), kvm_mmu_get_child_sp(), link_shadow_page() of 6.12 and 7.2.
 */
import { loadEntry, type Steps } from "../../engine/index.ts";
import { type Gfn, PG_LEVEL_4K } from "../../machine/index.ts";
import { childRoleOf } from "../cpu-role.ts";
import { kvmFlushRemoteTlbs } from "../requests.ts";
import { roleIsDirect, roleLevel } from "../role.ts";
import { isLargePte, isShadowPresentPte, makeNonleafSpte, spteToPfn } from "../spte.ts";
import type { Vcpu } from "../vcpu.ts";
import { type ShadowPage, shadowSpText, spHasGptes, spteIndex } from "./page.ts";
import { pteListAdd } from "./rmap.ts";
import type { ShadowMmu } from "./shadow-mmu.ts";
import { mmuSpteSet, type Sptep } from "./spte-change.ts";
import { kvmSyncPage } from "./sync.ts";
import { markUnsync } from "./unsync.ts";
import { accountShadowed } from "./write-track.ts";
import {
  accountMmuPage,
  addActivePage,
  commitZapPage,
  type InvalidList,
  mmuPageZapPte,
  prepareZapPage,
} from "./zap.ts";

/** kvm_mmu_get_shadow_page(), with mmu_lock held for write. @param vcpu null where only direct pages are looked for */
export function* getShadowPage(vcpu: Vcpu | null, shadow: ShadowMmu, gfn: Gfn, role: number): Steps<ShadowPage> {
  let sp = yield* findShadowPage(vcpu, shadow, gfn, role);
  const created = sp === null;
  sp ??= yield* allocShadowPage(shadow, gfn, role);
  if (shadow.world.tracepoints) shadow.emit({ name: "kvm_mmu_get_page", sp: shadowSpText(sp), created });
  return sp;
}

/** kvm_mmu_find_shadow_page() */
function* findShadowPage(vcpu: Vcpu | null, shadow: ShadowMmu, gfn: Gfn, role: number): Steps<ShadowPage | null> {
  const list: InvalidList = [];
  let collisions = 0;
  let found: ShadowPage | null = null;
  for (const sp of shadow.validPages(gfn)) {
    if (sp.gfn.value !== gfn) {
      collisions++;
      continue;
    }
    if (sp.role.value !== role) {
      if (roleLevel(role) > PG_LEVEL_4K && sp.unsync.value !== 0) yield* prepareZapPage(shadow, sp, list);
      continue;
    }
    if (roleIsDirect(role)) {
      found = sp;
      break;
    }
    if (sp.unsync.value !== 0 && vcpu !== null) {
      const synced = yield* kvmSyncPage(vcpu, shadow, sp, list);
      if (synced === "failed") break;
      if (synced === "flush") yield* kvmFlushRemoteTlbs(shadow.vm);
    }
    sp.write_flooding_count.value = 0;
    found = sp;
    break;
  }
  if (found === null) shadow.count("mmu_cache_miss", 1);
  yield* commitZapPage(shadow, list);
  shadow.countMax("max_mmu_page_hash_collisions", shadow.maxHashCollisions, collisions);
  return found;
}

/** kvm_mmu_alloc_shadow_page() */
function* allocShadowPage(shadow: ShadowMmu, gfn: Gfn, role: number): Steps<ShadowPage> {
  const sp = yield* shadow.pages.take(role, gfn);
  sp.mmu_valid_gen.value = shadow.vm.mmuValidGen.value;
  addActivePage(shadow, sp);
  accountMmuPage(shadow);
  if (spHasGptes(sp)) yield* accountShadowed(shadow, sp);
  return sp;
}

export interface ChildRequest {
  readonly sptep: Sptep;
  readonly gfn: Gfn;
  readonly direct: boolean;
  readonly access: number;
}

/**
 * kvm_mmu_get_child_sp(): null when the entry links that very page already. Up to 7.0 it was enough that a table stood there; the comparison of roles
 * hides what wrong rights do (T41), so whoever undoes that has to do without it.
 */
export function* getChildSp(vcpu: Vcpu | null, shadow: ShadowMmu, request: ChildRequest): Steps<ShadowPage | null> {
  const { sptep, gfn, direct, access } = request;
  const parent = shadow.pages.ofEntry(sptep);
  const role = childRoleOf(shadow.roles, parent.role.value, { direct, access, index: spteIndex(sptep) });
  const spte = yield* loadEntry(shadow.world, sptep);
  if (isShadowPresentPte(spte) && !isLargePte(spte)) {
    const { kvm } = shadow;
    if (kvm.lacks("direct-page-reused-for-other-gfn") || kvm.lacks("inherited-permissions")) return null;
    const child = shadow.pages.ofFrame(spteToPfn(spte));
    if (child.gfn.value === gfn && child.role.value === role) return null;
  }
  return yield* getShadowPage(vcpu, shadow, gfn, role);
}

/** link_shadow_page(). What the entry was before goes first, from the TLBs too. */
export function* linkShadowPage(shadow: ShadowMmu, sptep: Sptep, sp: ShadowPage, flush = true): Steps<void> {
  const old = yield* loadEntry(shadow.world, sptep);
  if (isShadowPresentPte(old)) {
    yield* mmuPageZapPte(shadow, shadow.pages.ofEntry(sptep), sptep);
    if (flush) yield* kvmFlushRemoteTlbs(shadow.vm);
  }
  yield* mmuSpteSet(shadow.world, sptep, makeNonleafSpte(shadow.layout, spteFrame(sp)));
  yield* pteListAdd(shadow.world, sp.parent_ptes, shadow.parentRmaps, sptep);
  if (sp.unsync.value !== 0 || sp.unsync_children.value !== 0) yield* markUnsync(shadow, sptep);
}

function spteFrame(sp: ShadowPage): ReturnType<typeof spteToPfn> {
  return (sp.spt.value / 4096) as ReturnType<typeof spteToPfn>;
}
