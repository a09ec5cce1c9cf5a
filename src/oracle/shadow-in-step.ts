/**
 * Shadow pages against the guest's tables, when nobody is working on them: a page that is not unsync shows nothing that the guest's table does not say.
 *
 *     last level      the guest's entry is present and accessed, maps that frame, and allows a write where the shadow entry does
 *     upper levels    the page below shadows the table that the guest's entry leads to
 *
 * The guest need not flush to be denied what it never had, and an entry that is missing is made by the next fault; so what may not be is a shadow
 * entry for which there is no reason. For guests with entries of eight bytes and 4K pages, as the scenarios have them. Looks with plain reads.
 */
import { Cell, type U64 } from "../engine/index.ts";
import { type ShadowPage, spHasGptes, spLevel, spteOf } from "../kvm/shadow/page.ts";
import { spteAt } from "../kvm/shadow/rmap.ts";
import type { ShadowMmu } from "../kvm/shadow/shadow-mmu.ts";
import { isShadowPresentPte, isWritablePte, spteToPfn } from "../kvm/spte.ts";
import {
  ENTRIES_PER_TABLE,
  entryFrame,
  type Hva,
  isAccessed,
  isDirty,
  isPresent,
  isWritable,
  PAGE_SIZE,
  PG_LEVEL_4K,
} from "../machine/index.ts";

/** Null when all is well, else what is wrong. */
export function inStepProblem(shadow: ShadowMmu): string | null {
  for (const table of shadow.pages.liveTables()) {
    const sp = shadow.pages.ofRoot(table) as ShadowPage;
    if (shadow.isObsolete(sp) || !spHasGptes(sp) || sp.unsync.value !== 0) continue;
    const hpa = hostTable(shadow, sp.gfn.value);
    // The host has taken the table away: there is nothing to compare with.
    if (hpa === null) continue;
    for (let i = 0; i < ENTRIES_PER_TABLE; i++) {
      const spte = spteAt(shadow.world, spteOf(sp, i)).value;
      if (!isShadowPresentPte(spte)) continue;
      const gpte = new Cell<U64>(shadow.world, hpa + 8 * i, 8, true).peek();
      const problem = entryProblem(shadow, sp, { index: i, spte, gpte });
      if (problem !== null) return `${shadow.world.nameOf(table)} is in step with its table, but entry ${i} ${problem}`;
    }
  }
  return null;
}

function entryProblem(
  shadow: ShadowMmu,
  sp: ShadowPage,
  { index, spte, gpte }: { readonly index: number; readonly spte: U64; readonly gpte: U64 },
): string | null {
  if (!isPresent(gpte)) return "is present, and the guest's is not";
  const frame: number = entryFrame(gpte);
  if (spLevel(sp) > PG_LEVEL_4K) {
    const child = shadow.pages.ofFrame(spteToPfn(spte)).gfn.value;
    return child === frame ? null : `leads to table 0x${child.toString(16)}, the guest's to 0x${frame.toString(16)}`;
  }
  const mapped = shadow.pages.gfnOf(sp, index);
  if (mapped !== frame) return `maps gfn 0x${mapped.toString(16)}, the guest's 0x${frame.toString(16)}`;
  if (!isAccessed(gpte)) return "is present, and the guest's is not accessed";
  // In a page of vCPUs with CR0.WP clear the supervisor may write what is read-only.
  const mayWrite = isWritable(gpte) || (sp.role.value & shadow.roles.cr0_wp) === 0;
  return isWritablePte(spte) && !(mayWrite && isDirty(gpte)) ? "is writable without the guest's leave" : null;
}

/** Where the guest's table is in the host's memory now. */
function hostTable({ kvm }: ShadowMmu, frame: number): number | null {
  const { memslots, mm } = kvm;
  const slot = memslots
    .slotsOf(memslots.setAt(memslots.active.peek()))
    .find(({ base_gfn, npages }) => frame >= base_gfn.peek() && frame < base_gfn.peek() + npages.peek());
  if (slot === undefined) return null;
  const pfn = mm.frameAt((slot.userspace_addr.peek() + (frame - slot.base_gfn.peek()) * PAGE_SIZE) as Hva);
  return pfn === null ? null : pfn * PAGE_SIZE;
}
