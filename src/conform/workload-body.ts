/**
 * What a workload needs of a KVM: the ioctls that its VMM makes, and what there is to be seen of it.
 *
 * Two answer: racewalk's own MMU (own-body.ts), and a kernel's own source (src/source/workload). Everything around them is the same: the guest
 * (machine/guest-cpu.ts), the host's mm, the operations, the comparison.
 */
import type { Steps, World } from "../engine/index.ts";
import type { Mm, MmOptions } from "../kernel/index.ts";
import type { SlotDescription } from "../kvm/memslots.ts";
import type { ModuleParams } from "../kvm/module-params.ts";
import type { SpteLayout } from "../kvm/spte-layout.ts";
import type { StatEvent } from "../kvm/trace.ts";
import type { KernelVersion, KvmVariants, Paging } from "../kvm/variants.ts";
import type { RunResult } from "../kvm/vcpu.ts";
import { type GuestCpu, type GuestInstruction, type Hva, PAGE_SIZE, type PagingMode } from "../machine/index.ts";
import type { Stats } from "./run.ts";
import type { Workload } from "./workload.ts";

/** What a body is made from. */
export interface BodySetup {
  readonly workload: Workload;
  /** `v6.12`: how it says what it does. */
  readonly kernel: string;
  readonly paging: Paging;
  /** Designs in which racewalk's own MMU is to differ from the kernel's. */
  readonly variants: Partial<KvmVariants>;
  /** Bytes of modelled memory, and tasks. */
  readonly bytes: number;
  readonly lanes: number;
  /** The process's window of addresses. */
  readonly window: { readonly base: number; readonly pages: number };
  readonly frames: { readonly reuse: boolean };
  readonly mm: MmOptions;
}

/** An access that the VMM has to carry out. */
export interface DeviceAccess {
  readonly isWrite: boolean;
  readonly size: number;
}

export interface DirtyRingEntry {
  readonly slot: number;
  readonly offset: number;
}

/** An errno, positive; 0 is success. */
export type Errno = number;

export interface WorkloadBody {
  readonly world: World;
  readonly mm: Mm;
  /** Parameters of the modules, as they are now. */
  readonly params: ModuleParams;
  readonly kernel: KernelVersion;
  /** How an SPTE is read. */
  readonly layout: SpteLayout;
  /** The tracepoints kvm_entry and kvm_exit are on. */
  tracesExits: boolean;

  // --- set-up: nobody else runs

  /** KVM_SET_USER_MEMORY_REGION, without the other slots' users being told. */
  addSlot(slot: SlotDescription): Steps<void>;
  /** KVM_CREATE_VCPU, KVM_SET_SREGS; the guest's tables are there. */
  addVcpu(mode: PagingMode): Steps<void>;

  // --- what the VMM asks

  /** KVM_RUN. @param instructions null: goes on with those of the last call, after the VMM has done what it was left for */
  run(vcpu: number, instructions: readonly GuestInstruction[] | null): Steps<RunResult>;
  /** What KVM_RUN was left for; null: for something else. */
  deviceAccess(vcpu: number): DeviceAccess | null;
  /** The device's answer to a read. */
  answerDevice(vcpu: number, lo: number, hi: number): void;
  setMemoryRegion(slot: SlotDescription): Steps<Errno>;
  /** Frames of the log, counted from the slot's first; or what the ioctl returned. */
  getDirtyLog(slot: number): Steps<readonly number[] | Errno>;
  clearDirtyLog(slot: number, first: number, pages: number): Steps<Errno>;
  /** The VMM takes what is in a ring, and marks it to be reset; null: the vCPU has none. */
  collectDirtyRing(vcpu: number): Steps<readonly DirtyRingEntry[] | null>;
  /** KVM_RESET_DIRTY_RINGS: how many entries. */
  resetDirtyRings(): Steps<number>;
  /** Writes /sys/module/kvm/parameters/NAME. */
  setParameter(name: string, value: string): Steps<void>;
  /** KVM_PRE_FAULT_MEMORY, with an alarm of the VMM: {@link preFaultAlarm}. EINTR when it rang before anything was mapped. */
  preFault(vcpu: number, gpa: number, bytes: number): Steps<Errno>;
  setNrMmuPages(pages: number): Steps<void>;
  setClock(): Steps<void>;
  /** One round of the thread that recovers NX huge pages. */
  recoverNxHugePages(): Steps<void>;
  /** The VM goes away. */
  destroy(): Steps<void>;

  // --- what there is to be seen

  guest(vcpu: number): GuestCpu;
  readonly vcpus: number;
  slots(): readonly SlotDescription[];
  slotAt(addr: Hva): SlotDescription | null;
  /** A statistic was reported as it changed. */
  count(event: StatEvent): void;
  stats(): Stats;
  /** Present leaves of the MMU's tables, by guest frame: for comparing two bodies. */
  leaves(): readonly string[];
}

export type MakeBody = (setup: BodySetup) => WorkloadBody;

/**
 * After how many tries of a page a signal comes. Nobody else runs meanwhile, so where KVM starts over until a signal does (6.12, in an obsolete root), the
 * VMM's alarm is all that ends it.
 */
export function preFaultAlarm(bytes: number): number {
  return 1000 + bytes / PAGE_SIZE;
}
