/**
 * What must hold of the TDP MMU's tables when nobody is working on them.
 *
 *   - every table that is allocated and not freed can be reached from a root: no table was lost when two faults linked the same entry;
 *   - the page statistics are the number of present leaves of each level;
 *   - no entry is frozen for ever.
 *
 * A lost table keeps its mappings out of every zap's reach, so the host frees pages that the guest still has.
 */
import { type TraceRecord, u64 } from "../engine/index.ts";
import { roleIsInvalid } from "../kvm/role.ts";
import { isFrozenSpte, isLastSpte, isShadowPresentPte, spteToPfn } from "../kvm/spte.ts";
import type { TdpMmu } from "../kvm/tdp-mmu.ts";
import { isStatEvent } from "../kvm/trace.ts";
import { ENTRIES_PER_TABLE, PAGE_SIZE, pagesPerLevel } from "../machine/index.ts";

interface Found {
  readonly tables: Set<number>;
  readonly leaves: Map<string, number>;
  problem: string | null;
}

/** Looks at the tables as they are now; null when all is well, else what is wrong. For final predicates. */
export function tdpTablesProblem(tdp: TdpMmu): string | null {
  const found: Found = { tables: new Set(), leaves: new Map(), problem: null };
  for (let addr = tdp.roots.peek(); addr !== 0; ) {
    const root = tdp.pages.at(addr);
    visit(tdp, root.spt.peek(), root.role.peek() & 0xf, 0, found);
    addr = root.link.peek();
  }
  // A table that waits for its grace period is on its way.
  for (const addr of tdp.kvm.kernel.rcu.pendingObjects()) found.tables.add(tdp.pages.at(addr).spt.peek());
  return found.problem ?? lostTable(tdp, found) ?? wrongStatistic(tdp.world.trace, found);
}

/** When all that were invalidated have been zapped, none of them maps anything; null when it is so. For final predicates. */
export function invalidRootProblem(tdp: TdpMmu): string | null {
  for (let addr = tdp.roots.peek(); addr !== 0; ) {
    const root = tdp.pages.at(addr);
    const role = root.role.peek();
    const found: Found = { tables: new Set(), leaves: new Map(), problem: null };
    if (roleIsInvalid(tdp.roles, role)) visit(tdp, root.spt.peek(), role & 0xf, 0, found);
    if (found.tables.size > 1 || found.leaves.size > 0) return "a root that was invalidated and zapped has entries";
    addr = root.link.peek();
  }
  return null;
}

function visit(tdp: TdpMmu, table: number, level: number, base: number, found: Found): void {
  const { words } = tdp.world.heap;
  found.tables.add(table);
  // Most entries are empty, all alike: what the last one of these was, to pass over the others at once.
  let emptyLo = -1;
  let emptyHi = -1;
  for (let i = 0; i < ENTRIES_PER_TABLE; i++) {
    const word = (table >>> 2) + 2 * i;
    const lo = words[word] as number;
    const hi = words[word + 1] as number;
    if (lo === emptyLo && hi === emptyHi) continue;
    const spte = u64(hi, lo);
    const gfn = base + i * pagesPerLevel(level);
    if (isFrozenSpte(tdp.layout, spte)) {
      found.problem ??= `the entry of gfn 0x${gfn.toString(16)}, level ${level}, stays frozen`;
    } else if (!isShadowPresentPte(spte)) {
      emptyLo = lo;
      emptyHi = hi;
    }
    if (!isShadowPresentPte(spte)) continue;
    if (isLastSpte(spte, level)) {
      const stat = level === 1 ? "pages_4k" : level === 2 ? "pages_2m" : "pages_1g";
      found.leaves.set(stat, (found.leaves.get(stat) ?? 0) + 1);
    } else {
      visit(tdp, spteToPfn(spte) * PAGE_SIZE, level - 1, gfn, found);
    }
  }
}

function lostTable(tdp: TdpMmu, found: Found): string | null {
  for (const table of tdp.pages.liveTables()) {
    if (!found.tables.has(table)) return `${tdp.world.nameOf(table)} is in a table that no root leads to`;
  }
  return null;
}

function wrongStatistic(trace: readonly TraceRecord[], found: Found): string | null {
  const counted = new Map<string, number>();
  for (const { event } of trace) {
    if (!isStatEvent(event) || !event.stat.startsWith("pages_")) continue;
    counted.set(event.stat, (counted.get(event.stat) ?? 0) + event.delta);
  }
  for (const stat of ["pages_4k", "pages_2m", "pages_1g"]) {
    const have = found.leaves.get(stat) ?? 0;
    const says = counted.get(stat) ?? 0;
    if (have !== says) return `${stat} is ${says}, but the tables have ${have}`;
  }
  return null;
}
