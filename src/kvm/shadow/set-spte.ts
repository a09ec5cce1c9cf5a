/**
 * Setting a leaf, and filling its neighbours ahead of use.
 *
 *     mmu_set_spte           what stood there goes if it is another page; the entry; then the reverse map
 *     FNAME(pte_prefetch)    the other seven entries of the aligned group of eight, as far as the guest's own say what they map and the host has
 *                            the pages at hand; the first that cannot be filled ends it
 *     direct_pte_prefetch    runs of such entries in a direct page
 *
 * Stands for these functions and validate_direct_spte() of 6.12 and 7.2.
 */
import { deepCall, load, loadEntry, type Steps, sameU64, type U64 } from "../../engine/index.ts";
import { getUserPageFast, putPage } from "../../kernel/index.ts";
import { type Gfn, guestEntryFrame, type Pfn, PG_LEVEL_4K, gfn as toGfn } from "../../machine/index.ts";
import { gpteAccess } from "../cpu-role.ts";
import { protectCleanGpte } from "../guest-walk.ts";
import {
  gfnToHva,
  gfnToMemslot,
  KVM_MEM_LOG_DIRTY_PAGES,
  KVM_MEM_READONLY,
  KVM_MEMSLOT_INVALID,
  type KvmMemorySlot,
} from "../memslots.ts";
import { KVM_PFN_NOSLOT, type RetPf } from "../page-fault.ts";
import { kvmFlushRemoteTlbs } from "../requests.ts";
import { roleAccess, roleIsDirect, roleLevel } from "../role.ts";
import { isLargePte, isLastSpte, isShadowPresentPte, spteToPfn } from "../spte.ts";
import type { Vcpu } from "../vcpu.ts";
import { makeShadowSpte, markShadowMmioSpte } from "./make-spte.ts";
import { type ShadowPage, spLevel, spteIndex, spteOf } from "./page.ts";
import type { ShadowMmu } from "./shadow-mmu.ts";
import { dropSpte, mmuSpteUpdate, rmapAdd, type Sptep } from "./spte-change.ts";
import { prefetchInvalidGpte } from "./sync.ts";
import { kvmUnsyncPage } from "./unsync.ts";
import { dropParentPte } from "./zap.ts";

/** PTE_PREFETCH_NUM */
export const PTE_PREFETCH_NUM = 8;

export interface SetSpteRequest {
  /** Null: MMIO. */
  readonly slot: KvmMemorySlot | null;
  readonly sptep: Sptep;
  readonly access: number;
  /** First frame of the entry's page, and its host frame. */
  readonly gfn: Gfn;
  readonly pfn: Pfn;
  readonly hostWritable: boolean;
  readonly write: boolean;
  readonly prefetch: boolean;
}

/** mmu_set_spte() */
export function* mmuSetSpte(vcpu: Vcpu, shadow: ShadowMmu, request: SetSpteRequest): Steps<RetPf> {
  const { sptep, gfn, pfn, access, slot, prefetch, hostWritable } = request;
  const sp = shadow.pages.ofEntry(sptep);
  const level = spLevel(sp);
  let old = yield* loadEntry(shadow.world, sptep);
  let wasRmapped = false;
  let flush = false;
  const isMmio = pfn === KVM_PFN_NOSLOT || slot === null;
  const dropsFirst = !isMmio || !shadow.kvm.lacks("mmio-spte-over-present-spte");
  if (dropsFirst && isShadowPresentPte(old)) {
    // What is there may be in use; what is made ahead of use would be less.
    const isKnown = prefetch && isLastSpte(old, level) && pfn === spteToPfn(old);
    if (isKnown && shadow.kernel === "7.2") return "spurious";
    if (level > PG_LEVEL_4K && !isLargePte(old)) {
      yield* dropParentPte(shadow, shadow.pages.ofFrame(spteToPfn(old)), sptep);
      flush = true;
    } else if (pfn !== spteToPfn(old)) {
      yield* dropSpte(shadow, sptep);
      flush = true;
    } else {
      wasRmapped = true;
    }
    old = yield* loadEntry(shadow.world, sptep);
  }
  if (isMmio) {
    vcpu.count("pf_mmio_spte_created");
    yield* markShadowMmioSpte(shadow, sptep, gfn, access);
    if (flush) yield* kvmFlushRemoteTlbs(shadow.vm);
    return "emulate";
  }
  const unmarked: ShadowPage[] | null = shadow.kvm.variants.unsyncMark === "after-writable" ? [] : null;
  const made = yield* makeShadowSpte(vcpu, shadow, {
    unmarked,
    level,
    slot,
    gfn,
    pfn,
    access,
    old,
    prefetch,
    synchronizing: false,
    hostWritable,
  });
  let result: RetPf = "fixed";
  if (sameU64(old, made.spte)) {
    result = "spurious";
  } else {
    if (yield* mmuSpteUpdate(shadow, sptep, made.spte)) flush = true;
    // The tracepoint itself looks at the entry again.
    if (shadow.world.tracepoints)
      shadow.emit({ name: "kvm_mmu_set_spte", gfn, spte: yield* loadEntry(shadow.world, sptep), level, at: sptep });
  }
  if (unmarked !== null) for (const each of unmarked) yield* kvmUnsyncPage(shadow, each);
  if (made.wrprot && request.write) result = "write-protected";
  if (flush) yield* kvmFlushRemoteTlbs(shadow.vm);
  // The entry is there before the reverse map has it; nobody looks for it without mmu_lock.
  if (!wasRmapped) yield* rmapAdd(shadow, slot, sptep, gfn, access);
  // kvm_mmu_page_set_access(): the reverse map, and so the frame, are those of before, also where another frame is the same host page.
  else shadow.pages.setTranslation(sp, spteIndex(sptep), shadow.pages.gfnOf(sp, spteIndex(sptep)), access);
  return result;
}

/** validate_direct_spte(): a table of the same frames with other rights stands there. It goes, from the TLBs too. */
export function* validateDirectSpte(shadow: ShadowMmu, sptep: Sptep, access: number): Steps<void> {
  const spte = yield* loadEntry(shadow.world, sptep);
  if (!isShadowPresentPte(spte) || isLargePte(spte)) return;
  const child = shadow.pages.ofFrame(spteToPfn(spte));
  if (roleAccess(shadow.roles, child.role.value) === access) return;
  yield* dropParentPte(shadow, child, sptep);
  yield* kvmFlushRemoteTlbs(shadow.vm);
}

// --- prefetch --------------------------------------------------------------------------------------------------------

/**
 * FNAME(pte_prefetch).
 * @param gptes the guest's entries of the group, as they were when the faulting one was checked; null above the last level
 */
export function* ptePrefetch(vcpu: Vcpu, shadow: ShadowMmu, sptep: Sptep, gptes: readonly U64[] | null): Steps<void> {
  // An address that is being invalidated must not be mapped; which, nobody asks here.
  if ((yield* load(shadow.kvm.mmuInvalidateInProgress)) !== 0) return;
  const role = shadow.pages.ofEntry(sptep).role.value;
  if (roleLevel(role) > PG_LEVEL_4K) return;
  if (roleIsDirect(role)) {
    yield* directPtePrefetch(vcpu, shadow, sptep);
    return;
  }
  if (gptes === null) return;
  const allowed = roleAccess(shadow.roles, role);
  const first = sptep - 8 * (spteIndex(sptep) & (PTE_PREFETCH_NUM - 1));
  for (let i = 0; i < PTE_PREFETCH_NUM; i++) {
    const each = first + 8 * i;
    if (each === sptep || isShadowPresentPte(yield* loadEntry(shadow.world, each))) continue;
    if (!(yield* prefetchGpte(vcpu, shadow, each, gptes[i] as U64, allowed))) return;
  }
}

/** FNAME(prefetch_gpte). @param allowed by the entries above: the page's role says so */
function* prefetchGpte(vcpu: Vcpu, shadow: ShadowMmu, sptep: Sptep, gpte: U64, allowed: number): Steps<boolean> {
  if (yield* prefetchInvalidGpte(vcpu, shadow, sptep, gpte)) return false;
  const frame = toGfn(guestEntryFrame(vcpu.guest.mode, gpte, PG_LEVEL_4K));
  const rights = allowed & gpteAccess(shadow.bits, gpte);
  const access = protectCleanGpte(shadow.bits, rights, gpte);
  const slot = yield* slotToPrefetch(shadow, frame, 1, access);
  if (slot === null) return false;
  const pfn = yield* pageToPrefetch(shadow, slot, frame);
  if (pfn === null) return false;
  yield* setPrefetched(vcpu, shadow, { slot, sptep, gfn: frame, pfn, access });
  return true;
}

/** direct_pte_prefetch(), __direct_pte_prefetch() */
function* directPtePrefetch(vcpu: Vcpu, shadow: ShadowMmu, sptep: Sptep): Steps<void> {
  const sp = shadow.pages.ofEntry(sptep);
  const access = roleAccess(shadow.roles, sp.role.value);
  const first = spteIndex(sptep) - (spteIndex(sptep) % PTE_PREFETCH_NUM);
  let start: number | null = null;
  for (let i = first; i <= first + PTE_PREFETCH_NUM; i++) {
    const atEnd = i === first + PTE_PREFETCH_NUM;
    const each = spteOf(sp, Math.min(i, first + PTE_PREFETCH_NUM - 1));
    const isTaken = atEnd || each === sptep || isShadowPresentPte(yield* loadEntry(shadow.world, each));
    if (!isTaken) {
      start ??= i;
      continue;
    }
    if (start === null) continue;
    const [from, gfn] = [spteOf(sp, start), shadow.pages.gfnOf(sp, start)];
    const filled: number = yield* deepCall(shadow.world, prefetchSptes(vcpu, shadow, from, gfn, i - start, access));
    if (filled === 0) return;
    start = null;
  }
}

/** kvm_mmu_prefetch_sptes(): maps frames in a row, as long as the host has them at hand; returns how many. */
function* prefetchSptes(
  vcpu: Vcpu,
  shadow: ShadowMmu,
  first: Sptep,
  frame: Gfn,
  count: number,
  access: number,
): Steps<number> {
  const slot = yield* slotToPrefetch(shadow, frame, count, access);
  if (slot === null) return 0;
  const found: Pfn[] = [];
  for (let i = 0; i < count; i++) {
    const pfn = yield* pageToPrefetch(shadow, slot, toGfn(frame + i));
    if (pfn === null) break;
    found.push(pfn);
  }
  for (let i = 0; i < found.length; i++) {
    const place = { slot, sptep: first + 8 * i, gfn: toGfn(frame + i), pfn: found[i] as Pfn, access };
    yield* setPrefetched(vcpu, shadow, place);
  }
  return found.length;
}

/** The slot of frames that may be mapped ahead of use; null: they may not. */
function* slotToPrefetch(shadow: ShadowMmu, frame: Gfn, count: number, access: number): Steps<KvmMemorySlot | null> {
  const slot = yield* gfnToMemslot(shadow.kvm.memslots, frame);
  if (slot === null) return null;
  // A page that is filled in ahead would be logged as written.
  const logged = (access & shadow.bits.write) !== 0 ? KVM_MEM_LOG_DIRTY_PAGES : 0;
  if ((slot.flags.value & (KVM_MEMSLOT_INVALID | KVM_MEM_READONLY | logged)) !== 0) return null;
  const isWithin = count === 1 || frame + count <= slot.base_gfn.value + slot.npages.value;
  return isWithin ? slot : null;
}

/** The host's page of a frame, if it is at hand, with a reference. */
function* pageToPrefetch({ kvm }: ShadowMmu, slot: KvmMemorySlot, frame: Gfn): Steps<Pfn | null> {
  const hva = gfnToHva(slot, frame);
  kvm.mm.policy?.beforePrefetch(hva);
  const page = yield* getUserPageFast(kvm.mm, hva, true);
  return page === null ? null : page.pfn;
}

/** An entry ahead of use, and what is to stand there. */
type PrefetchedSpte = Pick<SetSpteRequest, "sptep" | "gfn" | "pfn" | "access"> & { readonly slot: KvmMemorySlot };

function* setPrefetched(vcpu: Vcpu, shadow: ShadowMmu, place: PrefetchedSpte): Steps<void> {
  const { slot, sptep, gfn, pfn, access } = place;
  yield* mmuSetSpte(vcpu, shadow, {
    slot,
    sptep,
    gfn,
    pfn,
    access,
    hostWritable: true,
    write: false,
    prefetch: true,
  });
  yield* putPage(shadow.kvm.mm.frames, pfn);
}
