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
 * EPT has X in bit 2 instead of NX, A and D in bits 8 and 9, the memory type in bits 3 to 6; its software bits lie higher (spte-layout.ts).
 * Without A/D bits the hardware tells nothing of accesses. KVM then takes R, W and X away and keeps R and X in software bits (the entry is
 * "access-tracked"), so that the next access faults and puts them back.
 *
 * MMU-W without host-W, or W without MMU-W, never occurs. An entry that KVM does not call present (bit 11) is the non-present value,
 * frozen (somebody is about to change it), or MMIO. The masks are data, so that another layout is another table of them.
 *
 * Stands for spte.c and spte.h of 6.12 and 7.2.
 */
import { andU64, clearU64, orU64, sameU64, testU64, type U64, u64, Violation } from "../engine/index.ts";
import {
  entryFrame,
  frameBits,
  hasPageSize,
  type Pfn,
  PG_LEVEL_4K,
  PT_PAGE_SIZE_MASK,
  PT_PRESENT_MASK,
  PT_WRITABLE_MASK,
} from "../machine/index.ts";
import { SPTE_MMU_PRESENT_MASK, type SpteLayout } from "./spte-layout.ts";

export { type SpteLayout, spteLayout } from "./spte-layout.ts";

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

/** is_executable_pte() */
export function isExecutablePte(layout: SpteLayout, spte: U64): boolean {
  return !testU64(spte, layout.nx) && sameU64(andU64(spte, layout.exec), layout.exec);
}

export function isMmuWritableSpte(layout: SpteLayout, spte: U64): boolean {
  return testU64(spte, layout.mmuWritable);
}

export function isHostWritableSpte(layout: SpteLayout, spte: U64): boolean {
  return testU64(spte, layout.hostWritable);
}

/** spte_ad_enabled(): the hardware keeps A and D in this entry. */
export function spteAdEnabled(layout: SpteLayout, spte: U64): boolean {
  return !sameU64(andU64(spte, layout.adType), layout.adDisabled);
}

/** is_access_track_spte(): R, W and X are taken away, so that the next access faults. */
export function isAccessTrackSpte(layout: SpteLayout, spte: U64): boolean {
  return !spteAdEnabled(layout, spte) && !testU64(spte, layout.accTrack);
}

/** is_dirty_spte(): 6.12 takes W for D where there is no D; 7.2 keeps the bit itself in software. */
export function isDirtySpte(layout: SpteLayout, spte: U64): boolean {
  if (layout.kernel === "6.12" && !spteAdEnabled(layout, spte)) return isWritablePte(spte);
  return testU64(spte, layout.dirty);
}

/** is_accessed_spte(): likewise for A. */
export function isAccessedSpte(layout: SpteLayout, spte: U64): boolean {
  if (layout.kernel === "6.12" && !spteAdEnabled(layout, spte)) return !isAccessTrackSpte(layout, spte);
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
  if (access.exec) return isExecutablePte(layout, spte);
  if (access.write) return isWritablePte(spte);
  return testU64(spte, PT_PRESENT_MASK);
}

/**
 * spte_has_volatile_bits() (6.12), spte_needs_atomic_update() (7.2): may the entry change under whoever holds mmu_lock: by a fast page fault that gives
 * rights back, by the hardware setting A or D, or by aging? A change to such an entry must fetch the old value in the same step as it
 * writes the new one. 7.2 ages without mmu_lock, so it counts every entry without A/D bits; and it does not mind losing an A bit.
 * @param adDisabled entries without A/D bits count at all times
 */
export function spteHasVolatileBits(layout: SpteLayout, spte: U64, adDisabled = layout.kernel === "7.2"): boolean {
  const writable = isWritablePte(spte);
  if (!writable && isMmuWritableSpte(layout, spte)) return true;
  if (!spteAdEnabled(layout, spte)) return adDisabled || isAccessTrackSpte(layout, spte);
  if (layout.kernel === "6.12" && !isAccessedSpte(layout, spte)) return true;
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
  const ad = layout.adEnabled ? layout.accessed : layout.adDisabled;
  const bits = [layout.present, layout.read, PT_WRITABLE_MASK, layout.user, layout.exec, ad, frameBits(child)];
  return bits.reduce(orU64, SPTE_MMU_PRESENT_MASK);
}

export interface SpteRequest {
  readonly level: number;
  readonly pfn: Pfn;
  /** The host's own mapping of the page is writable. */
  readonly hostWritable: boolean;
  /** What the guest may do: of a direct map everything. */
  readonly write: boolean;
  readonly exec: boolean;
  readonly user: boolean;
  /** Made ahead of use, so not accessed yet. */
  readonly prefetch: boolean;
  /** Made anew when a shadow page is synchronised: 7.2 takes it for accessed. */
  readonly synchronizing: boolean;
  /** The guest frame may be mapped writable: no shadow page would miss the writes. */
  readonly mayWrite: boolean;
  /** What stands in the entry now. */
  readonly old: U64;
  /** is_nx_huge_page_enabled(): no huge page is executable. */
  readonly nxHugePages: boolean;
}

/** make_spte(): the entry for a page. Marking it dirty in the log is the caller's part. */
export function makeSpte(layout: SpteLayout, request: SpteRequest): U64 {
  const { level, prefetch, hostWritable } = request;
  const isNewer = layout.kernel === "7.2";
  const isHuge = level > PG_LEVEL_4K;
  let is = 0;
  if (!prefetch || (isNewer && request.synchronizing)) is |= IS_ACCESSED;
  if (request.exec && !(isHuge && request.nxHugePages)) is |= IS_EXECUTABLE;
  if (request.user) is |= IS_USERS;
  if (isHuge) is |= IS_HUGE;
  if (hostWritable) is |= IS_HOST_WRITABLE;
  // Whether it was present is not asked: an MMIO entry has the bit of W too.
  const wasWritable = isLastSpte(request.old, level) && isWritablePte(request.old);
  if (hostWritable && request.write && (wasWritable || request.mayWrite)) {
    is |= IS_WRITABLE;
    // 6.12 leaves D alone when the old entry was writable already.
    if (isNewer || !wasWritable) is |= IS_DIRTY;
  }
  return orU64(leafBits(layout, is), frameBits(request.pfn));
}

/** What decides all bits of a leaf but its frame. */
const IS_ACCESSED = 1;
const IS_EXECUTABLE = 2;
const IS_USERS = 4;
const IS_HUGE = 8;
const IS_HOST_WRITABLE = 16;
const IS_WRITABLE = 32;
const IS_DIRTY = 64;

/** The bits of a leaf besides its frame: made once for each combination. */
function leafBits(layout: SpteLayout, is: number): U64 {
  return layout.leafBits[is] ?? addLeafBits(layout, is);
}

function addLeafBits(layout: SpteLayout, is: number): U64 {
  const masks: readonly (readonly [condition: boolean, mask: U64])[] = [
    [true, SPTE_MMU_PRESENT_MASK],
    [true, layout.present],
    [true, layout.read],
    [true, layout.memoryType],
    [!layout.adEnabled, layout.adDisabled],
    [(is & IS_ACCESSED) !== 0, accessedMask(layout)],
    [true, (is & IS_EXECUTABLE) !== 0 ? layout.exec : layout.nx],
    [(is & IS_USERS) !== 0, layout.user],
    [(is & IS_HUGE) !== 0, PT_PAGE_SIZE_MASK],
    [(is & IS_HOST_WRITABLE) !== 0, layout.hostWritable],
    [(is & IS_WRITABLE) !== 0, orU64(PT_WRITABLE_MASK, layout.mmuWritable)],
    [(is & IS_DIRTY) !== 0, dirtyMask(layout)],
  ];
  const bits = masks.reduce((all, [condition, mask]) => (condition ? orU64(all, mask) : all), NO_BITS);
  const made = (is & IS_ACCESSED) !== 0 ? bits : markSpteForAccessTrack(layout, bits);
  layout.leafBits[is] = made;
  return made;
}

/** spte_shadow_accessed_mask(): before 7.2 only entries that the hardware keeps A in have it. */
function accessedMask(layout: SpteLayout): U64 {
  return layout.adEnabled || layout.kernel === "7.2" ? layout.accessed : NO_BITS;
}

function dirtyMask(layout: SpteLayout): U64 {
  return layout.adEnabled || layout.kernel === "7.2" ? layout.dirty : NO_BITS;
}

const NO_BITS: U64 = u64(0, 0);
/** Bits 12 to 51. */
const FRAME_MASK: U64 = u64(0x000fffff, 0xfffff000);

/** make_small_spte(): one of the entries that a huge one is split into. A 4K page may be executable again. */
export function makeSmallSpte(
  layout: SpteLayout,
  small: {
    readonly huge: U64;
    /** Level of the small entry, its place in its table, and how many 4K pages it maps. */
    readonly level: number;
    readonly index: number;
    readonly pages: number;
    readonly nxHugePages: boolean;
  },
): U64 {
  const frame = (spteToPfn(small.huge) + small.index * small.pages) as Pfn;
  const spte = orU64(clearU64(small.huge, FRAME_MASK), frameBits(frame));
  if (small.level > PG_LEVEL_4K) return spte;
  const page = clearU64(spte, PT_PAGE_SIZE_MASK);
  return small.nxHugePages ? changeExecution(layout, page, true) : page;
}

/** make_huge_spte() of 7.2: the entry that a table is recovered to, from one of its leaves. */
export function makeHugeSpte(layout: SpteLayout, small: U64, pages: number, nxHugePages: boolean): U64 {
  const frame = spteToPfn(small);
  const first = (frame - (frame % pages)) as Pfn;
  const huge = orU64(orU64(clearU64(small, FRAME_MASK), frameBits(first)), PT_PAGE_SIZE_MASK);
  return nxHugePages ? changeExecution(layout, huge, false) : huge;
}

/** make_spte_executable(), make_spte_nonexec(): an access-tracked entry has its rights put away, and again afterwards. */
function changeExecution(layout: SpteLayout, spte: U64, executable: boolean): U64 {
  const tracked = isAccessTrackSpte(layout, spte);
  const open = tracked ? restoreAccTrackSpte(layout, spte) : spte;
  const [add, drop] = executable ? [layout.exec, layout.nx] : [layout.nx, layout.exec];
  const changed = orU64(clearU64(open, drop), add);
  return tracked ? markSpteForAccessTrack(layout, changed) : changed;
}

/** mark_spte_for_access_track(): not accessed from here on. Without A/D bits the rights go, and R and X are kept aside; W comes back by MMU-W. */
export function markSpteForAccessTrack(layout: SpteLayout, spte: U64): U64 {
  if (spteAdEnabled(layout, spte)) return clearU64(spte, layout.accessed);
  if (isAccessTrackSpte(layout, spte)) return spte;
  const saved = u64((spte.lo & layout.savedRights) << (layout.savedShift - 32), 0);
  const dropped = layout.kernel === "7.2" ? orU64(layout.accTrack, layout.accessed) : layout.accTrack;
  return orU64(clearU64(spte, dropped), saved);
}

/** restore_acc_track_spte(): R and X come back, W does not. */
export function restoreAccTrackSpte(layout: SpteLayout, spte: U64): U64 {
  const shift = layout.savedShift - 32;
  const place = u64(layout.savedRights << shift, 0);
  const rights = u64(0, (spte.hi >>> shift) & layout.savedRights);
  return orU64(clearU64(spte, orU64(layout.accTrack, place)), rights);
}
