/**
 * Dirty state at the end of an entry: a page that was written through an entry is dirty in the last value that anybody saw of the entry. The host
 * writes such pages to its swap; it drops those that nobody reports.
 */
import type { World } from "../engine/index.ts";
import { isDirtySpte, isShadowPresentPte } from "../kvm/spte.ts";
import type { TdpMmu } from "../kvm/tdp-mmu.ts";
import type { KvmEvent } from "../kvm/trace.ts";

/** @param frame which was written through its entry before that was zapped. @returns null when the zap saw it dirty, or was none */
export function dirtyReportProblem({ layout, world }: TdpMmu, frame: number): string | null {
  for (const event of changesOf(world, frame)) {
    const zapped = isShadowPresentPte(event.oldSpte) && !isShadowPresentPte(event.newSpte);
    if (zapped && !isDirtySpte(layout, event.oldSpte)) return `page ${frame} was written, and is zapped as clean`;
  }
  return null;
}

type Change = Extract<KvmEvent, { readonly name: "kvm_tdp_mmu_spte_changed" }>;

/** Changes of the frame's own entry. */
function changesOf(world: World, frame: number): Change[] {
  const events = world.trace.map(({ event }) => event as KvmEvent);
  return events.filter(
    (event): event is Change => event.name === "kvm_tdp_mmu_spte_changed" && event.level === 1 && event.gfn === frame,
  );
}
