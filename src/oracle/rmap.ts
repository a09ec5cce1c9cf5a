/**
 * C2: reverse maps against tables, when nobody is working on them. Every present leaf of a shadow page is in the reverse map of its frame and size exactly once,
 * nothing else is in any, and no head is left locked.
 *
 * A leaf that its reverse map does not have is out of reach: the host takes the page back, and the guest keeps it. An entry of a reverse map that is no leaf
 * points into a page that may be somebody else's.
 */
import { Cell, u64, type World } from "../engine/index.ts";
import { rmapProblem } from "../kvm/shadow/rmap.ts";
import type { ShadowMmu } from "../kvm/shadow/shadow-mmu.ts";
import { isLastSpte, isShadowPresentPte } from "../kvm/spte.ts";
import { ENTRIES_PER_TABLE, PAGE_SIZE, PG_LEVEL_1G, PG_LEVEL_4K, pagesPerLevel } from "../machine/index.ts";

/** Looks at the maps as they are now; null when all is well, else what is wrong. For final predicates. */
export function rmapsProblem(shadow: ShadowMmu): string | null {
  const slots = slotsOf(shadow);
  const wanted = leavesByHead(shadow, slots);
  const { heap } = shadow.world;
  for (const slot of slots) {
    for (const { start, end } of slot.heads) {
      for (let addr = start; addr < end; addr += 8) {
        // Most are empty, and should be.
        const leaves = wanted.get(addr);
        if (leaves === undefined && heap.read(addr, 8) === 0 && heap.high === 0) continue;
        const problem = rmapProblem(shadow.world, new Cell<number>(shadow.world, addr, 8, false), leaves ?? []);
        if (problem !== null) return problem;
        wanted.delete(addr);
      }
    }
  }
  return wanted.size === 0 ? null : "a leaf maps a frame of no memslot";
}

/** A memslot, and where its reverse maps are: the heads of each level, from 4K up. */
interface SlotHeads {
  readonly base: number;
  readonly npages: number;
  readonly heads: readonly { readonly start: number; readonly end: number }[];
}

function slotsOf({ kvm }: ShadowMmu): SlotHeads[] {
  const { memslots } = kvm;
  return memslots.slotsOf(memslots.setAt(memslots.active.peek())).map((slot) => {
    const base = slot.base_gfn.peek();
    const npages = slot.npages.peek();
    const heads = [];
    for (let level = PG_LEVEL_4K; level <= PG_LEVEL_1G && slot.rmap(0).peek() !== 0; level++) {
      const start = slot.rmap(level - 1).peek();
      heads.push({ start, end: start + 8 * (headIndex(base, base + npages - 1, level) + 1) });
    }
    return { base, npages, heads };
  });
}

function headIndex(base: number, gfn: number, level: number): number {
  const pages = pagesPerLevel(level);
  return Math.floor(gfn / pages) - Math.floor(base / pages);
}

/** The present leaves' addresses, by the address of the head that must have them; 0 stands for "in no memslot". */
function leavesByHead(shadow: ShadowMmu, slots: readonly SlotHeads[]): Map<number, number[]> {
  const found = new Map<number, number[]>();
  for (const table of shadow.pages.liveTables()) {
    const sp = shadow.pages.ofEntry(table);
    // The page was freed, and its memory is somebody else's.
    if (shadow.world.deathOf(sp.addr) !== null) continue;
    const level = sp.role.peek() & 0xf;
    for (let i = 0; i < ENTRIES_PER_TABLE; i++) {
      const at = table + 8 * i;
      const spte = peekEntry(shadow.world, at);
      if (!isShadowPresentPte(spte) || !isLastSpte(spte, level)) continue;
      const head = headOf(slots, frameOf(shadow.world, sp, i, level), level);
      const leaves = found.get(head);
      if (leaves === undefined) found.set(head, [at]);
      else leaves.push(at);
    }
  }
  return found;
}

type Page = ReturnType<ShadowMmu["pages"]["at"]>;

function frameOf(world: World, sp: Page, index: number, level: number): number {
  const table = sp.shadowed_translation.peek();
  if (table === 0) return sp.gfn.peek() + index * pagesPerLevel(level);
  return Math.floor(new Cell<number>(world, table + 8 * index, 8, false).peek() / PAGE_SIZE);
}

function peekEntry(world: World, addr: number): ReturnType<typeof u64> {
  const lo = world.heap.read(addr, 8);
  return u64(world.heap.high, lo);
}

function headOf(slots: readonly SlotHeads[], gfn: number, level: number): number {
  const slot = slots.find(({ base, npages }) => gfn >= base && gfn < base + npages);
  if (slot === undefined) return 0;
  return (slot.heads[level - 1]?.start ?? 0) + 8 * headIndex(slot.base, gfn, level);
}
