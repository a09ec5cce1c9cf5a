/**
 * The shadow MMU's part of struct kvm: every shadow page, found by the frame that it stands for, and in the order of their making.
 *
 *     mmu_page_hash        4096 lists of pages, by a hash of gfn
 *     active_mmu_pages     all pages that are not being zapped, newest first; what is recycled or obsolete is at its end
 *     mmu_valid_gen        0 or 1; a page of the other generation is obsolete and is found no more
 *     indirect_shadow_pages   how many pages shadow a guest table; 0 spares writers of guest memory from looking
 *
 * All under mmu_lock held for write, but for the marked looks at indirect_shadow_pages. mmu_unsync_pages_lock is for setting `unsync` from a
 * fault of the TDP MMU, which holds mmu_lock only for read. Stands for mmu.c of 6.12 and 7.2.
 */
import { type Cell, Cell as CellType, cell, TWO32, type World } from "../../engine/index.ts";
import { listEntries, listInit, SpinLock } from "../../kernel/index.ts";
import { ENTRIES_PER_TABLE, type Gfn } from "../../machine/index.ts";
import { type AccessBits, accessBits } from "../cpu-role.ts";
import type { Kvm } from "../kvm.ts";
import type { RoleLayout } from "../role.ts";
import type { SpteLayout } from "../spte.ts";
import type { KvmEvent, StatEvent } from "../trace.ts";
import type { KernelVersion } from "../variants.ts";
import type { Vm } from "../vm.ts";
import { freePagesRcu } from "./free-designs.ts";
import { type ShadowPage, ShadowPages, spGfn, spHasGptes } from "./page.ts";
import type { RmapOptions } from "./rmap.ts";

const KVM_MMU_HASH_SHIFT = 12;
const HASH_BUCKETS = 1 << KVM_MMU_HASH_SHIFT;
const LIST_HEAD_BYTES = 16;

export class ShadowMmu {
  readonly vm: Vm;
  readonly kvm: Kvm;
  readonly world: World;
  readonly kernel: KernelVersion;
  readonly layout: SpteLayout;
  readonly roles: RoleLayout;
  readonly bits: AccessBits;
  readonly pages: ShadowPages;
  /** Guest frames' reverse maps have a lock bit from 6.15 on. */
  readonly gfnRmaps: RmapOptions;
  /** Entries without A/D bits may change at any time: aging needs no mmu_lock. */
  readonly adDisabledVolatile: boolean;
  /** How many entries of each page are in use at most: see {@link KvmVariants.tableEntriesEnd}. */
  readonly entriesEnd: number;
  readonly parentRmaps: RmapOptions = { locked: false };
  readonly mmuUnsyncPagesLock: SpinLock;
  readonly activeMmuPages: number;
  readonly possibleNxHugePages: number;
  readonly indirectShadowPages: Cell;
  readonly nUsedMmuPages: Cell;
  /** 0 until it is needed first. */
  readonly nMaxMmuPages: Cell;
  readonly nRequestedMmuPages: Cell;
  /** shadow_root_allocated: the memslots have their reverse maps. */
  readonly shadowRootAllocated: Cell;
  /** The largest reverse map, and the longest run of other frames in a hash list, so far. */
  readonly maxRmapSize: Cell;
  readonly maxHashCollisions: Cell;
  /** kvm->arch.rcu_free_shadow_page, and what is on its way to be freed: only of designs that Linux has not (free-designs.ts). */
  readonly rcuFreeShadowPage: Cell;
  readonly rcuPending: Cell;
  readonly rcuParked: Cell;
  readonly rcuParkedLock: SpinLock;
  readonly freePagesRcu: number;
  private readonly hash: number;

  constructor(vm: Vm) {
    const { kvm } = vm;
    const { world } = kvm;
    this.vm = vm;
    this.kvm = kvm;
    this.world = world;
    this.kernel = kvm.variants.kernel;
    this.layout = vm.tdp.layout;
    this.roles = vm.tdp.roles;
    this.bits = accessBits(this.kernel);
    this.pages = new ShadowPages(world, this.layout, this.roles, kvm.variants.shadowPagePool);
    this.gfnRmaps = { locked: this.kernel === "7.2", addsUnlocked: !kvm.variants.rmapAddLocks };
    this.adDisabledVolatile = this.kernel === "7.2" && kvm.variants.adDisabledVolatile;
    this.entriesEnd = Math.min(ENTRIES_PER_TABLE, kvm.variants.tableEntriesEnd);
    this.mmuUnsyncPagesLock = new SpinLock(world, "kvm->arch.mmu_unsync_pages_lock");
    const link = (offset: number): string => (offset === 0 ? "next" : "prev");
    this.activeMmuPages = world.allocate(LIST_HEAD_BYTES, "kvm->arch.active_mmu_pages", link);
    listInit(world, this.activeMmuPages);
    this.possibleNxHugePages = world.allocate(LIST_HEAD_BYTES, "kvm->arch.possible_nx_huge_pages", link);
    listInit(world, this.possibleNxHugePages);
    this.indirectShadowPages = cell(world, "kvm->arch.indirect_shadow_pages");
    this.nUsedMmuPages = cell(world, "kvm->arch.n_used_mmu_pages");
    this.nMaxMmuPages = cell(world, "kvm->arch.n_max_mmu_pages");
    this.nRequestedMmuPages = cell(world, "kvm->arch.n_requested_mmu_pages");
    this.shadowRootAllocated = cell(world, "kvm->arch.shadow_root_allocated");
    this.maxRmapSize = cell(world, "kvm->stat.max_mmu_rmap_size");
    this.maxHashCollisions = cell(world, "kvm->stat.max_mmu_page_hash_collisions");
    this.rcuFreeShadowPage = cell(world, "kvm->arch.rcu_free_shadow_page");
    this.rcuPending = cell(world, "kvm->arch.rcu_pending");
    this.rcuParked = cell(world, "kvm->arch.rcu_parked");
    this.rcuParkedLock = new SpinLock(world, "kvm->arch.rcu_parked_lock");
    this.freePagesRcu = kvm.kernel.rcu.register((addr) => freePagesRcu(this, addr));
    const bucket = (offset: number): string => `[${offset >>> 4}].${link(offset % LIST_HEAD_BYTES)}`;
    this.hash = world.allocate(LIST_HEAD_BYTES * HASH_BUCKETS, "kvm->arch.mmu_page_hash", bucket);
    for (let i = 0; i < HASH_BUCKETS; i++) listInit(world, this.hash + LIST_HEAD_BYTES * i);
  }

  emit(event: KvmEvent): void {
    this.world.emit(event);
  }

  /** A statistic of the VM. */
  count(stat: string, delta: number): void {
    if (delta === 0) return;
    const event: StatEvent = { name: "stat", stat, vcpu: null, delta };
    this.world.emit(event);
  }

  /** A statistic that is the largest value seen. */
  countMax(stat: string, cellOfMax: Cell, value: number): void {
    const old = cellOfMax.value;
    if (value <= old) return;
    cellOfMax.value = value;
    this.count(stat, value - old);
  }

  /** The head of the list that has the pages of a frame, and others. */
  bucketOf(gfn: Gfn): number {
    return this.hash + LIST_HEAD_BYTES * hash64(gfn, KVM_MMU_HASH_SHIFT);
  }

  /** is_obsolete_sp(): of another generation, or invalid. */
  isObsolete(sp: ShadowPage): boolean {
    return this.isInvalid(sp) || sp.mmu_valid_gen.value !== this.vm.mmuValidGen.value;
  }

  isInvalid(sp: ShadowPage): boolean {
    return (sp.role.value & this.roles.invalid) !== 0;
  }

  /** for_each_valid_sp(): the pages in the list of a frame's hash, those of other frames included. The one at hand may be unlinked. */
  *validPages(gfn: Gfn): Generator<ShadowPage> {
    for (const link of listEntries(this.world, this.bucketOf(gfn))) {
      const sp = this.pages.ofHashLink(link);
      if (!this.isObsolete(sp)) yield sp;
    }
  }

  /** for_each_gfn_valid_sp_with_gptes(): the pages that shadow the guest table in the frame. */
  validPagesOf(gfn: Gfn): ShadowPage[] {
    const found: ShadowPage[] = [];
    for (const link of listEntries(this.world, this.bucketOf(gfn))) {
      const sp = this.pages.ofHashLink(link);
      if (!this.isObsolete(sp) && spGfn(sp) === gfn && spHasGptes(sp)) found.push(sp);
    }
    return found;
  }

  nxHugePagesOn(): boolean {
    return this.kvm.params.nxHugePages;
  }

  /** Entries of the statistics of mapped pages. */
  countPages(level: number, delta: 1 | -1): void {
    this.count(level === 1 ? "pages_4k" : level === 2 ? "pages_2m" : "pages_1g", delta);
  }

  cellAt(addr: number): Cell {
    return new CellType<number>(this.world, addr, 8, false);
  }
}

/** GOLDEN_RATIO_64, in halves. */
const GOLDEN_HIGH = 0x61c88646;
const GOLDEN_LOW = 0x80b583eb;

/**
 * hash_64(): the high bits of a product modulo 2^64. Collisions are a statistic, so the very function matters.
 * @param bits how many; 32 at most
 */
export function hash64(value: number, bits: number): number {
  const low = value >>> 0;
  const high = Math.floor(value / TWO32);
  // The high half: of the product of the low halves what is carried, of the crossed products the low half.
  const upper = highHalfOfProduct(low, GOLDEN_LOW) + Math.imul(low, GOLDEN_HIGH) + Math.imul(high, GOLDEN_LOW);
  return (upper >>> 0) >>> (32 - bits);
}

/** Of two numbers of 32 bits each. */
function highHalfOfProduct(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = aHigh * bLow + Math.floor((aLow * bLow) / 0x1_0000);
  const other = aLow * bHigh + (middle % 0x1_0000);
  return aHigh * bHigh + Math.floor(middle / 0x1_0000) + Math.floor(other / 0x1_0000);
}
