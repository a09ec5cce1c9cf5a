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
import type { GfnToPfnCache } from "./gfn-to-pfn-cache.ts";
import { GpcList } from "./gpc-list.ts";
import { Memslots } from "./memslots.ts";
import type { KvmVariants } from "./variants.ts";

/** What the parts that KVM shares with other architectures ask of the x86 MMU. */
export interface KvmArch {
  /** kvm_unmap_gfn_range(): zaps [start, end) under mmu_lock held for write; true when a TLB flush is needed. */
  unmapGfnRange(start: Gfn, end: Gfn): Steps<boolean>;
  /** kvm_flush_remote_tlbs() */
  flushRemoteTlbs(): Steps<void>;
}

export class Kvm {
  readonly world: World;
  readonly kernel: Kernel;
  readonly mm: Mm;
  readonly variants: KvmVariants;
  readonly mmuLock: RwLock;
  readonly srcu: Srcu;
  readonly memslots: Memslots;
  readonly mmuInvalidateInProgress: Cell;
  readonly mmuInvalidateSeq: Cell;
  /** The union of the ranges in progress, in guest frames. */
  readonly mmuInvalidateRangeStart: Cell;
  readonly mmuInvalidateRangeEnd: Cell;
  readonly gpcs: GpcList<GfnToPfnCache>;
  /** Null for a VM that has no vCPU and so maps nothing. */
  arch: KvmArch | null = null;
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
  }
}
