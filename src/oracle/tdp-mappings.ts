/**
 * Coherence of the TDP MMU's leaves with what they stand for, when nobody is working on them.
 *
 *   - every leaf of a valid root maps, page by page, the frames that the host has for the guest frames;
 *   - it is writable only where the host's mapping is;
 *   - under the mitigation of NX huge pages, no huge leaf is executable;
 *   - tables that recovery may take away are on their list, once each, still linked, and counted.
 */
import { type U64, u64, type World } from "../engine/index.ts";
import { gfnToHva, type KvmMemorySlot } from "../kvm/memslots.ts";
import {
  isExecutablePte,
  isHostWritableSpte,
  isLastSpte,
  isShadowPresentPte,
  isWritablePte,
  spteToPfn,
} from "../kvm/spte.ts";
import type { TdpMmu } from "../kvm/tdp-mmu.ts";
import { ENTRIES_PER_TABLE, type Gfn, PAGE_SIZE, PG_LEVEL_4K, pagesPerLevel } from "../machine/index.ts";

/** A leaf as a walk finds it. */
interface Leaf {
  readonly spte: U64;
  readonly level: number;
  readonly gfn: number;
}

/** Looks at the tables as they are now; null when all is well, else what is wrong. For final predicates. */
export function tdpMappingsProblem(tdp: TdpMmu): string | null {
  for (const leaf of validLeaves(tdp)) {
    const problem = leafProblem(tdp, leaf);
    if (problem !== null) return `${problem} (gfn 0x${leaf.gfn.toString(16)}, level ${leaf.level})`;
  }
  return nxListProblem(tdp);
}

function leafProblem(tdp: TdpMmu, { spte, level, gfn }: Leaf): string | null {
  const { layout, kvm } = tdp;
  if (isWritablePte(spte) && !isHostWritableSpte(layout, spte)) return "a leaf is writable, the host's mapping is not";
  if (kvm.params.nxHugePages && level > PG_LEVEL_4K && isExecutablePte(layout, spte))
    return "a huge leaf is executable";
  const pages = Math.min(pagesPerLevel(level), tdp.gfnEnd - gfn);
  for (let i = 0; i < pages; i++) {
    const slot = slotOf(tdp, gfn + i);
    if (slot === null) return "a leaf maps what no memslot has";
    const host = kvm.mm.frameAt(gfnToHva(slot, (gfn + i) as Gfn));
    if (host !== spteToPfn(spte) + i) return `page ${i} of a leaf is not the host's`;
  }
  return null;
}

function slotOf({ kvm }: TdpMmu, gfn: number): KvmMemorySlot | null {
  const { memslots } = kvm;
  const slots = memslots.slotsOf(memslots.setAt(memslots.active.peek()));
  return slots.find(({ base_gfn, npages }) => gfn >= base_gfn.peek() && gfn < base_gfn.peek() + npages.peek()) ?? null;
}

function* validLeaves(tdp: TdpMmu): Generator<Leaf> {
  for (let addr = tdp.roots.peek(); addr !== 0; ) {
    const root = tdp.pages.at(addr);
    const role = root.role.peek();
    if ((role & tdp.roles.invalid) === 0) yield* leavesBelow(tdp, root.spt.peek(), role & 0xf, 0);
    addr = root.link.peek();
  }
}

function* leavesBelow(tdp: TdpMmu, table: number, level: number, base: number): Generator<Leaf> {
  for (let i = 0; i < ENTRIES_PER_TABLE; i++) {
    const spte = peekEntry(tdp.world, table + 8 * i);
    if (!isShadowPresentPte(spte)) continue;
    const gfn = base + i * pagesPerLevel(level);
    if (isLastSpte(spte, level)) yield { spte, level, gfn };
    else yield* leavesBelow(tdp, spteToPfn(spte) * PAGE_SIZE, level - 1, gfn);
  }
}

function peekEntry(world: World, addr: number): U64 {
  const lo = world.heap.read(addr, 8);
  return u64(world.heap.high, lo);
}

function nxListProblem(tdp: TdpMmu): string | null {
  const { head, tail, nrPages: count } = tdp.possibleNxHugePages;
  let length = 0;
  let last = 0;
  for (let addr = head.peek(); addr !== 0; ) {
    const sp = tdp.pages.at(addr);
    const entry = peekEntry(tdp.world, sp.ptep.peek());
    if (sp.nx_huge_page_prev.peek() !== last) return "the list of possible NX huge pages is torn";
    if (!isShadowPresentPte(entry) || spteToPfn(entry) * PAGE_SIZE !== sp.spt.peek())
      return "a table that is not linked any more is still on the list of possible NX huge pages";
    if (sp.nx_huge_page_disallowed.peek() === 0)
      return "a table is on the list of possible NX huge pages without its mark";
    length++;
    last = addr;
    addr = sp.nx_huge_page_next.peek();
  }
  if (tail.peek() !== last) return "the list of possible NX huge pages is torn";
  return count.peek() === length
    ? null
    : `${length} tables are on the list of possible NX huge pages, ${count.peek()} are counted`;
}
