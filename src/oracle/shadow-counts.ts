/**
 * What the shadow MMU counts, counted again: when nobody is working on it, every count is the number of what it counts.
 *
 *     n_used_mmu_pages         pages, roots that wait, invalid, to be let go included
 *     indirect_shadow_pages    valid ones of them that shadow a guest table
 *     gfn_write_track          of a frame: its valid pages of upper tables
 *     root_count               of a page: vCPUs' roots, kept ones included, that are it
 *     unsync_children          of a page: the bits set in its bitmap
 *
 * A count too high keeps a frame write-protected, or large pages away, for good; one too low lets the guest edit a table that nobody watches.
 */
import { roleIsDirect, roleLevel } from "../kvm/role.ts";
import { type ShadowPage, spGfn, spHasGptes } from "../kvm/shadow/page.ts";
import type { ShadowMmu } from "../kvm/shadow/shadow-mmu.ts";
import { spteToPfn } from "../kvm/spte.ts";
import { isPresent, PAGE_SIZE, PG_LEVEL_4K } from "../machine/index.ts";

/** Null when all is well, else what is wrong. For final predicates. */
export function shadowCountsProblem(shadow: ShadowMmu): string | null {
  const pages = shadow.pages.liveTables().map((table) => shadow.pages.ofRoot(table) as ShadowPage);
  return (
    differs("n_used_mmu_pages", shadow.nUsedMmuPages.value, pages.length) ??
    indirectProblem(shadow, pages) ??
    rootsProblem(shadow, pages) ??
    unsyncProblem(shadow, pages) ??
    writeTrackProblem(shadow, pages)
  );
}

function differs(what: string, is: number, counted: number): string | null {
  return is === counted ? null : `${what} is ${is}, but there are ${counted}`;
}

function indirectProblem(shadow: ShadowMmu, pages: readonly ShadowPage[]): string | null {
  const indirect = pages.filter((sp) => spHasGptes(sp) && !shadow.isInvalid(sp)).length;
  return differs("indirect_shadow_pages", shadow.indirectShadowPages.value, indirect);
}

function rootsProblem(shadow: ShadowMmu, pages: readonly ShadowPage[]): string | null {
  const users = new Map<number, number>();
  const use = (table: number): unknown => users.set(table, (users.get(table) ?? 0) + 1);
  for (const { mmu } of shadow.vm.vcpus) {
    for (const { hpa } of [mmu.root, ...mmu.prevRoots]) {
      if (hpa.value === 0) continue;
      if (!mmu.isPaeRoot(hpa.value)) use(hpa.value);
      else
        for (const i of [0, 1, 2, 3]) {
          const entry = mmu.paeRootEntry(i).value;
          if (isPresent(entry)) use(spteToPfn(entry) * PAGE_SIZE);
        }
    }
  }
  for (const sp of pages) {
    const problem = differs(`root_count of ${nameOf(shadow, sp)}`, sp.root_count.value, users.get(sp.spt.value) ?? 0);
    if (problem !== null) return problem;
  }
  return null;
}

function unsyncProblem(shadow: ShadowMmu, pages: readonly ShadowPage[]): string | null {
  for (const sp of pages) {
    let bits = 0;
    for (let i = 0; i < 16; i++) for (let word = sp.unsync_child_bitmap(i).value; word !== 0; word &= word - 1) bits++;
    const problem = differs(`unsync_children of ${nameOf(shadow, sp)}`, sp.unsync_children.value, bits);
    if (problem !== null) return problem;
    if (sp.unsync.value !== 0 && (roleLevel(sp.role.value) > PG_LEVEL_4K || roleIsDirect(sp.role.value)))
      return `${nameOf(shadow, sp)} is unsync, and no page of a last table`;
  }
  return null;
}

function writeTrackProblem(shadow: ShadowMmu, pages: readonly ShadowPage[]): string | null {
  const tracked = new Map<number, number>();
  for (const sp of pages) {
    if (shadow.isInvalid(sp) || !spHasGptes(sp) || roleLevel(sp.role.value) === PG_LEVEL_4K) continue;
    tracked.set(spGfn(sp), (tracked.get(spGfn(sp)) ?? 0) + 1);
  }
  const { memslots } = shadow.kvm;
  for (const slot of memslots.slotsOf(memslots.setAt(memslots.active.value))) {
    const counts = slot.gfn_write_track.value;
    if (counts === 0) continue;
    const base = slot.base_gfn.value;
    const pagesOfSlot = slot.npages.value;
    for (let n = 0; n < pagesOfSlot; n++) {
      const count = shadow.world.heap.read(counts + 4 * n, 4);
      const wanted = tracked.get(base + n) ?? 0;
      if (count !== wanted) return differs(`gfn_write_track of gfn 0x${(base + n).toString(16)}`, count, wanted);
    }
  }
  return null;
}

function nameOf(shadow: ShadowMmu, sp: ShadowPage): string {
  return shadow.world.nameOf(sp.addr);
}
