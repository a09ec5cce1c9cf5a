/** What mmu_unsync_walk() has found, and the way through it. */
import { PG_LEVEL_4K } from "../../machine/index.ts";
import { type ShadowPage, spLevel } from "./page.ts";

export interface WalkedPage {
  readonly sp: ShadowPage;
  /** Its entry in the page above it; -1 for the first. */
  readonly index: number;
}

/** struct kvm_mmu_pages: a part of the unsync pages below a page, with the pages on the way to them, parents first. */
export type UnsyncWalk = readonly WalkedPage[];

/** struct mmu_page_path: by level, the page above and the entry in it. */
export type PathToPage = readonly { readonly parent: ShadowPage; readonly index: number }[];

/** for_each_sp(): the unsync pages of a walk, with the way to each. */
export function* unsyncPagesIn(walk: UnsyncWalk): Generator<{ sp: ShadowPage; parents: PathToPage }> {
  const top = (walk[0] as WalkedPage).sp;
  const topLevel = spLevel(top);
  const pages = new Map<number, ShadowPage>([[topLevel, top]]);
  const indexes = new Map<number, number>();
  for (const { sp, index } of walk.slice(1)) {
    const level = spLevel(sp);
    indexes.set(level, index);
    pages.set(level, sp);
    if (level > PG_LEVEL_4K) continue;
    const parents = Array.from({ length: topLevel - level }, (_, i) => ({
      parent: pages.get(level + i + 1) as ShadowPage,
      index: indexes.get(level + i) as number,
    }));
    yield { sp, parents };
  }
}
