/**
 * struct kvm: what all of KVM shares for one VM.
 *
 * Each part of the MMU keeps its own fields with its code; here are those that several parts touch, with the lock that protects them.
 *
 *     mmu_lock (rwlock)      mmu_invalidate_in_progress, _seq, _range_start, _range_end: written with it held for write
 *     mn_invalidate_lock     mn_active_invalidate_count, and the range of the gpc designs that have one
 *     gpc_lock               gpc_list
 *
 * mmu_invalidate_seq and mn_active_invalidate_count are also looked at without their lock; such reads are marked.
 */
import { type Cell, cell, type Steps, type World } from "../engine/index.ts";
import { type Kernel, type Mm, RwLock, Srcu } from "../kernel/index.ts";
import type { Gfn, Pfn } from "../machine/index.ts";
import type { ApicAccess } from "./apic-access.ts";
import type { FixName } from "./fixes.ts";
import type { GfnToPfnCache } from "./gfn-to-pfn-cache.ts";
import { GpcList } from "./gpc-list.ts";
import type { MemslotUpdate } from "./memory-region.ts";
import { type KvmMemorySlot, Memslots } from "./memslots.ts";
import { defaultModuleParams, type ModuleParams } from "./module-params.ts";
import type { KvmVariants } from "./variants.ts";

/** What the parts that KVM shares with other architectures ask of the x86 MMU. */
export interface KvmArch {
  /** kvm_unmap_gfn_range(): zaps [start, end) under mmu_lock held for write; true when a TLB flush is needed. */
  unmapGfnRange(start: Gfn, end: Gfn): Steps<boolean>;
  /** kvm_age_gfn(), kvm_test_age_gfn(): was anything in [start, end) used? @param test only look */
  ageGfnRange(start: Gfn, end: Gfn, test: boolean): Steps<boolean>;
  /** kvm_flush_remote_tlbs() */
  flushRemoteTlbs(): Steps<void>;
  /** kvm_arch_flush_shadow_memslot(): drops what is mapped of a slot that nobody finds any more. */
  flushShadowMemslot(slot: KvmMemorySlot): Steps<void>;
  /** kvm_arch_memslots_updated(): the memslots are about to have this generation. */
  memslotsUpdated(generation: number): Steps<void>;
  /** kvm_prepare_memory_region(): what a new slot needs before it is seen. */
  prepareMemoryRegion(update: MemslotUpdate): void;
  /** kvm_arch_commit_memory_region(): the update is visible everywhere. */
  commitMemoryRegion(update: MemslotUpdate): Steps<void>;
}

export class Kvm {
  readonly world: World;
  readonly kernel: Kernel;
  readonly mm: Mm;
  readonly variants: KvmVariants;
  /** Parameters of the module that made the VM. */
  readonly params: ModuleParams = defaultModuleParams();
  /** KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 (dirty-log.ts), and KVM_CAP_DIRTY_LOG_RING in bytes; set before there is any vCPU. */
  manualDirtyLogProtect = 0;
  dirtyRingSize = 0;
  readonly mmuLock: RwLock;
  readonly srcu: Srcu;
  readonly memslots: Memslots;
  readonly mmuInvalidateInProgress: Cell;
  readonly mmuInvalidateSeq: Cell;
  /** The union of the ranges in progress, in guest frames. */
  readonly mmuInvalidateRangeStart: Cell;
  readonly mmuInvalidateRangeEnd: Cell;
  readonly gpcs: GpcList<GfnToPfnCache>;
  /** Some fix is undone. */
  readonly lacksAny: boolean;
  /** Null for a VM that has no vCPU and so maps nothing. */
  arch: KvmArch | null = null;
  /** The APIC's page; null for a VM that has none. */
  apicAccess: ApicAccess | null = null;
  /** An oracle that wants to see each frame that a gfn_to_pfn_cache is about to let its users have. */
  onGpcPublished: ((frame: Pfn) => Steps<void>) | null = null;

  constructor(world: World, kernel: Kernel, mm: Mm, variants: KvmVariants) {
    this.world = world;
    this.kernel = kernel;
    this.mm = mm;
    this.variants = variants;
    this.mmuLock = new RwLock(world, "kvm->mmu_lock");
    this.srcu = new Srcu(world, "kvm->srcu");
    this.memslots = new Memslots(world, kernel, this.srcu);
    this.mmuInvalidateInProgress = cell(world, "mmu_invalidate_in_progress");
    this.mmuInvalidateSeq = cell(world, "mmu_invalidate_seq");
    this.mmuInvalidateRangeStart = cell(world, "mmu_invalidate_range_start");
    this.mmuInvalidateRangeEnd = cell(world, "mmu_invalidate_range_end");
    this.gpcs = new GpcList(world, kernel);
    this.lacksAny = variants.undone.size > 0;
  }

  /** Whether the VM runs as if this fix had never been made. */
  lacks(fix: FixName): boolean {
    return this.lacksAny && this.variants.undone.has(fix);
  }
}
