/**
 * Shadow pages that are there only because a huge page may not be executable: the list that recovery takes them from, oldest first.
 *
 * Stands for account_nx_huge_page(), unaccount_nx_huge_page() of 6.12 and 7.2.
 */
import { isListEmpty, listAddTail, listDel } from "../../kernel/index.ts";
import { nxLinkOf, type ShadowPage } from "./page.ts";
import type { ShadowMmu } from "./shadow-mmu.ts";

/** account_nx_huge_page(). @param possible a huge page would be there otherwise */
export function accountShadowNxHugePage(shadow: ShadowMmu, sp: ShadowPage, possible: boolean): void {
  sp.nx_huge_page_disallowed.value = 1;
  if (!possible || !isListEmpty(shadow.world, nxLinkOf(sp))) return;
  shadow.count("nx_lpage_splits", 1);
  listAddTail(shadow.world, nxLinkOf(sp), shadow.possibleNxHugePages);
}

/** unaccount_nx_huge_page() */
export function unaccountShadowNxHugePage(shadow: ShadowMmu, sp: ShadowPage): void {
  sp.nx_huge_page_disallowed.value = 0;
  if (isListEmpty(shadow.world, nxLinkOf(sp))) return;
  shadow.count("nx_lpage_splits", -1);
  listDel(shadow.world, nxLinkOf(sp));
}
