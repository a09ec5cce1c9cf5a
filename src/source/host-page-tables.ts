/**
 * The process's page tables as hardware has them, for code of the kernel that walks them (host_pfn_mapping_level()).
 *
 *     pgd -> pud -> entries of 2M: those of the modelled mm (kernel/mm), at their place in a table
 *
 * The modelled mm keeps its entries of 2M in one array, of which each 4K are a page table; entries of 1G are copied when a walk begins.
 */
import { assert, type World } from "../engine/index.ts";
import type { Mm } from "../kernel/index.ts";
import { hva, PAGE_SIZE } from "../machine/index.ts";

/** Present, writable, user, accessed, dirty. */
const TABLE = 0x67;
const PRESENT_HUGE = 0x81;
const GIGANTIC = 2 ** 30;
const PUD_TABLE = 2 ** 39;

export class HostPageTables {
  private readonly world: World;
  private readonly mm: Mm;
  private readonly pgd: number;
  /** Tables of 1G entries, by the first address that each covers. */
  private readonly puds = new Map<number, number>();

  /** Set-up only. The window of the mm begins at a multiple of 1G. */
  constructor(mm: Mm) {
    this.mm = mm;
    this.world = mm.world;
    assert(mm.base % GIGANTIC === 0, "a walk of host page tables needs a window that begins at a multiple of 1G");
    this.pgd = this.table("pgd");
    for (let addr: number = mm.base; addr < mm.base + mm.pages * PAGE_SIZE; addr += GIGANTIC) this.link(addr);
  }

  private table(name: string): number {
    return this.world.allocate(PAGE_SIZE, name);
  }

  private link(addr: number): void {
    const first = addr - (addr % PUD_TABLE);
    let pud = this.puds.get(first);
    if (pud === undefined) {
      pud = this.table("pud table");
      this.puds.set(first, pud);
      this.write(this.pgd + 8 * indexOf(addr, PUD_TABLE), pud + TABLE);
    }
    this.write(pud + 8 * indexOf(addr, GIGANTIC), this.tableOf(addr));
  }

  private tableOf(addr: number): number {
    const { addr: pmds } = this.mm.pmdOf(hva(addr - (addr % GIGANTIC)));
    assert(pmds % PAGE_SIZE === 0, "entries of 2M do not lie as in a page table");
    return pmds + TABLE;
  }

  private write(at: number, value: number): void {
    this.world.heap.write(at, 8, value >>> 0, Math.floor(value / 0x1_0000_0000));
  }

  /** pgd_offset() */
  pgdOffset(addr: number): number {
    const pud = this.puds.get(addr - (addr % PUD_TABLE));
    if (this.mm.gigantic && pud !== undefined && this.mm.covers(hva(addr))) {
      const entry = this.mm.pudOf(hva(addr)).value;
      const isHuge = (entry & PRESENT_HUGE) === PRESENT_HUGE;
      this.write(pud + 8 * indexOf(addr, GIGANTIC), isHuge ? entry : this.tableOf(addr));
    }
    return this.pgd + 8 * indexOf(addr, PUD_TABLE);
  }
}

function indexOf(addr: number, size: number): number {
  return Math.floor(addr / size) % 512;
}
