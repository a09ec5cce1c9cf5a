/** The TDP MMU behind the interface of the MMU. */
import type { Steps, U64 } from "../engine/index.ts";
import { rcuReadLock, rcuReadUnlock, readLock, readUnlock } from "../kernel/index.ts";
import { type Gfn, type Gpa, gpaToGfn, PG_LEVEL_2M, PG_LEVEL_4K, gfn as toGfn } from "../machine/index.ts";
import { kvmAgeGfnRange } from "./aging.ts";
import type { KvmMemorySlot } from "./memslots.ts";
import { kvmTdpMmuPageFault } from "./mmu.ts";
import type { GfnRange, MmuOps } from "./mmu-ops.ts";
import { kvmMmuFreeObsoleteRoots, kvmMmuFreeRoots, kvmMmuLoad } from "./mmu-roots.ts";
import { kvmRecoverNxHugePages } from "./nx-huge.ts";
import {
  kvmTdpMmuClearDirtyPtMasked,
  kvmTdpMmuClearDirtySlot,
  kvmTdpMmuWriteProtectGfn,
  kvmTdpMmuWrprotSlot,
} from "./tdp-dirty.ts";
import { tdpIterNext, tdpIterStart } from "./tdp-iter.ts";
import { kvmTdpMmuRecoverHugePages } from "./tdp-recover.ts";
import { kvmTdpMmuTrySplitHugePages } from "./tdp-split.ts";
import {
  kvmTdpMmuInvalidateRoots,
  kvmTdpMmuUnmapGfnRange,
  kvmTdpMmuZapAll,
  kvmTdpMmuZapInvalidatedRoots,
} from "./tdp-zap.ts";
import type { Vcpu } from "./vcpu.ts";
import type { Vm } from "./vm.ts";

function* loadRoot(vcpu: Vcpu): Steps<boolean> {
  yield* kvmMmuLoad(vcpu);
  return true;
}

/** kvm_tdp_mmu_get_walk(), its last entry. */
function* lastSpte(vcpu: Vcpu, addr: number): Steps<U64> {
  const { tdp, kvm } = vcpu.vm;
  const frame = gpaToGfn(addr as Gpa);
  yield* rcuReadLock(kvm.kernel.rcu);
  const root = tdp.pages.ofEntry(vcpu.rootHpa.value);
  const iter = yield* tdpIterStart(tdp.world, root, PG_LEVEL_4K, frame, toGfn(frame + 1));
  let spte = iter.oldSpte;
  for (; iter.valid; yield* tdpIterNext(iter)) spte = iter.oldSpte;
  yield* rcuReadUnlock(kvm.kernel.rcu);
  return spte;
}

function rangeOf(slot: KvmMemorySlot, limit: number): GfnRange {
  const start = slot.base_gfn.value as Gfn;
  return { start, end: Math.min(start + slot.npages.value, limit) as Gfn };
}

function* forRead<T>(vm: Vm, body: () => Steps<T>): Steps<T> {
  yield* readLock(vm.kvm.mmuLock);
  const result = yield* body();
  yield* readUnlock(vm.kvm.mmuLock);
  return result;
}

function* wrprotSlot({ kvm, tdp }: Vm, slot: KvmMemorySlot): Steps<boolean> {
  const losesDirty = kvm.variants.pml && (yield* kvmTdpMmuClearDirtySlot(tdp, slot));
  // Huge pages are split when they are written, also where the CPU logs.
  return (yield* kvmTdpMmuWrprotSlot(tdp, slot, kvm.variants.pml ? PG_LEVEL_2M : PG_LEVEL_4K)) || losesDirty;
}

export function tdpOps(vm: Vm): MmuOps {
  const { tdp } = vm;
  const split = ({ start, end }: GfnRange, shared: boolean): Steps<void> =>
    kvmTdpMmuTrySplitHugePages(tdp, { start, end, targetLevel: PG_LEVEL_4K, shared });
  return {
    load: loadRoot,
    unload: kvmMmuFreeRoots,
    freeObsoleteRoots: kvmMmuFreeObsoleteRoots,
    pageFault: kvmTdpMmuPageFault,
    lastSpte,
    recoverNxHugePages: () => kvmRecoverNxHugePages(tdp),
    unmapGfnRange: ({ start, end }) => kvmTdpMmuUnmapGfnRange(tdp, start, end),
    ageGfnRange: ({ start, end }, test) => kvmAgeGfnRange(tdp, start, end, test),
    invalidateRoots: () => kvmTdpMmuInvalidateRoots(tdp),
    usedPages: () => 0,
    *zapObsoleteLocked() {},
    zapInvalidatedRoots: () => kvmTdpMmuZapInvalidatedRoots(tdp),
    zapAll: () => kvmTdpMmuZapAll(tdp),
    prepareSlot: () => {},
    splitSlot: (slot) => forRead(vm, () => split(rangeOf(slot, tdp.gfnEnd), true)),
    wrprotSlot: (slot) => forRead(vm, () => wrprotSlot(vm, slot)),
    recoverHugePages: (slot) => forRead(vm, () => kvmTdpMmuRecoverHugePages(tdp, slot)),
    wrprotMasked: (_slot, first, mask) => kvmTdpMmuClearDirtyPtMasked(tdp, first, mask, !vm.kvm.variants.pml),
    splitRange: (_slot, range) => split(range, false),
    *wrprotHuge(_slot, gfn) {
      yield* kvmTdpMmuWriteProtectGfn(tdp, gfn, PG_LEVEL_2M);
    },
  };
}
