/**
 * An SPTE in words, for reports: its frame, and the names of the bits that are set.
 *
 * 0x90a00000003fcf77 of EPT is "frame 3fc: R W X A D host-W MMU-W"; what a non-present entry can be (frozen, MMIO) is said as such.
 */
import { andU64, sameU64, testU64, type U64, u64 } from "../engine/index.ts";
import { hasPageSize, PT_PRESENT_MASK, PT_WRITABLE_MASK } from "../machine/index.ts";
import { isMmioSpte } from "./mmio-spte.ts";
import { isAccessTrackSpte, isFrozenSpte, isLastSpte, isShadowPresentPte, spteAdEnabled, spteToPfn } from "./spte.ts";
import type { SpteLayout } from "./spte-layout.ts";

/** The names of the bits that are set in a present entry. */
function spteBits(layout: SpteLayout, spte: U64, level: number): string[] {
  const has = (mask: U64): boolean => !sameU64(mask, u64(0, 0)) && testU64(spte, mask);
  const isEpt = layout.paging !== "npt";
  const names: (string | false)[] = [
    !isEpt && has(PT_PRESENT_MASK) && "P",
    isEpt && has(u64(0, 1)) && "R",
    has(PT_WRITABLE_MASK) && "W",
    isEpt && sameU64(andU64(spte, layout.exec), layout.exec) && "X",
    !isEpt && has(layout.user) && "U",
    has(layout.nx) && "NX",
    level > 1 && hasPageSize(spte) && "large",
    has(layout.accessed) && "A",
    has(layout.dirty) && "D",
    has(layout.hostWritable) && "host-W",
    has(layout.mmuWritable) && "MMU-W",
    !spteAdEnabled(layout, spte) && "no-A/D",
    isAccessTrackSpte(layout, spte) && `access-tracked(${savedRights(layout, spte)})`,
  ];
  return names.filter((name): name is string => name !== false);
}

/** R and X that are put aside while the entry is access-tracked. */
function savedRights(layout: SpteLayout, spte: U64): string {
  const saved = (spte.hi >>> (layout.savedShift - 32)) & layout.savedRights;
  return `${(saved & 1) === 0 ? "-" : "R"}${(saved & 4) === 0 ? "-" : "X"}`;
}

/** @param table what the entry's frame is called, if it is a table's */
export function spteText(layout: SpteLayout, spte: U64, level: number, table: string | null = null): string {
  if (!isShadowPresentPte(spte)) {
    if (isFrozenSpte(layout, spte)) return "frozen";
    return isMmioSpte(layout, spte) ? "MMIO" : "not present";
  }
  const isTable = !isLastSpte(spte, level);
  const what = isTable && table !== null ? `-> ${table}` : `frame ${spteToPfn(spte).toString(16)}`;
  return `${what}: ${spteBits(layout, spte, level).join(" ")}`;
}
