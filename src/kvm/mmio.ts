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
import { type Gfn, type Gpa, type Gva, gpaToGfn, PAGE_SIZE } from "../machine/index.ts";
import { KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS, kvmMemslots } from "./memslots.ts";
import { getMmioSpteAccess, getMmioSpteGeneration, getMmioSpteGfn, isMmioSpte, mmioGenerationOf } from "./mmio-spte.ts";
import type { Vcpu } from "./vcpu.ts";

/** kvm_memslots(kvm)->generation */
export function* memslotsGeneration(vcpu: Vcpu): Steps<number> {
  const slots = yield* kvmMemslots(vcpu.vm.kvm.memslots);
  return yield* load(slots.generation);
}

/** handle_mmio_page_fault(): "invalid" when the ordinary path has to look at the frame. @param addr guest-virtual where there is no direct MMU */
export function* handleMmioPageFault(vcpu: Vcpu, addr: number): Steps<"emulate" | "invalid" | "retry"> {
  const { layout } = vcpu.vm.tdp;
  const direct = vcpu.isDirectMmu;
  const isCached = direct ? vcpuMatchMmioGpa(vcpu, addr as Gpa) : vcpuMatchMmioGva(vcpu, addr as Gva);
  if (yield* isCached) return "emulate";
  const spte = yield* vcpu.vm.ops.lastSpte(vcpu, addr);
  // Zapped meanwhile: the guest faults again.
  if (spte === null || !isMmioSpte(layout, spte)) return "retry";
  const generation = yield* memslotsGeneration(vcpu);
  // While an update is under way nothing old is believed.
  if (generation >= KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS) return "invalid";
  const kvmGen = mmioGenerationOf(layout.kernel, generation);
  const spteGen = getMmioSpteGeneration(layout.kernel, spte);
  vcpu.vm.emit({ name: "check_mmio_spte", spte, kvmGen, spteGen, valid: kvmGen === spteGen });
  if (kvmGen !== spteGen) return "invalid";
  const gfn = getMmioSpteGfn(layout, spte);
  const access = getMmioSpteAccess(layout, spte);
  const gva = direct ? 0 : addr;
  vcpu.vm.emit({ name: "handle_mmio_page_fault", addr: gva, gfn, access });
  yield* vcpuCacheMmioInfo(vcpu, { gva, gfn, access });
  return "emulate";
}

/** vcpu_cache_mmio_info(). `gva` is 0 where only the guest-physical address is known. */
export function* vcpuCacheMmioInfo(
  vcpu: Vcpu,
  info: { readonly gva: number; readonly gfn: Gfn; readonly access: number },
): Steps<void> {
  const generation = yield* memslotsGeneration(vcpu);
  if (generation >= KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS) return;
  vcpu.mmioGva.value = info.gva - (info.gva % PAGE_SIZE);
  vcpu.mmioGfn.value = info.gfn;
  vcpu.mmioAccess.value = info.access & vcpu.vm.tdp.layout.mmioAccess;
  vcpu.mmioGen.value = generation;
}

/** vcpu_match_mmio_gpa(): the frame is the last one that was found to be MMIO, and no memslot was changed since. */
export function* vcpuMatchMmioGpa(vcpu: Vcpu, addr: Gpa): Steps<boolean> {
  if (vcpu.mmioGfn.value === 0 || vcpu.mmioGfn.value !== gpaToGfn(addr)) return false;
  return vcpu.mmioGen.value === (yield* memslotsGeneration(vcpu));
}

/** vcpu_match_mmio_gva(): the same by the page that the guest used. */
export function* vcpuMatchMmioGva(vcpu: Vcpu, addr: Gva): Steps<boolean> {
  const page = vcpu.mmioGva.value;
  if (page === 0 || page !== addr - (addr % PAGE_SIZE)) return false;
  return vcpu.mmioGen.value === (yield* memslotsGeneration(vcpu));
}
