/**
 * What must hold of the shadow MMU's pages when nobody is working on them.
 *
 *   - a leaf that is present is in the reverse map of its frame, and every entry of a reverse map is a leaf of that frame;
 *   - an entry that links a page is among the page's parents, and the page has not been freed;
 *   - something unsync is known to everything above it: else nobody would bring it in step;
 *   - a page that shadows a table does so in a memslot: else what counts such pages of the frame is gone before the page is;
 *   - a page that was zapped and is still some vCPU's root has no entries: else the zap would have left something mapped;
 *   - a frame whose table has a page that is not unsync is not mapped writable: else the guest could edit it without anybody's notice.
 *
 * Looks with plain reads: for final predicates.
 */

import type { KvmMemorySlot } from "../kvm/memslots.ts";
import { type ShadowPage, spHasGptes, spLevel, spteOf } from "../kvm/shadow/page.ts";
import { rmapEntries, spteAt } from "../kvm/shadow/rmap.ts";
import type { ShadowMmu } from "../kvm/shadow/shadow-mmu.ts";
import { gfnToRmap } from "../kvm/shadow/slot-arch.ts";
import { isLastSpte, isShadowPresentPte, isWritablePte, spteToPfn } from "../kvm/spte.ts";
import { SPTE_MMU_PRESENT_MASK } from "../kvm/spte-layout.ts";
import { ENTRIES_PER_TABLE, gfn, PAGE_SIZE, PG_LEVEL_1G, PG_LEVEL_4K, pagesPerLevel } from "../machine/index.ts";

/** Null when all is well, else what is wrong. */
export function shadowTablesProblem(shadow: ShadowMmu): string | null {
  if (shadow.shadowRootAllocated.value === 0) return null;
  const live = new Set(shadow.pages.liveTables());
  const slots = slotsOf(shadow);
  for (const table of live) {
    const problem = pageProblem(shadow, slots, shadow.pages.ofRoot(table) as ShadowPage, live);
    if (problem !== null) return `${shadow.world.nameOf(table)}: ${problem}`;
  }
  return rmapProblem(shadow, slots, live);
}

function pageProblem(
  shadow: ShadowMmu,
  slots: readonly KvmMemorySlot[],
  sp: ShadowPage,
  live: ReadonlySet<number>,
): string | null {
  const isOrphan =
    spHasGptes(sp) && !shadow.isObsolete(sp) && headOf(shadow, slots, sp.gfn.value, PG_LEVEL_4K) === null;
  if (isOrphan) return "it shadows a table that is in no memslot";
  const { heap } = shadow.world;
  const table = sp.spt.value;
  for (let i = 0; i < ENTRIES_PER_TABLE; i++) {
    // Most are empty; the bit is in the lower half.
    if ((heap.read(table + 8 * i, 8) & SPTE_MMU_PRESENT_MASK.lo) === 0) continue;
    const sptep = spteOf(sp, i);
    const spte = spteAt(shadow.world, sptep).value;
    if (!isShadowPresentPte(spte)) continue;
    if (shadow.isObsolete(sp)) return `entry ${i} was made after the page was zapped`;
    if (isLastSpte(spte, spLevel(sp))) {
      const head = headOf(shadow, slots, shadow.pages.gfnOf(sp, i), spLevel(sp));
      if (head !== null && !rmapEntries(shadow.world, head).includes(sptep))
        return `entry ${i} is not in its reverse map`;
      continue;
    }
    const child = shadow.pages.ofFrame(spteToPfn(spte));
    if (!live.has(child.spt.value)) return `entry ${i} links a page that has been freed`;
    if (!rmapEntries(shadow.world, child.parent_ptes.value).includes(sptep)) return `entry ${i} is no parent`;
    const outOfStep = child.unsync.value !== 0 || child.unsync_children.value !== 0;
    const isMarked = ((sp.unsync_child_bitmap(i >>> 5).value >>> (i & 31)) & 1) !== 0;
    if (outOfStep && !(isMarked && sp.unsync_children.value > 0))
      return `something below entry ${i} is unsync, and nobody knows`;
  }
  return null;
}

function slotsOf({ kvm }: ShadowMmu): KvmMemorySlot[] {
  const { memslots } = kvm;
  return memslots.slotsOf(memslots.setAt(memslots.active.value));
}

function headOf(shadow: ShadowMmu, slots: readonly KvmMemorySlot[], frame: number, level: number): number | null {
  for (const slot of slots) {
    const base = slot.base_gfn.value;
    if (frame < base || frame >= base + slot.npages.value) continue;
    return gfnToRmap(shadow.world, slot, gfn(frame), level).value;
  }
  return null;
}

function rmapProblem(shadow: ShadowMmu, slots: readonly KvmMemorySlot[], live: ReadonlySet<number>): string | null {
  const { heap } = shadow.world;
  for (const slot of slots) {
    if (slot.rmap(0).value === 0) continue;
    const base = slot.base_gfn.value;
    const end = base + slot.npages.value;
    for (let level = PG_LEVEL_4K; level <= PG_LEVEL_1G; level++) {
      let head = slot.rmap(level - 1).value;
      const pages = pagesPerLevel(level);
      for (let frame = base; frame < end; frame += pages - (frame % pages), head += 8) {
        const lo = heap.read(head, 8) >>> 0;
        const value = (heap.high >>> 0) * 2 ** 32 + lo;
        const problem = value === 0 ? null : headProblem(shadow, live, frame, value);
        if (problem !== null) return `gfn 0x${frame.toString(16)}: ${problem}`;
      }
    }
  }
  return null;
}

function headProblem(shadow: ShadowMmu, live: ReadonlySet<number>, frame: number, head: number): string | null {
  for (const addr of rmapEntries(shadow.world, head)) {
    const table = addr - (addr % PAGE_SIZE);
    if (!live.has(table)) return "its reverse map leads to a page that has been freed";
    const spte = spteAt(shadow.world, addr).value;
    const sp = shadow.pages.ofEntry(addr);
    if (!isShadowPresentPte(spte) || !isLastSpte(spte, spLevel(sp))) return "its reverse map leads to no leaf";
    if (isWritablePte(spte) && isGuarded(shadow, frame, spLevel(sp)))
      return "it is a table in step with its page, and the guest may write to it";
  }
  return null;
}

/** A frame of the page has a table that is in step with its shadow page. */
function isGuarded(shadow: ShadowMmu, first: number, level: number): boolean {
  const inPage = first - (first % pagesPerLevel(level));
  const isTable = (sp: ShadowPage): boolean => spHasGptes(sp) && sp.unsync.value === 0;
  for (let frame = inPage; frame < inPage + Math.min(pagesPerLevel(level), 512); frame++) {
    if (shadow.validPagesOf(gfn(frame)).some(isTable)) return true;
  }
  return false;
}
