/**
 * struct kvm_mmu_page: what KVM knows of one of its page tables.
 *
 * The table itself is a page of the heap, full of the non-present value when it is made. sptep_to_sp() finds the page that an entry
 * belongs to.
 */
import { ptr, retire, type Steps, Struct, u32, u53, type View, type World } from "../engine/index.ts";
import { type Gfn, gfn, type Hpa, hpaToPfn, PAGE_SHIFT, PAGE_SIZE, type Pfn, pagesPerLevel } from "../machine/index.ts";
import { liveTables } from "./live-tables.ts";
import { roleLevel } from "./role.ts";
import type { SpteLayout } from "./spte.ts";

const FIELDS = {
  role: u32,
  gfn: u53,
  spt: u53,
  ptep: u53,
  tdp_mmu_root_count: u32,
  nx_huge_page_disallowed: u32,
  /** sp->possible_nx_huge_page_link: neighbours on the list. */
  nx_huge_page_next: ptr,
  nx_huge_page_prev: ptr,
  /** The next TDP root on kvm->arch.tdp_mmu_roots. */
  link: ptr,
  /** Of an invalid TDP root: the TDP MMU's own reference is still held, and the zap that gives it back is still to come. */
  tdp_mmu_scheduled_root_to_zap: u32,
};
const SP = new Struct("kvm_mmu_page", FIELDS);
export type KvmMmuPage = View<typeof FIELDS>;

export class MmuPages {
  private readonly world: World;
  private readonly template: Uint32Array;
  /** By page of memory, the page's description if it is a table; filled in again, the same, whenever a task that allocated is rebuilt. */
  private readonly byTable: Uint32Array;

  constructor(world: World, layout: SpteLayout) {
    this.world = world;
    this.byTable = new Uint32Array(world.heap.bytes / PAGE_SIZE);
    this.template = new Uint32Array(PAGE_SIZE / 4);
    for (let i = 0; i < this.template.length; i += 2) {
      this.template[i] = layout.nonPresent.lo;
      this.template[i + 1] = layout.nonPresent.hi;
    }
  }

  /** tdp_mmu_alloc_sp(), tdp_mmu_init_sp() */
  /** @param contents what the table holds; null: nothing present */
  allocate(role: number, base: Gfn, ptep: number, contents: Uint32Array | null = null): KvmMmuPage {
    const level = roleLevel(role);
    const size = pagesPerLevel(level);
    const describe = (offset: number): string => `spte(l${level} gfn ${(base + (offset >>> 3) * size).toString(16)})`;
    const spt = this.world.allocate(PAGE_SIZE, "", describe, contents ?? this.template);
    const sp = SP.allocate(this.world, `sp(l${level} gfn ${base.toString(16)})`);
    sp.role.value = role;
    sp.gfn.value = base;
    sp.spt.value = spt;
    sp.ptep.value = ptep;
    this.byTable[spt >>> PAGE_SHIFT] = sp.addr;
    this.world.clock?.gauge("pages of tables", 1);
    return sp;
  }

  at(addr: number): KvmMmuPage {
    return SP.at(this.world, addr);
  }

  /** sptep_to_sp() */
  ofEntry(sptep: number): KvmMmuPage {
    return this.at(this.byTable[sptep >>> PAGE_SHIFT] as number);
  }

  /** spte_to_child_sp(): the page whose table has the frame. */
  ofFrame(frame: Pfn): KvmMmuPage {
    return this.ofEntry(frame * PAGE_SIZE);
  }

  /** Tables that are allocated now. For oracles. */
  liveTables(): number[] {
    return liveTables(this.world, this.byTable, (sp) => this.at(sp).spt.peek());
  }

  /** tdp_mmu_free_sp(): the table and what KVM knows of it go back to the allocator. */
  *free(sp: KvmMmuPage): Steps<void> {
    this.world.clock?.gauge("pages of tables", -1);
    yield* retire(this.world, sp.spt.value, "freed");
    yield* retire(this.world, sp.addr, "freed");
  }
}

export function spLevel(sp: KvmMmuPage): number {
  return roleLevel(sp.role.value);
}

export function spGfn(sp: KvmMmuPage): Gfn {
  return gfn(sp.gfn.value);
}

/** Frame number of the page's table. */
export function spFrame(sp: KvmMmuPage): Pfn {
  return hpaToPfn(sp.spt.value as Hpa);
}
