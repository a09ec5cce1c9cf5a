/**
 * How aging walks one reverse map, and ages what it finds there: Linux's way, and those of the threads on aging without mmu_lock.
 *
 *                    preemption  the head's lock bit        the entry, with A/D bits        without
 *     bit-lock       off         held for the walk          clear A                         compare-exchange: access-tracked     (Linux 7.2)
 *     bare           on          not taken                  clear A                         the same
 *     recheck        on          not taken; the head is     compare-exchange: A cleared     the same
 *                                read again after the entry
 *     preemptible    on          held for the walk          clear A                         the same
 *     early-unlock   off         given back before the      clear A                         the same
 *                                entries are read
 *     ad-only        off         held for the walk          clear A                         left as it is, and young
 *     plain-mark     off         held for the walk          clear A                         plain store: access-tracked
 *
 * 6.12 holds mmu_lock for write instead; no head has a lock bit there, and rights are taken away as any other update does it. An entry that is no more
 * present has been zapped while its page waits for the head.
 *
 * `early-unlock` is what a machine that performs an earlier load after a later store would make of an unlock without release semantics; x86 does not.
 *
 * Stands for kvm_rmap_age_gfn_range(), mmu_spte_age() of 6.12 and 7.2. Source of the others: LKML, S. Christopherson, 2024-08-09, "KVM: x86/mmu: Add
 * support for lockless walks of rmap SPTEs", and the review of v4 to v9 of "KVM: x86/mmu: Age sptes locklessly" (J. Houghton), 2024-07 to 2025-02.
 */
import {
  type Cell,
  clearU64,
  compareExchangeEntry,
  exchangeEntry,
  fetchAnd,
  load,
  loadEntry,
  type Steps,
  storeEntry,
  type U64,
  u64,
} from "../../engine/index.ts";
import { mayBePreempted, preemptDisable, preemptEnable, preemptionPoint } from "../../kernel/index.ts";
import { kvmSetPfnDirty } from "../pfn-dirty.ts";
import {
  isAccessedSpte,
  isShadowPresentPte,
  isWritablePte,
  markSpteForAccessTrack,
  spteAdEnabled,
  spteHasVolatileBits,
  spteToPfn,
} from "../spte.ts";
import type { RmapAging } from "../variants.ts";
import { rmapEntriesLockless, rmapLock, rmapUnlock, spteAt } from "./rmap.ts";
import type { ShadowMmu } from "./shadow-mmu.ts";
import type { Sptep } from "./spte-change.ts";

interface Design {
  readonly preemptible: boolean;
  readonly lock: "held" | "none" | "given-back";
  readonly rechecks: boolean;
  readonly withoutAd: "compare-exchange" | "update" | "store" | "leave";
}

const LINUX: Design = { preemptible: false, lock: "held", rechecks: false, withoutAd: "compare-exchange" };
const DESIGNS: Readonly<Record<RmapAging, Design>> = {
  "bit-lock": LINUX,
  bare: { ...LINUX, preemptible: true, lock: "none" },
  recheck: { ...LINUX, preemptible: true, lock: "none", rechecks: true },
  preemptible: { ...LINUX, preemptible: true },
  "early-unlock": { ...LINUX, lock: "given-back" },
  "ad-only": { ...LINUX, withoutAd: "leave" },
  "plain-mark": { ...LINUX, withoutAd: "store" },
};
const NONE: readonly number[] = [];
const UNDER_MMU_LOCK: Design = { ...LINUX, withoutAd: "update" };

/** The part of kvm_rmap_age_gfn_range() for one head: true when an entry was used. @param test only look */
export function* ageRmap(shadow: ShadowMmu, head: Cell, test: boolean): Steps<boolean> {
  const { world, gfnRmaps, kernel, kvm } = shadow;
  const design = kernel === "7.2" ? DESIGNS[kvm.variants.rmapAging] : UNDER_MMU_LOCK;
  if (!design.preemptible) preemptDisable(world);
  const value = design.lock === "none" ? yield* load(head) : yield* rmapLock(head, gfnRmaps);
  const entries = value === 0 ? NONE : yield* rmapEntriesLockless(world, value);
  if (design.lock === "given-back") yield* rmapUnlock(head, gfnRmaps, value, false);
  let young = false;
  for (const sptep of entries) {
    const spte = yield* loadEntry(world, sptep);
    if (!isShadowPresentPte(spte) || !isAccessedSpte(shadow.layout, spte)) continue;
    if (design.rechecks && (yield* load(head)) !== value) continue;
    young = true;
    if (test) break;
    yield* ageSpte(shadow, design, sptep, spte);
  }
  if (mayBePreempted(world)) yield* preemptionPoint(world);
  if (design.lock === "held" && value !== 0) yield* rmapUnlock(head, gfnRmaps, value, false);
  if (!design.preemptible) preemptEnable(world);
  return young;
}

const ALL_BITS = u64(0xffffffff, 0xffffffff);

/** mmu_spte_age(): the entry, which was used, counts as unused from here on. */
function* ageSpte(shadow: ShadowMmu, { rechecks, withoutAd }: Design, sptep: Sptep, spte: U64): Steps<void> {
  const { layout } = shadow;
  if (spteAdEnabled(layout, spte)) {
    if (rechecks) yield* compareExchangeEntry(shadow.world, sptep, spte, clearU64(spte, layout.accessed));
    else yield* fetchAnd(spteAt(shadow.world, sptep), clearU64(ALL_BITS, layout.accessed));
    return;
  }
  if (withoutAd === "leave") return;
  if (isWritablePte(spte)) kvmSetPfnDirty(shadow.kvm, spteToPfn(spte));
  const aged = markSpteForAccessTrack(layout, spte);
  if (withoutAd === "compare-exchange") yield* compareExchangeEntry(shadow.world, sptep, spte, aged);
  else if (withoutAd === "update" && spteHasVolatileBits(layout, spte)) yield* exchangeEntry(shadow.world, sptep, aged);
  else yield* storeEntry(shadow.world, sptep, aged);
}
