/**
 * struct kvm_mmu_page of the shadow MMU.
 *
 *     indirect    shadows a table of the guest: entry i stands for the guest's entry i (4-byte entries: of one half or quarter)
 *     direct      maps guest frames in a row: under a large page of the guest that the host does not have in one piece, in a guest without
 *                 paging, and with nested paging where the TDP MMU is off
 *
 * Two pages are the same if frame and role are. `shadowed_translation` holds for each entry of an indirect page what it was made from:
 * (gfn << 12) | access. Fields belong to mmu_lock, held for write; `unsync`, `unsync_children` and `write_flooding_count` are also looked
 * at without it.
 */
import {
  acquire,
  arrayOf,
  Cell,
  cell,
  ptr,
  retire,
  revive,
  type Steps,
  Struct,
  UsageError,
  u32,
  u53,
  type View,
  type World,
} from "../../engine/index.ts";
import { listInit } from "../../kernel/index.ts";
import {
  ENTRIES_PER_TABLE,
  type Gfn,
  gfn,
  type Hpa,
  offsetInPage,
  PAGE_SHIFT,
  PAGE_SIZE,
  type Pfn,
  PG_LEVEL_1G,
  pagesPerLevel,
} from "../../machine/index.ts";
import { liveTables } from "../live-tables.ts";
import { type RoleLayout, roleAccess, roleIsDirect, roleLevel } from "../role.ts";
import type { SpteLayout } from "../spte.ts";
import type { SpText } from "../trace.ts";

const BITMAP_WORDS = ENTRIES_PER_TABLE / 32;

const FIELDS = {
  /** On active_mmu_pages, or on the list of a zap in progress. */
  link: arrayOf(ptr, 2),
  hash_link: arrayOf(ptr, 2),
  /** On possible_nx_huge_pages. */
  nx_link: arrayOf(ptr, 2),
  role: u32,
  mmu_valid_gen: u32,
  gfn: u53,
  spt: ptr,
  /** 0 for a page that has none. */
  shadowed_translation: ptr,
  root_count: u32,
  unsync: u32,
  unsync_children: u32,
  write_flooding_count: u32,
  nx_huge_page_disallowed: u32,
  /** An rmap head: the entries that link this page. */
  parent_ptes: u53,
  unsync_child_bitmap: arrayOf(u32, BITMAP_WORDS),
};
const SP = new Struct("kvm_mmu_page", FIELDS);
export type ShadowPage = View<typeof FIELDS>;

const LINK_OFFSET = SP.offsets["link"] as number;
const NX_LINK_OFFSET = SP.offsets["nx_link"] as number;
const HASH_LINK_OFFSET = SP.offsets["hash_link"] as number;

const always = (): boolean => true;
const takeLowest = (free: number): number => free & (free - 1);

export class ShadowPages {
  readonly world: World;
  private readonly layout: RoleLayout;
  private readonly template: Uint32Array;
  /** By page of memory, the page's description if it is a table; filled in again, the same, whenever a task that allocated is rebuilt. */
  private readonly byTable: Uint32Array;
  /** Pages to be used again, by their addresses, and which of them are free: a bit for each. Empty in Linux's own design. */
  private readonly pool: readonly number[];
  private readonly poolFree: Cell | null;

  /** @param pool see {@link KvmVariants.shadowPagePool} */
  constructor(world: World, sptes: SpteLayout, roles: RoleLayout, pool = 0) {
    this.world = world;
    this.layout = roles;
    this.byTable = new Uint32Array(world.heap.bytes / PAGE_SIZE);
    this.template = new Uint32Array(PAGE_SIZE / 4);
    for (let i = 0; i < this.template.length; i += 2) {
      this.template[i] = sptes.nonPresent.lo;
      this.template[i + 1] = sptes.nonPresent.hi;
    }
    this.pool = Array.from({ length: pool }, (_, n) => this.allocateForPool(n));
    this.poolFree = pool === 0 ? null : cell(world, "free shadow pages");
    if (this.poolFree !== null) this.poolFree.value = 2 ** pool - 1;
  }

  /** A page that nobody has yet, with all that one of any role needs. */
  private allocateForPool(n: number): number {
    const { world } = this;
    const spt = world.allocate(PAGE_SIZE, "", (offset) => `spte(page ${n} [${offset >>> 3}])`, this.template);
    const sp = SP.allocate(world, `sp(page ${n})`);
    sp.spt.value = spt;
    sp.shadowed_translation.value = world.allocate(8 * ENTRIES_PER_TABLE, `sp(page ${n})->shadowed_translation`);
    this.byTable[spt >>> PAGE_SHIFT] = sp.addr;
    for (const addr of [sp.addr, spt]) world.setLife(addr, { property: "use-after-free", because: "freed" });
    return sp.addr;
  }

  /** A page with a table of entries that are not present: from the pool, if there is one. */
  *take(role: number, base: Gfn): Steps<ShadowPage> {
    if (this.poolFree === null) return this.allocate(role, base);
    const { world } = this;
    const free = yield* acquire(this.poolFree, always, takeLowest, "take a free shadow page");
    const addr = this.pool[31 - Math.clz32(free & -free)];
    if (addr === undefined)
      throw new UsageError(`all ${this.pool.length} shadow pages are in use; give shadowPagePool more`);
    yield* revive(world, addr);
    const sp = this.at(addr);
    yield* revive(world, sp.spt.value);
    sp.role.value = role;
    sp.gfn.value = base;
    for (const field of [sp.root_count, sp.unsync, sp.unsync_children, sp.write_flooding_count]) field.value = 0;
    sp.nx_huge_page_disallowed.value = 0;
    sp.parent_ptes.value = 0;
    for (let i = 0; i < BITMAP_WORDS; i++) sp.unsync_child_bitmap(i).value = 0;
    for (const link of [LINK_OFFSET, NX_LINK_OFFSET, HASH_LINK_OFFSET]) listInit(world, addr + link);
    return sp;
  }

  /** The part of kvm_mmu_alloc_shadow_page() that nobody else can see yet. */
  allocate(role: number, base: Gfn): ShadowPage {
    const { world } = this;
    const level = roleLevel(role);
    const name = `l${level} gfn ${base.toString(16)}${roleIsDirect(role) ? " direct" : ""}`;
    const spt = world.allocate(PAGE_SIZE, "", (offset) => `spte(${name} [${offset >>> 3}])`, this.template);
    const sp = SP.allocate(world, `sp(${name})`);
    sp.role.value = role;
    sp.gfn.value = base;
    sp.spt.value = spt;
    // Entries of higher levels map nothing.
    if (!roleIsDirect(role) && level <= PG_LEVEL_1G) {
      sp.shadowed_translation.value = world.allocate(8 * ENTRIES_PER_TABLE, `sp(${name})->shadowed_translation`);
    }
    for (const link of [LINK_OFFSET, NX_LINK_OFFSET, HASH_LINK_OFFSET]) listInit(world, sp.addr + link);
    if (world.current === null) this.makeMortal(sp);
    this.byTable[spt >>> PAGE_SHIFT] = sp.addr;
    world.clock?.gauge("pages of tables", 1);
    return sp;
  }

  private makeMortal(sp: ShadowPage): void {
    for (const addr of [sp.addr, sp.spt.value]) this.world.makeMortal(addr);
  }

  at(addr: number): ShadowPage {
    return SP.at(this.world, addr);
  }

  ofLink(link: number): ShadowPage {
    return this.at(link - LINK_OFFSET);
  }

  ofHashLink(link: number): ShadowPage {
    return this.at(link - HASH_LINK_OFFSET);
  }

  ofNxLink(link: number): ShadowPage {
    return this.at(link - NX_LINK_OFFSET);
  }

  /** sptep_to_sp() */
  ofEntry(sptep: number): ShadowPage {
    return this.at(this.byTable[sptep >>> PAGE_SHIFT] as number);
  }

  /** root_to_sp(); null for a root that is no shadow page, as a PAE root. */
  ofRoot(hpa: number): ShadowPage | null {
    const addr = this.byTable[hpa >>> PAGE_SHIFT] as number;
    return addr === 0 ? null : this.at(addr);
  }

  /** spte_to_child_sp(), by the frame of its table. */
  ofFrame(frame: Pfn): ShadowPage {
    return this.ofEntry(frame * PAGE_SIZE);
  }

  /** kvm_mmu_page_get_gfn() */
  gfnOf(sp: ShadowPage, index: number): Gfn {
    const table = sp.shadowed_translation.value;
    if (table !== 0 && !roleIsDirect(sp.role.value))
      return gfn(Math.floor(translation(this.world, table, index).value / PAGE_SIZE));
    return gfn(sp.gfn.value + index * pagesPerLevel(spLevel(sp)));
  }

  /** kvm_mmu_page_get_access() */
  accessOf(sp: ShadowPage, index: number): number {
    const table = sp.shadowed_translation.value;
    if (table !== 0 && !roleIsDirect(sp.role.value)) return offsetInPage(translation(this.world, table, index).value);
    return roleAccess(this.layout, sp.role.value);
  }

  /** kvm_mmu_page_set_translation() */
  setTranslation(sp: ShadowPage, index: number, frame: Gfn, access: number): void {
    const table = sp.shadowed_translation.value;
    if (table === 0 || roleIsDirect(sp.role.value)) return;
    const made = frame * PAGE_SIZE + access;
    translation(this.world, table, index).value = made;
  }

  /** Tables that are allocated now. For oracles. */
  liveTables(): number[] {
    return liveTables(this.world, this.byTable, (sp) => this.at(sp).spt.peek());
  }

  /** kvm_mmu_free_shadow_page(), its memory. */
  *free(sp: ShadowPage): Steps<void> {
    const table = sp.spt.value;
    this.world.clock?.gauge("pages of tables", -1);
    yield* retire(this.world, table, "freed");
    yield* retire(this.world, sp.addr, "freed");
    if (this.poolFree === null) return;
    const n = this.pool.indexOf(sp.addr);
    yield* acquire(this.poolFree, always, (free) => free | (1 << n), "a shadow page is free again");
  }
}

function translation(world: World, table: number, index: number): Cell {
  return new Cell<number>(world, table + 8 * index, 8, false);
}

export function linkOf(sp: ShadowPage): number {
  return sp.addr + LINK_OFFSET;
}

export function hashLinkOf(sp: ShadowPage): number {
  return sp.addr + HASH_LINK_OFFSET;
}

export function nxLinkOf(sp: ShadowPage): number {
  return sp.addr + NX_LINK_OFFSET;
}

export function spLevel(sp: ShadowPage): number {
  return roleLevel(sp.role.value);
}

export function spGfn(sp: ShadowPage): Gfn {
  return gfn(sp.gfn.value);
}

export function spHpa(sp: ShadowPage): Hpa {
  return sp.spt.value as Hpa;
}

/** Address of an entry of the page. */
export function spteOf(sp: ShadowPage, index: number): number {
  return sp.spt.value + 8 * index;
}

/** spte_index() */
export function spteIndex(sptep: number): number {
  return offsetInPage(sptep) >>> 3;
}

/** sp_has_gptes(): it shadows a table, so writes to that table matter. */
export function spHasGptes(sp: ShadowPage): boolean {
  return !roleIsDirect(sp.role.value);
}

export function shadowSpText(sp: ShadowPage): SpText {
  return {
    gen: sp.mmu_valid_gen.value,
    gfn: sp.gfn.value,
    role: sp.role.value,
    rootCount: sp.root_count.value,
    unsync: sp.unsync.value !== 0,
  };
}
