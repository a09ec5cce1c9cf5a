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
import { gfnToRmap } from "../kvm/shadow/slot-arch.ts";
import { isLastSpte, isShadowPresentPte } from "../kvm/spte.ts";
import { ENTRIES_PER_TABLE, type Gfn, PAGE_SIZE, PG_LEVEL_1G, PG_LEVEL_4K, pagesPerLevel } from "../machine/index.ts";

/** Looks at the maps as they are now; null when all is well, else what is wrong. For final predicates. */
export function rmapsProblem(shadow: ShadowMmu): string | null {
  const wanted = leavesByHead(shadow);
  for (const head of heads(shadow)) {
    const problem = rmapProblem(shadow.world, head, wanted.get(head.addr) ?? []);
    if (problem !== null) return problem;
    wanted.delete(head.addr);
  }
  return wanted.size === 0 ? null : "a leaf maps a frame of no memslot";
}

/** The present leaves' addresses, by the address of the head that must have them; 0 stands for "in no memslot". */
function leavesByHead(shadow: ShadowMmu): Map<number, number[]> {
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
      const head = headOf(shadow, frameOf(shadow.world, sp, i, level), level)?.addr ?? 0;
      found.set(head, [...(found.get(head) ?? []), at]);
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

function slotsOf({ kvm }: ShadowMmu): ReturnType<ShadowMmu["kvm"]["memslots"]["slotsOf"]> {
  const { memslots } = kvm;
  return memslots.slotsOf(memslots.setAt(memslots.active.peek()));
}

function headOf(shadow: ShadowMmu, gfn: number, level: number): Cell | null {
  const slot = slotsOf(shadow).find(
    ({ base_gfn, npages }) => gfn >= base_gfn.peek() && gfn < base_gfn.peek() + npages.peek(),
  );
  return slot === undefined ? null : gfnToRmap(shadow.world, slot, gfn as Gfn, level);
}

function* heads(shadow: ShadowMmu): Generator<Cell> {
  for (const slot of slotsOf(shadow)) {
    if (slot.rmap(0).peek() === 0) continue;
    const first = slot.base_gfn.peek();
    const end = first + slot.npages.peek();
    for (let level = PG_LEVEL_4K; level <= PG_LEVEL_1G; level++) {
      const pages = pagesPerLevel(level);
      for (let gfn = first; gfn < end; gfn += pages - (gfn % pages)) {
        yield gfnToRmap(shadow.world, slot, gfn as Gfn, level);
      }
    }
  }
}
