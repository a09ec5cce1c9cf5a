/**
 * A VM on x86: struct kvm with its TDP MMU, its vCPUs, and the interrupts of the CPUs that they run on.
 */
import { type Cell, cell, type World } from "../engine/index.ts";
import type { Interrupts } from "../machine/index.ts";
import { kvmAgeGfnRange } from "./aging.ts";
import { kvmMmuSlotApplyFlags, kvmPrepareDirtyBitmap } from "./dirty-log.ts";
import type { Kvm } from "./kvm.ts";
import { mmuNotifierOps } from "./mmu-notifier.ts";
import { kvmArchFlushShadowMemslot, kvmArchMemslotsUpdated } from "./mmu-zap.ts";
import { kvmFlushRemoteTlbs } from "./requests.ts";
import { TdpMmu } from "./tdp-mmu.ts";
import { kvmTdpMmuUnmapGfnRange } from "./tdp-zap.ts";
import type { KvmEvent } from "./trace.ts";
import { Vcpu } from "./vcpu.ts";

export class Vm {
  readonly kvm: Kvm;
  readonly tdp: TdpMmu;
  readonly interrupts: Interrupts;
  readonly vcpus: Vcpu[] = [];
  /** The tracepoints kvm_entry and kvm_exit are on. */
  tracesExits = false;
  /** kvm->arch.mmu_valid_gen: 0 or 1; shadow pages of the other one are obsolete. */
  readonly mmuValidGen: Cell;

  /** Makes the VM a secondary user of the host mm. Set-up only. */
  constructor(kvm: Kvm, interrupts: Interrupts) {
    this.kvm = kvm;
    this.tdp = new TdpMmu(kvm);
    this.interrupts = interrupts;
    this.mmuValidGen = cell(kvm.world, "kvm->arch.mmu_valid_gen");
    kvm.arch = {
      unmapGfnRange: (start, end) => kvmTdpMmuUnmapGfnRange(this.tdp, start, end),
      ageGfnRange: (start, end, test) => kvmAgeGfnRange(this.tdp, start, end, test),
      flushRemoteTlbs: () => kvmFlushRemoteTlbs(this),
      flushShadowMemslot: (slot) => kvmArchFlushShadowMemslot(this, slot),
      memslotsUpdated: (generation) => kvmArchMemslotsUpdated(this, generation),
      prepareMemoryRegion: (update) => kvmPrepareDirtyBitmap(this, update),
      commitMemoryRegion: (update) => kvmMmuSlotApplyFlags(this, update),
    };
    kvm.mm.notifiers.push(mmuNotifierOps(kvm));
  }

  get world(): World {
    return this.kvm.world;
  }

  /** KVM_CREATE_VCPU. @param cpu the CPU that its thread runs on */
  addVcpu(cpu: number): Vcpu {
    const vcpu = new Vcpu(this, this.vcpus.length, cpu);
    this.vcpus.push(vcpu);
    return vcpu;
  }

  emit(event: KvmEvent): void {
    this.world.emit(event);
  }
}
