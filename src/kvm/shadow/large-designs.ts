/**
 * Large pages over shadowed tables: what Linux did before the size was chosen after the shadow pages of the tables are made.
 *
 *     size; shadow pages of the tables on the way; the leaf
 *           ^ one of these tables may lie in the very page: its frame must be write-protected from now on, and the page is too large
 *
 *     before 3.9      the leaf is dropped and the guest faults again, to find that no large page is allowed: two faults
 *     the 2012 patch  the leaf is installed, read-only
 *     7751babd3c6d    whether a table lies in the page is looked at first: 4K at once
 *
 * Stands for has_wrprotected_page() in set_spte(), FNAME(is_self_change_mapping) of 3.8 to 6.1. Source: LKML, X. Guangrong, 2012-11-05, "KVM: MMU: lazily drop
 * large spte", and what came of it.
 */
import { loadEntry, type Steps } from "../../engine/index.ts";
import { alignToLevel, type Gfn, PG_LEVEL_4K, pagesPerLevel } from "../../machine/index.ts";
import type { GuestWalk } from "../guest-walk.ts";
import { kvmMmuHugepageAdjust } from "../huge-page.ts";
import { isLpageDisallowed } from "../lpage-info.ts";
import type { KvmMemorySlot } from "../memslots.ts";
import type { KvmPageFault, RetPf } from "../page-fault.ts";
import { isShadowPresentPte } from "../spte.ts";
import type { ShadowMmu } from "./shadow-mmu.ts";
import { dropSpte, type Sptep } from "./spte-change.ts";

/** Chooses the size before the tables are looked at. Not Linux any more. */
export function* adjustBeforeTables(shadow: ShadowMmu, fault: KvmPageFault, walk: GuestWalk): Steps<void> {
  const { pageSizing } = shadow.kvm.variants;
  if (pageSizing === "after-tables" || fault.slot === null) return;
  if (pageSizing === "self-map-first" && isSelfChangeMapping(walk)) fault.maxLevel = PG_LEVEL_4K;
  yield* kvmMmuHugepageAdjust(shadow.kvm, fault, fault.slot);
}

/** FNAME(is_self_change_mapping): does a table on the way lie in the guest's page? */
function isSelfChangeMapping({ entries, gfn, level }: GuestWalk): boolean {
  const pages = pagesPerLevel(level);
  return entries.some(({ tableGfn }) => Math.floor(tableGfn / pages) === Math.floor(gfn / pages));
}

/** has_wrprotected_page(): a frame of the page is shadowed, so the page should not be mapped by one writable entry. */
export function isTooLarge(shadow: ShadowMmu, slot: KvmMemorySlot, gfn: Gfn, level: number): boolean {
  if (shadow.kvm.variants.pageSizing === "after-tables" || level === PG_LEVEL_4K) return false;
  return isLpageDisallowed(shadow.world, slot, gfn, level);
}

/** The branch of set_spte() that gives up: the entry goes, and what a write wanted is emulated. Null: go on. */
export function* refuseTooLarge(shadow: ShadowMmu, fault: KvmPageFault, sptep: Sptep): Steps<RetPf | null> {
  const { slot, goalLevel } = fault;
  if (slot === null || shadow.kvm.variants.largeProtected === "read-only") return null;
  if (!isTooLarge(shadow, slot, alignToLevel(fault.gfn, goalLevel), goalLevel)) return null;
  if (isShadowPresentPte(yield* loadEntry(shadow.world, sptep))) yield* dropSpte(shadow, sptep);
  return fault.write ? "write-protected" : "retry";
}
