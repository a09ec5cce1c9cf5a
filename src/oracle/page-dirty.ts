/**
 * I8: a page that the guest has written is dirty for the host before the last entry which says so is gone. A page that nobody has marked is dropped when
 * memory is short, and comes back as it was.
 */
import type { Cell } from "../engine/index.ts";
import { rmapEntries, spteAt } from "../kvm/shadow/rmap.ts";
import type { ShadowMmu } from "../kvm/shadow/shadow-mmu.ts";
import { isDirtySpte, isShadowPresentPte } from "../kvm/spte.ts";
import type { Pfn } from "../machine/index.ts";

/**
 * @param written a page of the host that the guest has written, at last through the entries of `rmap`
 * @returns null when the host knows, or will. For final predicates
 */
export function pageDirtyProblem(shadow: ShadowMmu, written: Pfn, rmap: Cell): string | null {
  if (shadow.kvm.mm.frames.isMarkedDirty(written)) return null;
  const entries = rmapEntries(shadow.world, rmap.peek()).map((addr) => spteAt(shadow.world, addr).peek());
  const willBeKnown = entries.some((spte) => isShadowPresentPte(spte) && isDirtySpte(shadow.layout, spte));
  return willBeKnown ? null : `the guest has written ${shadow.world.nameOf(written * 4096)}, and the host may drop it`;
}
