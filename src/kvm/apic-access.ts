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
 * The vCPU's controls (APIC_ACCESS_ADDR of the VMCS) say which page of the host it is. When the host takes that away, each vCPU is asked to look the page up
 * anew; it may be asked before the host has done so, and finds the old one: so it looks at the invalidations as a fault does, and tries again.
 *
 * Stands for __kvm_set_or_clear_apicv_inhibit(), kvm_apicv_activated(), __kvm_vcpu_update_apicv(), vmx_set_apic_access_page_addr() of 6.12 and 7.2. Not modelled: what the processor does with
 * an access that does not fault, which is one of memory here, and the vCPU's controls that a look again changes.
 */
import { type Cell, cell, load, type Steps, store, type World } from "../engine/index.ts";
import { getUserPage, putPage, RwLock, readLock, readUnlock, writeLock, writeUnlock } from "../kernel/index.ts";
import { type Gfn, gfn as gfnOf, type Hva } from "../machine/index.ts";
import type { Kvm } from "./kvm.ts";
import { gfnToHva, gfnToMemslot, isVisibleMemslot, type KvmMemorySlot } from "./memslots.ts";
import { mmuInvalidateRetryGfn } from "./mmu-notifier.ts";
import { kvmZapGfnRange } from "./mmu-zap.ts";
import { KVM_REQ_APIC_PAGE_RELOAD, KVM_REQ_APICV_UPDATE, kvmMakeAllCpusRequest, kvmMakeRequest } from "./requests.ts";
import type { Vcpu } from "./vcpu.ts";
import type { Vm } from "./vm.ts";

/** Behind the slots that a VMM can have. */
const APIC_ACCESS_PAGE_PRIVATE_MEMSLOT = 32_765;

export class ApicAccess {
  readonly gfn: Gfn;
  readonly inhibitReasons: Cell;
  readonly updateLock: RwLock;
  /** By vCPU: the frame that its controls point to, its own thread's business. */
  readonly loaded: readonly Cell[];

  constructor(world: World, gfn: Gfn, vcpus: number) {
    this.gfn = gfn;
    this.loaded = Array.from({ length: vcpus }, (_, id) => cell(world, `vcpu${id}->vmcs.apic_access_addr`));
    this.inhibitReasons = cell(world, "apicv_inhibit_reasons");
    this.updateLock = new RwLock(world, "kvm->arch.apicv_update_lock", true);
  }
}

/**
 * kvm_alloc_apic_access_page(), during set-up when there are vCPUs; each has looked the page up.
 * @param gfn 0xfee00 in Linux; lower where a scenario bounds the guest's memory
 */
export function kvmAllocApicAccessPage({ kvm, vcpus }: Vm, gfn: Gfn, userspaceAddr: Hva): void {
  kvm.memslots.addDuringSetup({
    id: APIC_ACCESS_PAGE_PRIVATE_MEMSLOT,
    baseGfn: gfn,
    npages: 1,
    userspaceAddr,
    flags: 0,
  });
  kvm.apicAccess = new ApicAccess(kvm.world, gfn, vcpus.length);
  for (const loaded of kvm.apicAccess.loaded) loaded.value = kvm.mm.frameAt(userspaceAddr) ?? 0;
}

/** The end of kvm_unmap_gfn_range(), mmu_lock held for write. */
export function* reloadIfUnmapped(vm: Vm, start: Gfn, end: Gfn): Steps<void> {
  const { apicAccess } = vm.kvm;
  if (apicAccess === null || apicAccess.gfn < start || apicAccess.gfn >= end) return;
  yield* kvmMakeAllCpusRequest(vm, KVM_REQ_APIC_PAGE_RELOAD);
}

/** vmx_set_apic_access_page_addr() */
export function* vmxSetApicAccessPageAddr(vcpu: Vcpu): Steps<void> {
  const { kvm } = vcpu.vm;
  const { apicAccess } = kvm;
  if (apicAccess === null) return;
  const { gfn } = apicAccess;
  const slot = yield* gfnToMemslot(kvm.memslots, gfn);
  if (!isVisibleMemslot(slot)) return;
  const seq = yield* load(kvm.mmuInvalidateSeq);
  const page = yield* getUserPage(kvm.mm, gfnToHva(slot, gfn), true);
  if (page === null) return;
  const looksAtInvalidations = !kvm.lacks("apic-page-reloaded-before-unmap");
  yield* readLock(kvm.mmuLock);
  if (looksAtInvalidations && mmuInvalidateRetryGfn(kvm, seq, gfn)) {
    yield* kvmMakeRequest(vcpu, KVM_REQ_APIC_PAGE_RELOAD);
  } else {
    const loaded = apicAccess.loaded[vcpu.id];
    if (loaded !== undefined) loaded.value = page.pfn;
  }
  yield* readUnlock(kvm.mmuLock);
  yield* putPage(kvm.mm.frames, page.pfn);
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
