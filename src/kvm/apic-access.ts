/**
 * The page of the local APIC, as far as the MMU has to do with it.
 *
 * Where the processor virtualizes the APIC itself (APICv, AVIC), its page is a memslot of KVM's own, and is mapped so that accesses need no exit. When that is
 * inhibited they must fault, to be emulated: the mapping is zapped, and faults that find the inhibition map none.
 *
 *     who inhibits, apicv_update_lock for write          a fault
 *     i1  every vCPU is asked to look again              f1  mmu_invalidate_seq
 *     i2  apicv_inhibit_reasons                          f2  apicv_inhibit_reasons: inhibited? then emulate
 *     i3  kvm_zap_gfn_range(): begin, zap, end           f3  mmu_lock: the sequence moved? then start over
 *
 * Stands for __kvm_set_or_clear_apicv_inhibit(), kvm_apicv_activated(), __kvm_vcpu_update_apicv() of 6.12 and 7.2. Not modelled: what the processor does with
 * an access that does not fault, which is one of memory here, and the vCPU's controls that a look again changes.
 */
import { type Cell, cell, load, type Steps, store, type World } from "../engine/index.ts";
import { RwLock, readLock, readUnlock, writeLock, writeUnlock } from "../kernel/index.ts";
import { type Gfn, gfn as gfnOf, type Hva } from "../machine/index.ts";
import type { Kvm } from "./kvm.ts";
import type { KvmMemorySlot } from "./memslots.ts";
import { kvmZapGfnRange } from "./mmu-zap.ts";
import { KVM_REQ_APICV_UPDATE, kvmMakeAllCpusRequest } from "./requests.ts";
import type { Vcpu } from "./vcpu.ts";
import type { Vm } from "./vm.ts";

/** Behind the slots that a VMM can have. */
const APIC_ACCESS_PAGE_PRIVATE_MEMSLOT = 32_765;

export class ApicAccess {
  readonly gfn: Gfn;
  readonly inhibitReasons: Cell;
  readonly updateLock: RwLock;

  constructor(world: World, gfn: Gfn) {
    this.gfn = gfn;
    this.inhibitReasons = cell(world, "apicv_inhibit_reasons");
    this.updateLock = new RwLock(world, "kvm->arch.apicv_update_lock", true);
  }
}

/** kvm_alloc_apic_access_page(), during set-up. @param gfn 0xfee00 in Linux; lower where a scenario bounds the guest's memory */
export function kvmAllocApicAccessPage(kvm: Kvm, gfn: Gfn, userspaceAddr: Hva): void {
  kvm.memslots.addDuringSetup({
    id: APIC_ACCESS_PAGE_PRIVATE_MEMSLOT,
    baseGfn: gfn,
    npages: 1,
    userspaceAddr,
    flags: 0,
  });
  kvm.apicAccess = new ApicAccess(kvm.world, gfn);
}

/** Whether a fault in the slot is to be emulated: it is the APIC's, and the processor does not virtualize that. */
export function* isApicInhibited(kvm: Kvm, slot: KvmMemorySlot): Steps<boolean> {
  const { apicAccess } = kvm;
  if (apicAccess === null || slot.id.value !== APIC_ACCESS_PAGE_PRIVATE_MEMSLOT) return false;
  return (yield* load(apicAccess.inhibitReasons)) !== 0;
}

/** kvm_set_or_clear_apicv_inhibit(): sets a reason. */
export function* kvmSetApicvInhibit(vm: Vm, reason: number): Steps<void> {
  const { apicAccess } = vm.kvm;
  if (apicAccess === null) return;
  yield* writeLock(apicAccess.updateLock);
  const old = yield* load(apicAccess.inhibitReasons);
  const isFirst = old === 0;
  if (isFirst) yield* kvmMakeAllCpusRequest(vm, KVM_REQ_APICV_UPDATE);
  yield* store(apicAccess.inhibitReasons, old | reason);
  if (isFirst) yield* kvmZapGfnRange(vm, apicAccess.gfn, gfnOf(apicAccess.gfn + 1));
  yield* writeUnlock(apicAccess.updateLock);
}

/** __kvm_vcpu_update_apicv(): waits until it is known what to do. */
export function* kvmVcpuUpdateApicv({ vm: { kvm } }: Vcpu): Steps<void> {
  if (kvm.apicAccess === null) return;
  yield* readLock(kvm.apicAccess.updateLock);
  yield* load(kvm.apicAccess.inhibitReasons);
  yield* readUnlock(kvm.apicAccess.updateLock);
}
