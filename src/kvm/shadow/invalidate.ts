/**
 * One address is flushed from the guest's TLB: INVLPG, or a page fault that is delivered to the guest.
 *
 * Where the way to it, in the root in use and in those that are kept, goes through an unsync page, the one entry is brought in step. Stands for
 * kvm_mmu_invalidate_addr(), kvm_mmu_invlpg() of 6.12 and 7.2.
 */
import { loadEntry, type Steps } from "../../engine/index.ts";
import { writeLock, writeUnlock } from "../../kernel/index.ts";
import type { Gva } from "../../machine/index.ts";
import { kvmFlushRemoteTlbs } from "../requests.ts";
import type { Vcpu } from "../vcpu.ts";
import type { RootCells } from "../vcpu-mmu.ts";
import { spteIndex } from "./page.ts";
import type { ShadowMmu } from "./shadow-mmu.ts";
import { kvmSyncSpte } from "./sync.ts";
import { shadowWalkInit, shadowWalkNext } from "./walk.ts";
import { mmuPageZapPte } from "./zap.ts";

/** kvm_mmu_invalidate_addr(). @param roots those in which the address may be mapped */
export function* kvmMmuInvalidateAddr(
  vcpu: Vcpu,
  shadow: ShadowMmu,
  addr: Gva,
  roots: readonly RootCells[],
): Steps<void> {
  vcpu.guest.tlb.flushPage(addr);
  // Without paging in the guest no entry can be out of step.
  if (vcpu.isDirectMmu) return;
  for (const root of roots) yield* invalidateInRoot(vcpu, shadow, addr, root.hpa.value);
}

/** __kvm_mmu_invalidate_addr() */
function* invalidateInRoot(vcpu: Vcpu, shadow: ShadowMmu, addr: Gva, root: number): Steps<void> {
  vcpu.clearMmioInfo(addr);
  if (root === 0) return;
  yield* writeLock(shadow.kvm.mmuLock);
  const walk = shadowWalkInit(vcpu, shadow, root, addr);
  for (let goesOn = walk !== null; walk !== null && goesOn; ) {
    const { sp, sptep } = walk;
    if (sp.unsync.value !== 0) {
      const synced = yield* kvmSyncSpte(vcpu, shadow, sp, spteIndex(sptep));
      if (synced === "failed") yield* mmuPageZapPte(shadow, sp, sptep);
      if (synced !== "same") yield* kvmFlushRemoteTlbs(shadow.vm);
    }
    if (sp.unsync_children.value === 0) break;
    goesOn = shadowWalkNext(shadow, walk, yield* loadEntry(shadow.world, sptep));
  }
  yield* writeUnlock(shadow.kvm.mmuLock);
}
