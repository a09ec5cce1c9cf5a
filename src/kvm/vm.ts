/**
 * A VM on x86: struct kvm with its TDP MMU, its vCPUs, and the interrupts of the CPUs that they run on.
 */
import type { World } from "../engine/index.ts";
import type { Interrupts } from "../machine/index.ts";
import type { Kvm } from "./kvm.ts";
import { mmuNotifierOps } from "./mmu-notifier.ts";
import { kvmFlushRemoteTlbs } from "./requests.ts";
import { kvmTdpMmuUnmapGfnRange, TdpMmu } from "./tdp-mmu.ts";
import type { KvmEvent } from "./trace.ts";
import { Vcpu } from "./vcpu.ts";

export class Vm {
  readonly kvm: Kvm;
  readonly tdp: TdpMmu;
  readonly interrupts: Interrupts;
  readonly vcpus: Vcpu[] = [];

  /** Makes the VM a secondary user of the host mm. Set-up only. */
  constructor(kvm: Kvm, interrupts: Interrupts) {
    this.kvm = kvm;
    this.tdp = new TdpMmu(kvm);
    this.interrupts = interrupts;
    kvm.arch = {
      unmapGfnRange: (start, end) => kvmTdpMmuUnmapGfnRange(this.tdp, start, end),
      flushRemoteTlbs: () => kvmFlushRemoteTlbs(this),
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
