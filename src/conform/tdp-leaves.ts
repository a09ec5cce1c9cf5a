/** What nested page tables hold, as text: for comparing the tables of two MMUs whose frames are not the same. */
import { hexU64, sameU64, type U64, U64_ZERO, u64, type World } from "../engine/index.ts";
import type { SpteLayout } from "../kvm/spte-layout.ts";
import { ENTRIES_PER_TABLE, PAGE_SIZE } from "../machine/index.ts";
import { frameOf, isLeaf, isMmio, isPresent, withoutFrame } from "./mmu-event.ts";

/** Where a vCPU's tables start; `hpa` 0 for one that has none. */
export interface TableRoot {
  readonly hpa: number;
  readonly levels: number;
}

/** A table of PDPTEs has four entries, which hold P and no bit of KVM's own. */
const PDPTES = 4;

export function tdpLeaves(world: World, roots: readonly TableRoot[], layout: SpteLayout): readonly string[] {
  const frames = new Map<number, number>();
  const lines: string[] = [];
  const visit = (table: number, level: number, firstGfn: number, isRoot = false): void => {
    const pages = ENTRIES_PER_TABLE ** (level - 1);
    const isPdptes = level === 3 && isRoot;
    for (let i = 0; i < (isPdptes ? PDPTES : ENTRIES_PER_TABLE); i++) {
      const lo = world.heap.read(table + 8 * i, 8);
      const spte = u64(world.heap.high, lo);
      const gfn = firstGfn + i * pages;
      if (sameU64(spte, U64_ZERO) || sameU64(spte, layout.nonPresent)) continue;
      if (isPdptes && (spte.lo & 1) !== 0) visit(frameOf(spte) * PAGE_SIZE, level - 1, gfn);
      else if (isPdptes) continue;
      else if (isPresent(spte) && !isLeaf(spte, level)) visit(frameOf(spte) * PAGE_SIZE, level - 1, gfn);
      else lines.push(`gfn ${gfn.toString(16)} level ${level} ${describe(spte, frames)}`);
    }
  };
  for (const [vcpu, { hpa, levels }] of roots.entries()) {
    const first = roots.findIndex((root) => root.hpa === hpa);
    if (hpa === 0) lines.push(`vcpu${vcpu}: no root`);
    else if (first < vcpu) lines.push(`vcpu${vcpu}: the root of vcpu${first}`);
    else {
      lines.push(`vcpu${vcpu}: a root`);
      visit(hpa, levels, 0, true);
    }
  }
  return lines;
}

/** Frames are numbered as they come up. */
function describe(spte: U64, frames: Map<number, number>): string {
  if (isMmio(spte) || !isPresent(spte)) return hexU64(spte);
  const frame = frameOf(spte);
  const number = frames.get(frame) ?? frames.size;
  frames.set(frame, number);
  return `frame ${number} ${hexU64(withoutFrame(spte))}`;
}
