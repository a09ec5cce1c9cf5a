/**
 * Fast page faults: what only KVM took away is given back by one compare-exchange, without mmu_lock.
 *
 *     W     write-protected for dirty logging or access tracking: MMU-writable says that it may come back
 *     R, X  access-tracked, where the CPU keeps no A bits
 *
 * The page is marked dirty after W is there. In between, a log may be fetched that does not have the page: it protects the page again, and the bit
 * that is set late is in the next log. Were the bit set first, that log would take it, and the write that follows would be in none.
 * Stands for fast_page_fault() of 6.12 and 7.2, over the TDP MMU; shadow/fault.ts has it over direct shadow pages.
 */
import { type Cell, compareExchange, load, orU64, type Steps, sameU64, type U64 } from "../engine/index.ts";
import { rcuReadLock, rcuReadUnlock } from "../kernel/index.ts";
import { PFERR_RSVD, PG_LEVEL_4K, PT_WRITABLE_MASK, gfn as toGfn } from "../machine/index.ts";
import { markPageDirtyInSlot } from "./dirty-log.ts";
import { kvmSlotDirtyTrackEnabled } from "./huge-page.ts";
import { errorBit, type KvmPageFault, type RetPf } from "./page-fault.ts";
import {
  isAccessAllowed,
  isAccessTrackSpte,
  isLastSpte,
  isMmuWritableSpte,
  isShadowPresentPte,
  isWritablePte,
  restoreAccTrackSpte,
  type SpteLayout,
} from "./spte.ts";
import { tdpIterNext, tdpIterStart } from "./tdp-iter.ts";
import type { Vcpu } from "./vcpu.ts";

const FAST_PF_RETRIES_MAX = 4;

/** page_fault_can_be_fast(): a write to a present entry; or, without A/D bits, an entry that may only be access-tracked. */
export function pageFaultCanBeFast(layout: SpteLayout, fault: KvmPageFault): boolean {
  if (errorBit(fault.errorCode, PFERR_RSVD)) return false;
  return fault.present ? fault.write : !layout.adEnabled;
}

/** fast_page_fault() */
export function* fastPageFault(vcpu: Vcpu, fault: KvmPageFault): Steps<RetPf> {
  const { tdp, kvm } = vcpu.vm;
  if (!pageFaultCanBeFast(tdp.layout, fault)) return "invalid";
  yield* rcuReadLock(kvm.kernel.rcu);
  let outcome: FastOutcome | null = null;
  for (let tries = 0; outcome === null || (outcome.result === "retry" && tries <= FAST_PF_RETRIES_MAX); tries++) {
    outcome = yield* tryFastPageFault(vcpu, fault);
  }
  const { sptep, oldSpte } = outcome;
  const result = outcome.result === "retry" ? "invalid" : outcome.result;
  const newSpte = yield* load(sptep);
  tdp.emit({
    name: "fast_page_fault",
    vcpu: vcpu.id,
    address: fault.addr,
    errorCode: fault.errorCode,
    sptep: sptep.addr,
    oldSpte,
    newSpte,
    spurious: result === "spurious",
    fixed: result === "fixed",
  });
  yield* rcuReadUnlock(kvm.kernel.rcu);
  if (result !== "invalid") vcpu.count("pf_fast");
  return result;
}

interface FastOutcome {
  readonly result: RetPf;
  readonly sptep: Cell<U64>;
  readonly oldSpte: U64;
}

function* tryFastPageFault(vcpu: Vcpu, fault: KvmPageFault): Steps<FastOutcome> {
  const { tdp } = vcpu.vm;
  const { layout } = tdp;
  const root = tdp.pages.ofEntry(vcpu.rootHpa.value);
  const iter = yield* tdpIterStart(tdp.world, root, PG_LEVEL_4K, fault.gfn, toGfn(fault.gfn + 1));
  let sptep = iter.sptep;
  let spte = iter.oldSpte;
  let level = iter.level;
  for (; iter.valid; yield* tdpIterNext(iter)) {
    sptep = iter.sptep;
    spte = iter.oldSpte;
    level = iter.level;
  }
  const outcome = (result: RetPf): FastOutcome => ({ result, sptep, oldSpte: spte });
  const newSpte = fastFixedSpte(layout, fault, spte, level, vcpu.vm.kvm.variants.fastFixesLarge);
  if (typeof newSpte === "string") return outcome(newSpte);
  return outcome((yield* fastPfFixDirectSpte(vcpu, fault, sptep, spte, newSpte)) ? "fixed" : "retry");
}

/** The part of fast_page_fault() that both MMUs have: what the entry is to become, or why it stays. @param fixesLarge see {@link KvmVariants.fastFixesLarge} */
export function fastFixedSpte(
  layout: SpteLayout,
  fault: KvmPageFault,
  spte: U64,
  level: number,
  fixesLarge: boolean,
): U64 | "invalid" | "spurious" {
  if (!isShadowPresentPte(spte) || !isLastSpte(spte, level)) return "invalid";
  if (isAccessAllowed(layout, fault, spte)) return "spurious";
  let newSpte = spte;
  if (!layout.adEnabled && isAccessTrackSpte(layout, spte)) {
    // 7.2 keeps the A bit in software, and this is an access.
    const accessed = layout.kernel === "7.2" ? layout.accessed : layout.read;
    newSpte = orU64(restoreAccTrackSpte(layout, spte), accessed);
  }
  if (fault.write && isMmuWritableSpte(layout, spte)) {
    newSpte = orU64(newSpte, PT_WRITABLE_MASK);
    // Only one 4K page would be logged as dirty: a huge page has to be split first.
    const mustSplit = level > PG_LEVEL_4K && fault.slot !== null && kvmSlotDirtyTrackEnabled(fault.slot);
    if (mustSplit && !fixesLarge) return "invalid";
  }
  return sameU64(newSpte, spte) || !isAccessAllowed(layout, fault, newSpte) ? "invalid" : newSpte;
}

/** fast_pf_fix_direct_spte(): false when the entry is no longer what it was. */
function* fastPfFixDirectSpte(
  vcpu: Vcpu,
  fault: KvmPageFault,
  sptep: Cell<U64>,
  oldSpte: U64,
  newSpte: U64,
): Steps<boolean> {
  const found = yield* compareExchange(sptep, oldSpte, newSpte);
  if (!sameU64(found, oldSpte)) return false;
  if (isWritablePte(newSpte) && !isWritablePte(oldSpte) && fault.slot !== null) {
    yield* markPageDirtyInSlot(vcpu.vm.kvm, fault.slot, fault.gfn, vcpu.dirtyRing);
  }
  return true;
}
