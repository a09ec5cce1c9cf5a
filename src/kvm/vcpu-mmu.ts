/**
 * struct kvm_mmu of a vCPU, as far as shadow paging needs it: which guest tables the root stands for, roots of other address spaces that are
 * kept for when the guest comes back, and the four-entry root of PAE paging. All of it is the vCPU thread's own business.
 *
 *     root        { vcpu.rootHpa, rootPgd }
 *     prevRoots   { hpa, pgd } x 3, the one used last first
 */
import { type Cell, cell, cells, entryCell, type U64, U64_ZERO, type World } from "../engine/index.ts";

export const KVM_MMU_NUM_PREV_ROOTS = 3;
const PAE_ROOT_BYTES = 4096;

/** One root, and CR3 of the address space that it is for. */
export interface RootCells {
  readonly hpa: Cell;
  readonly pgd: Cell;
}

export class VcpuMmu {
  readonly root: RootCells;
  readonly prevRoots: readonly RootCells[];
  /** pae_root: four entries that hardware in PAE mode starts from; allocated when it is needed first. */
  readonly paeRoot: Cell;
  /** last_retry_eip, last_retry_addr: where an instruction was let run again after its page table was given up. */
  readonly lastRetryRip: Cell;
  readonly lastRetryAddr: Cell;
  /** The PDPTEs of a PAE guest, as they were when CR3 was loaded. */
  pdptes: readonly U64[] = NO_PDPTES;
  private readonly world: World;
  private readonly name: string;

  constructor(world: World, vcpu: number, rootHpa: Cell) {
    this.world = world;
    this.name = `vcpu${vcpu}->mmu`;
    this.root = { hpa: rootHpa, pgd: cell(world, `${this.name}->root.pgd`) };
    const hpas = cells(world, `${this.name}->prev_roots.hpa`, KVM_MMU_NUM_PREV_ROOTS);
    const pgds = cells(world, `${this.name}->prev_roots.pgd`, KVM_MMU_NUM_PREV_ROOTS);
    this.prevRoots = hpas.map((hpa, i) => ({ hpa, pgd: pgds[i] as Cell }));
    this.paeRoot = cell(world, `${this.name}->pae_root`);
    this.lastRetryRip = cell(world, `vcpu${vcpu}->arch.last_retry_eip`);
    this.lastRetryAddr = cell(world, `vcpu${vcpu}->arch.last_retry_addr`);
  }

  /** The vCPU's thread begins anew. */
  reset(): void {
    this.pdptes = NO_PDPTES;
  }

  /** The table of the PAE root; made when it is not there. */
  paeRootTable(): number {
    const table = this.paeRoot.value;
    if (table !== 0) return table;
    const made = this.world.allocate(PAE_ROOT_BYTES, `${this.name}->pae_root`, (offset) => `[${offset >>> 3}]`);
    this.paeRoot.value = made;
    return made;
  }

  paeRootEntry(index: number): Cell<U64> {
    return entryCell(this.world, this.paeRootTable(), index);
  }

  isPaeRoot(hpa: number): boolean {
    return hpa !== 0 && hpa === this.paeRoot.value;
  }
}

const NO_PDPTES: readonly U64[] = [U64_ZERO, U64_ZERO, U64_ZERO, U64_ZERO];
