/**
 * MMIO faults: accesses to guest frames that no memslot has.
 *
 *     first access      an MMIO SPTE is made (tdp-map.ts), which holds the memslots' generation
 *     later ones        fault with a reserved bit set; the entry says at once that it is MMIO, if its generation is still the memslots'
 *
 * The vCPU also remembers the last such frame, with the generation. Either way the instruction is emulated (emulate.ts).
 * Stands for handle_mmio_page_fault(), check_mmio_spte(), vcpu_cache_mmio_info() of 6.12 and 7.2.
 */
import { load, type Steps } from "../engine/index.ts";
import { rcuReadLock, rcuReadUnlock } from "../kernel/index.ts";
import { type Gfn, type Gpa, gpaToGfn, PG_LEVEL_4K, gfn as toGfn } from "../machine/index.ts";
import { KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS, kvmMemslots } from "./memslots.ts";
import { getMmioSpteAccess, getMmioSpteGeneration, getMmioSpteGfn, isMmioSpte, mmioGenerationOf } from "./mmio-spte.ts";
import { tdpIterNext, tdpIterStart } from "./tdp-iter.ts";
import type { Vcpu } from "./vcpu.ts";

/** kvm_memslots(kvm)->generation */
export function* memslotsGeneration(vcpu: Vcpu): Steps<number> {
  const slots = yield* kvmMemslots(vcpu.vm.kvm.memslots);
  return yield* load(slots.generation);
}

/** handle_mmio_page_fault(): "invalid" when the ordinary path has to look at the frame. */
export function* handleMmioPageFault(vcpu: Vcpu, addr: Gpa): Steps<"emulate" | "invalid" | "retry"> {
  if (yield* vcpuMatchMmioGpa(vcpu, addr)) return "emulate";
  const { tdp, kvm } = vcpu.vm;
  const { kernel } = kvm.variants;
  const frame = gpaToGfn(addr);
  // get_mmio_spte(): the last entry that a walk gets to, without mmu_lock.
  yield* rcuReadLock(kvm.kernel.rcu);
  const root = tdp.pages.ofEntry(vcpu.rootHpa.value);
  const iter = yield* tdpIterStart(tdp.world, root, PG_LEVEL_4K, frame, toGfn(frame + 1));
  let spte = iter.oldSpte;
  for (; iter.valid; yield* tdpIterNext(iter)) spte = iter.oldSpte;
  yield* rcuReadUnlock(kvm.kernel.rcu);
  // Zapped meanwhile: the guest faults again.
  if (!isMmioSpte(spte)) return "retry";
  const generation = yield* memslotsGeneration(vcpu);
  // While an update is under way nothing old is believed.
  if (generation >= KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS) return "invalid";
  const kvmGen = mmioGenerationOf(kernel, generation);
  const spteGen = getMmioSpteGeneration(kernel, spte);
  vcpu.vm.emit({ name: "check_mmio_spte", spte, kvmGen, spteGen, valid: kvmGen === spteGen });
  if (kvmGen !== spteGen) return "invalid";
  const gfn = getMmioSpteGfn(spte);
  const access = getMmioSpteAccess(spte);
  vcpu.vm.emit({ name: "handle_mmio_page_fault", addr: 0, gfn, access });
  yield* vcpuCacheMmioInfo(vcpu, gfn);
  return "emulate";
}

/** vcpu_cache_mmio_info(), for a guest-physical address. */
export function* vcpuCacheMmioInfo(vcpu: Vcpu, gfn: Gfn): Steps<void> {
  const generation = yield* memslotsGeneration(vcpu);
  if (generation >= KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS) return;
  vcpu.mmioGfn.value = gfn;
  vcpu.mmioGen.value = generation;
}

/** vcpu_match_mmio_gpa(): the frame is the last one that was found to be MMIO, and no memslot was changed since. */
export function* vcpuMatchMmioGpa(vcpu: Vcpu, addr: Gpa): Steps<boolean> {
  if (vcpu.mmioGfn.value === 0 || vcpu.mmioGfn.value !== gpaToGfn(addr)) return false;
  return vcpu.mmioGen.value === (yield* memslotsGeneration(vcpu));
}
