/**
 * SPTEs: the entries of the tables that KVM builds for the hardware.
 *
 * Legacy layout, which NPT uses, with KVM's software bits:
 *
 *      63   62        52 51             12 11    10      9      8  7  6  5  4  3  2  1  0
 *     +----+------------+-----------------+-----+------+------+--+--+--+--+--+--+--+--+--+
 *     | NX |            | frame           | KVM |MMU-W |host-W|  |PS| D| A|     | U| W| P|
 *     +----+------------+-----------------+-----+------+------+--+--+--+--+--+--+--+--+--+
 *
 *     0x...827  table             0x...e67  4K, writable, accessed and dirty     0x...ee7  the same, 2M
 *     0x...825  4K, the host has it read-only                                    0x...e65  write-protected for dirty logging
 *
 * MMU-W without host-W, or W without MMU-W, never occurs. An entry that KVM does not call present (bit 11) is the non-present value,
 * frozen (somebody is about to change it), or MMIO. The masks are data, so that another layout (EPT) is another table of them.
 */
import {
  andU64,
  assert,
  bitU64,
  clearU64,
  orU64,
  sameU64,
  testU64,
  type U64,
  U64_ZERO,
  u64,
  Violation,
} from "../engine/index.ts";
import {
  entryFrame,
  frameBits,
  hasPageSize,
  type Pfn,
  PG_LEVEL_4K,
  PT_ACCESSED_MASK,
  PT_DIRTY_MASK,
  PT_PAGE_SIZE_MASK,
  PT_PRESENT_MASK,
  PT_USER_MASK,
  PT_WRITABLE_MASK,
  PT64_NX_MASK,
} from "../machine/index.ts";
import type { KernelVersion } from "./variants.ts";

export const SPTE_MMU_PRESENT_MASK: U64 = bitU64(11);

/** The masks of one mode of paging in one kernel. */
export interface SpteLayout {
  /** shadow_present_mask and so on. */
  readonly present: U64;
  readonly user: U64;
  readonly nx: U64;
  readonly accessed: U64;
  readonly dirty: U64;
  readonly hostWritable: U64;
  readonly mmuWritable: U64;
  /** SHADOW_NONPRESENT_VALUE */
  readonly nonPresent: U64;
  /** FROZEN_SPTE */
  readonly frozen: U64;
}

const NON_PRESENT: U64 = bitU64(63);

function nptLayout(frozenLow: number): SpteLayout {
  return {
    present: PT_PRESENT_MASK,
    user: PT_USER_MASK,
    nx: PT64_NX_MASK,
    accessed: PT_ACCESSED_MASK,
    dirty: PT_DIRTY_MASK,
    hostWritable: bitU64(9),
    mmuWritable: bitU64(10),
    nonPresent: NON_PRESENT,
    frozen: orU64(NON_PRESENT, u64(0, frozenLow)),
  };
}

const NPT_LAYOUTS: Readonly<Record<KernelVersion, SpteLayout>> = { "6.12": nptLayout(0x5a0), "7.2": nptLayout(0x1a0) };

export function spteLayout(kernel: KernelVersion): SpteLayout {
  return NPT_LAYOUTS[kernel];
}

for (const layout of Object.values(NPT_LAYOUTS)) {
  assert(!testU64(layout.frozen, SPTE_MMU_PRESENT_MASK), "a frozen SPTE must not look present");
  assert(
    !testU64(andU64(layout.hostWritable, layout.mmuWritable), bitU64(63)),
    "software bits must not overlap the hardware's",
  );
  assert(sameU64(andU64(layout.hostWritable, layout.mmuWritable), U64_ZERO), "software bits must not overlap");
}

// --- predicates ------------------------------------------------------------------------------------------------------

export function isShadowPresentPte(spte: U64): boolean {
  return (spte.lo & 0x800) !== 0;
}

export function isLargePte(spte: U64): boolean {
  return hasPageSize(spte);
}

/** Meaningful only for a present entry. */
export function isLastSpte(spte: U64, level: number): boolean {
  return level === PG_LEVEL_4K || isLargePte(spte);
}

export function isFrozenSpte(layout: SpteLayout, spte: U64): boolean {
  return sameU64(spte, layout.frozen);
}

export function isWritablePte(spte: U64): boolean {
  return (spte.lo & 2) !== 0;
}

export function isMmuWritableSpte(layout: SpteLayout, spte: U64): boolean {
  return testU64(spte, layout.mmuWritable);
}

export function isHostWritableSpte(layout: SpteLayout, spte: U64): boolean {
  return testU64(spte, layout.hostWritable);
}

export function isDirtySpte(layout: SpteLayout, spte: U64): boolean {
  return testU64(spte, layout.dirty);
}

export function isAccessedSpte(layout: SpteLayout, spte: U64): boolean {
  return testU64(spte, layout.accessed);
}

export function spteToPfn(spte: U64): Pfn {
  return entryFrame(spte);
}

/** is_access_allowed(): may an access of this kind go ahead with the entry? */
export function isAccessAllowed(
  layout: SpteLayout,
  access: { readonly write: boolean; readonly exec: boolean },
  spte: U64,
): boolean {
  if (access.exec) return !testU64(spte, layout.nx);
  if (access.write) return isWritablePte(spte);
  return testU64(spte, PT_PRESENT_MASK);
}

/**
 * May the entry change under whoever holds mmu_lock: by a fast page fault that gives W back, or by the hardware setting A or D? A change to
 * such an entry must fetch the old value in the same step as it writes the new one.
 */
export function spteHasVolatileBits(layout: SpteLayout, spte: U64, kernel: KernelVersion): boolean {
  const writable = isWritablePte(spte);
  if (!writable && isMmuWritableSpte(layout, spte)) return true;
  if (kernel === "6.12" && !isAccessedSpte(layout, spte)) return true;
  return writable && !isDirtySpte(layout, spte);
}

/** check_spte_writable_invariants(): @throws Violation */
export function checkSpteWritableInvariants(layout: SpteLayout, spte: U64): void {
  const mmuWritable = isMmuWritableSpte(layout, spte);
  if (mmuWritable && !isHostWritableSpte(layout, spte)) {
    throw new Violation(
      "mmu-writable-implies-host-writable",
      "an SPTE is MMU-writable although the host has the page read-only",
    );
  }
  if (isWritablePte(spte) && !mmuWritable) {
    throw new Violation("writable-implies-mmu-writable", "an SPTE is writable but not MMU-writable");
  }
}

// --- builders --------------------------------------------------------------------------------------------------------

/** make_nonleaf_spte(): the entry that links a table. */
export function makeNonleafSpte(layout: SpteLayout, child: Pfn): U64 {
  const bits = [layout.present, PT_WRITABLE_MASK, layout.user, layout.accessed, frameBits(child)];
  return bits.reduce(orU64, SPTE_MMU_PRESENT_MASK);
}

export interface SpteRequest {
  readonly level: number;
  readonly pfn: Pfn;
  /** The host's own mapping of the page is writable. */
  readonly hostWritable: boolean;
  readonly exec: boolean;
  /** Made ahead of use, so not accessed yet. */
  readonly prefetch: boolean;
  /** The guest frame may be mapped writable: no shadow page would notice the writes. */
  readonly mayWrite: boolean;
}

/** make_spte() for a direct map with A/D bits: the entry for a page. */
export function makeSpte(layout: SpteLayout, request: SpteRequest): U64 {
  let spte = orU64(SPTE_MMU_PRESENT_MASK, orU64(layout.present, layout.user));
  if (!request.prefetch) spte = orU64(spte, layout.accessed);
  if (!request.exec) spte = orU64(spte, layout.nx);
  if (request.level > PG_LEVEL_4K) spte = orU64(spte, PT_PAGE_SIZE_MASK);
  spte = orU64(spte, frameBits(request.pfn));
  if (!request.hostWritable) return spte;
  spte = orU64(spte, layout.hostWritable);
  if (!request.mayWrite) return spte;
  return [PT_WRITABLE_MASK, layout.mmuWritable, layout.dirty].reduce(orU64, spte);
}

/** make_small_spte(): one of the entries that a huge one is split into. */
export function makeSmallSpte(huge: U64, level: number, index: number, pagesPerEntry: number): U64 {
  const frame = (spteToPfn(huge) + index * pagesPerEntry) as Pfn;
  const withFrame = orU64(clearU64(huge, u64(0x000fffff, 0xfffff000)), frameBits(frame));
  return level === PG_LEVEL_4K ? clearU64(withFrame, PT_PAGE_SIZE_MASK) : withFrame;
}
