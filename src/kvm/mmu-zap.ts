/**
 * Zapping across the whole MMU: all of it at once, or what a memslot has mapped.
 *
 *     kvm_mmu_zap_all_fast                              slots_lock
 *       mmu_lock for write:  the next generation; TDP roots are invalid
 *                            every vCPU is told to drop its root, and has left the guest
 *       mmu_lock for read:   the invalidated TDP roots are zapped, while faults build new ones
 *
 * No TLB flush: a vCPU flushes when it loads the new root, and none is in the guest with the old one once the request has been made.
 * Stands for kvm_mmu_zap_all_fast(), kvm_arch_flush_shadow_memslot(), kvm_zap_gfn_range(), kvm_mmu_invalidate_mmio_sptes() of 6.12 and 7.2.
 */
import type { Steps } from "../engine/index.ts";
import { assertHeld, writeLock, writeUnlock } from "../kernel/index.ts";
import { type Gfn, gfn } from "../machine/index.ts";
import type { KvmMemorySlot } from "./memslots.ts";
import { mmioGenerationOf } from "./mmio-spte.ts";
import { kvmMmuInvalidateBegin, kvmMmuInvalidateEnd, kvmMmuInvalidateRangeAdd } from "./mmu-notifier.ts";
import { KVM_REQ_MMU_FREE_OBSOLETE_ROOTS, kvmFlushRemoteTlbs, kvmMakeAllCpusRequest } from "./requests.ts";
import { kvmMmuZapMemslotPagesAndFlush } from "./shadow/zap.ts";
import { kvmTdpMmuZapLeafs } from "./tdp-zap.ts";
import type { Vm } from "./vm.ts";

/** kvm_mmu_zap_all_fast() */
export function* kvmMmuZapAllFast(vm: Vm): Steps<void> {
  const { kvm } = vm;
  assertHeld(kvm.memslots.slotsLock);
  yield* writeLock(kvm.mmuLock);
  vm.emit({ name: "kvm_mmu_zap_all_fast", validGen: vm.mmuValidGen.value, usedPages: vm.ops.usedPages() });
  // Shadow pages of the other generation are obsolete from here on.
  vm.mmuValidGen.value ^= 1;
  yield* vm.ops.invalidateRoots();
  // After the roots are invalid: a vCPU that takes the request before would find nothing to drop. It waits until each has left the guest.
  yield* kvmMakeAllCpusRequest(vm, KVM_REQ_MMU_FREE_OBSOLETE_ROOTS);
  yield* vm.ops.zapObsoleteLocked();
  yield* writeUnlock(kvm.mmuLock);
  yield* vm.ops.zapInvalidatedRoots();
}

/** kvm_arch_flush_shadow_memslot(): what is mapped of the slot goes. */
export function* kvmArchFlushShadowMemslot(vm: Vm, slot: KvmMemorySlot): Steps<void> {
  if (vm.kvm.variants.slotZapAll) yield* kvmMmuZapAllFast(vm);
  else yield* kvmMmuZapMemslot(vm, slot);
}

/** kvm_mmu_zap_memslot(): only the slot's own range; roots stay valid, so the TLBs are flushed. */
function* kvmMmuZapMemslot(vm: Vm, slot: KvmMemorySlot): Steps<void> {
  const start = gfn(slot.base_gfn.value);
  yield* writeLock(vm.kvm.mmuLock);
  const flush = yield* vm.ops.unmapGfnRange({ start, end: gfn(start + slot.npages.value) });
  if (vm.shadow !== null) yield* kvmMmuZapMemslotPagesAndFlush(vm.shadow, slot, flush);
  else if (flush) yield* kvmFlushRemoteTlbs(vm);
  yield* writeUnlock(vm.kvm.mmuLock);
}

/** kvm_zap_gfn_range(): a range's mappings must be made anew, for a reason that no memslot shows. */
export function* kvmZapGfnRange(vm: Vm, start: Gfn, end: Gfn): Steps<void> {
  const { kvm } = vm;
  if (end <= start) return;
  const isBracketed = !kvm.lacks("zap-gfn-range-does-not-block-faults");
  yield* writeLock(kvm.mmuLock);
  if (isBracketed) yield* kvmMmuInvalidateBegin(kvm);
  if (isBracketed) yield* kvmMmuInvalidateRangeAdd(kvm, start, end);
  if (yield* kvmTdpMmuZapLeafs(vm.tdp, start, end, false)) yield* kvmFlushRemoteTlbs(vm);
  if (isBracketed) yield* kvmMmuInvalidateEnd(kvm);
  yield* writeUnlock(kvm.mmuLock);
}

/**
 * kvm_arch_memslots_updated(), kvm_mmu_invalidate_mmio_sptes(): when the generation that MMIO entries hold starts over, old ones would look new, so
 * all go. Not modelled: the kick that makes vCPUs look for their steal-time page again.
 */
export function* kvmArchMemslotsUpdated(vm: Vm, generation: number): Steps<void> {
  // The lowest bit tells the address spaces apart.
  if (mmioGenerationOf(vm.kvm.variants.kernel, generation) < 2) yield* kvmMmuZapAllFast(vm);
}
