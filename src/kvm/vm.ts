/**
 * A VM on x86: struct kvm with its TDP MMU, its vCPUs, and the interrupts of the CPUs that they run on.
 */
import { type Cell, cell, type Steps, type World } from "../engine/index.ts";
import type { Gfn, Interrupts } from "../machine/index.ts";
import { reloadIfUnmapped } from "./apic-access.ts";
import { kvmMmuSlotApplyFlags, kvmPrepareDirtyBitmap } from "./dirty-log.ts";
import type { Kvm } from "./kvm.ts";
import type { MemslotUpdate } from "./memory-region.ts";
import { mmuNotifierOps } from "./mmu-notifier.ts";
import type { MmuOps } from "./mmu-ops.ts";
import { kvmArchFlushShadowMemslot, kvmArchMemslotsUpdated } from "./mmu-zap.ts";
import { kvmFlushRemoteTlbs } from "./requests.ts";
import { shadowOps } from "./shadow/ops.ts";
import { ShadowMmu } from "./shadow/shadow-mmu.ts";
import { adjustMmuPages } from "./shadow/zap.ts";
import { TdpMmu } from "./tdp-mmu.ts";
import { tdpOps } from "./tdp-ops.ts";
import type { KvmEvent } from "./trace.ts";
import { Vcpu } from "./vcpu.ts";

export class Vm {
  readonly kvm: Kvm;
  readonly tdp: TdpMmu;
  /** Null: the TDP MMU does everything. */
  readonly shadow: ShadowMmu | null;
  readonly ops: MmuOps;
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
    const { npt, tdpMmu } = kvm.params;
    this.shadow = npt && tdpMmu ? null : new ShadowMmu(this);
    this.ops = this.shadow === null ? tdpOps(this) : shadowOps(this.shadow);
    kvm.arch = {
      unmapGfnRange: (start, end) =>
        kvm.apicAccess === null ? this.ops.unmapGfnRange({ start, end }) : this.unmapWithApic(start, end),
      ageGfnRange: (start, end, test) => this.ops.ageGfnRange({ start, end }, test),
      flushRemoteTlbs: () => kvmFlushRemoteTlbs(this),
      flushShadowMemslot: (slot) => kvmArchFlushShadowMemslot(this, slot),
      memslotsUpdated: (generation) => kvmArchMemslotsUpdated(this, generation),
      prepareMemoryRegion: (update) => {
        if (update.new !== null) this.ops.prepareSlot(update.new);
        kvmPrepareDirtyBitmap(this, update);
      },
      commitMemoryRegion: (update) => this.commitMemoryRegion(update),
    };
    kvm.mm.notifiers.push(mmuNotifierOps(kvm));
  }

  /** kvm_arch_commit_memory_region() */
  private *commitMemoryRegion(update: MemslotUpdate): Steps<void> {
    const resizes = update.change === "create" || update.change === "delete";
    if (this.shadow !== null && resizes) yield* adjustMmuPages(this.shadow);
    yield* kvmMmuSlotApplyFlags(this, update);
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

  private *unmapWithApic(start: Gfn, end: Gfn): Steps<boolean> {
    const flush = yield* this.ops.unmapGfnRange({ start, end });
    yield* reloadIfUnmapped(this, start, end);
    return flush;
  }

  emit(event: KvmEvent): void {
    this.world.emit(event);
  }
}
