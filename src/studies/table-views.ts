/** Page tables for a reader: the entries of KVM's own tables and of the host's, with their bits by name. */
import type { Cell, U64 } from "../engine/index.ts";
import { type Mm, pteText } from "../kernel/index.ts";
import type { KvmMmuPage } from "../kvm/mmu-page.ts";
import { roleLevel } from "../kvm/role.ts";
import { isLastSpte, isShadowPresentPte, spteToPfn } from "../kvm/spte.ts";
import { spteText } from "../kvm/spte-text.ts";
import type { Vm } from "../kvm/vm.ts";
import { ENTRIES_PER_TABLE, type Hva, PAGE_SIZE } from "../machine/index.ts";

/** Rows, by entry; entries that are empty are left out. */
type Rows = Record<string, string>;

/** The parts of a page that both MMUs have. */
type Page = Pick<KvmMmuPage, "addr" | "spt" | "role">;

/** All tables that are allocated, unlinked ones too: they are still read. */
export function tableRows(vm: Vm): Rows {
  const rows: Rows = {};
  const { layout } = vm.tdp;
  for (const pages of [vm.tdp.pages, ...(vm.shadow === null ? [] : [vm.shadow.pages])]) {
    const pageAt = (table: number): Page => pages.ofEntry(table);
    const tables = new Map(pages.liveTables().map((table) => [table, pageAt(table)]));
    const levelOf = (sp: Page): number => roleLevel(sp.role.peek());
    // From the roots down.
    for (const [table, sp] of [...tables].sort(([, a], [, b]) => levelOf(b) - levelOf(a))) {
      const level = levelOf(sp);
      const textOf = (spte: U64): string => {
        const child =
          isShadowPresentPte(spte) && !isLastSpte(spte, level) ? tables.get(spteToPfn(spte) * PAGE_SIZE) : undefined;
        return spteText(layout, spte, level, child === undefined ? null : nameOf(vm, child));
      };
      addTable(rows, vm, table, textOf);
    }
  }
  return rows;
}

/** sp(l1 gfn 0), without its first field. */
function nameOf({ world }: Vm, { addr }: Pick<Page, "addr">): string {
  return world.nameOf(addr).replace(/->.*$/, "");
}

/** From so many entries on that differ by their frames only, the first stands for all. */
const ALIKE_FROM = 4;

function addTable(rows: Rows, { world, tdp }: Vm, table: number, textOf: (spte: U64) => string): void {
  const { nonPresent } = tdp.layout;
  const { words } = world.heap;
  let run: { label: string; text: string; rest: { label: string; text: string }[] } | null = null;
  const end = (): void => {
    if (run === null) return;
    const { label, text, rest } = run;
    rows[label] = rest.length < ALIKE_FROM ? text : `${text}, and ${rest.length} more like it`;
    if (rest.length < ALIKE_FROM) for (const each of rest) rows[each.label] = each.text;
    run = null;
  };
  for (let i = 0; i < ENTRIES_PER_TABLE; i++) {
    const at = table / 4 + 2 * i;
    const lo = words[at] as number;
    const hi = words[at + 1] as number;
    if ((lo === nonPresent.lo && hi === nonPresent.hi) || (lo === 0 && hi === 0)) {
      end();
      continue;
    }
    const label = world.nameOf(table + 8 * i);
    const text = textOf({ lo, hi });
    if (run !== null && withoutFrame(run.text) === withoutFrame(text)) run.rest.push({ label, text });
    else {
      end();
      run = { label, text, rest: [] };
    }
  }
  end();
}

function withoutFrame(text: string): string {
  return text.replace(/^frame [0-9a-f]+/, "frame");
}

/** What the host's page tables have for the VMM's memory. */
export function hostTableRows(mm: Mm): Rows {
  const rows: Rows = {};
  for (let n = 0; n < mm.pages; n++) {
    const addr = (mm.base + n * PAGE_SIZE) as Hva;
    const cell: Cell = mm.pteOf(addr);
    const entry = cell.peek();
    if (entry !== 0) rows[cell.name] = pteText(entry);
    if (n % ENTRIES_PER_TABLE !== 0) continue;
    const pmd = mm.pmdOf(addr);
    if (pmd.peek() !== 0) rows[pmd.name] = pteText(pmd.peek());
  }
  return rows;
}
