/** The shadow MMU, and nested paging without the TDP MMU, behind the interface of the MMU. */
import { assertThat, type Steps, type U64 } from "../../engine/index.ts";
import { type Gfn, PG_LEVEL_2M } from "../../machine/index.ts";
import type { MmuOps } from "../mmu-ops.ts";
import { hasBit } from "../tdp-dirty.ts";
import type { Vcpu } from "../vcpu.ts";
import { directPageFault, shadowPageFault } from "./fault.ts";
import { recoverShadowNxHugePages } from "./nx-recovery.ts";
import { ageRmaps, unmapRmaps, wrprotSlotRmaps, zapCollapsibleRmaps } from "./rmap-range.ts";
import { allRootsOf, kvmShadowMmuFreeObsoleteRoots, kvmShadowMmuFreeRoots, kvmShadowMmuLoad } from "./roots.ts";
import type { ShadowMmu } from "./shadow-mmu.ts";
import { gfnToRmap, prepareSlotForShadowing } from "./slot-arch.ts";
import { kvmMmuSlotGfnWriteProtect, rmapWriteProtect } from "./spte-change.ts";
import { lastEntryLockless, walkShadowPageLocklessBegin, walkShadowPageLocklessEnd } from "./walk.ts";
import { zapAllShadowPages, zapObsoletePages } from "./zap.ts";

export function shadowOps(shadow: ShadowMmu): MmuOps {
  return {
    load: (vcpu) => kvmShadowMmuLoad(vcpu, shadow),
    unload: (vcpu) => kvmShadowMmuFreeRoots(vcpu, shadow, allRootsOf(vcpu)),
    freeObsoleteRoots: (vcpu) => kvmShadowMmuFreeObsoleteRoots(vcpu, shadow),
    pageFault: (vcpu, fault) =>
      vcpu.isDirectMmu ? directPageFault(vcpu, shadow, fault) : shadowPageFault(vcpu, shadow, fault),
    lastSpte: (vcpu, addr) => lastShadowSpte(vcpu, shadow, addr),
    recoverNxHugePages: () => recoverShadowNxHugePages(shadow),
    unmapGfnRange: (range) => unmapRmaps(shadow, range),
    ageGfnRange: (range, test) => ageRmaps(shadow, range, test),
    *invalidateRoots() {},
    usedPages: () => shadow.nUsedMmuPages.value,
    zapObsoleteLocked: () => zapObsoletePages(shadow),
    *zapInvalidatedRoots() {},
    zapAll: () => zapAllShadowPages(shadow),
    prepareSlot: (slot) => prepareSlotForShadowing(shadow, slot),
    // Only the TDP MMU, and what it runs nested, splits ahead of faults.
    *splitSlot() {},
    wrprotSlot: (slot) => wrprotSlotRmaps(shadow, slot),
    recoverHugePages: (slot) => zapCollapsibleRmaps(shadow, slot),
    *wrprotMasked(slot, first, mask) {
      const index = first - slot.base_gfn.value;
      const npages = slot.npages.value;
      for (let n = 0; n < 64; n++) {
        if (!hasBit(mask, n)) continue;
        const isInside = index + n >= 0 && index + n < npages;
        assertThat(isInside, `rmap[${index + n}] of a memslot of ${npages} pages is written to`, "out-of-bounds");
        yield* rmapWriteProtect(shadow, gfnToRmap(shadow.world, slot, (first + n) as Gfn, 1), false);
      }
    },
    *splitRange() {},
    *wrprotHuge(slot, gfn) {
      yield* kvmMmuSlotGfnWriteProtect(shadow, slot, gfn, PG_LEVEL_2M);
    },
  };
}

/** get_mmio_spte(): in a lockless walk. */
function* lastShadowSpte(vcpu: Vcpu, shadow: ShadowMmu, addr: number): Steps<U64 | null> {
  yield* walkShadowPageLocklessBegin(vcpu);
  const last = yield* lastEntryLockless(vcpu, shadow, addr);
  yield* walkShadowPageLocklessEnd(vcpu);
  return last?.spte ?? null;
}
