/**
 * Guests for what random ones hardly ever do. They have negative seeds: -1 is the first.
 *
 *     linked table      the entry of an upper table is made to lead to a table below which something is out of step
 */
import { GuestTables } from "../../src/conform/guest-tables.ts";
import { parseWorkload } from "../../src/conform/workload.ts";
import type { GuestDocument, RandomGuest } from "./random-guest.ts";

const VA = "0x8040000";
const NEXT_VA = "0x8041000";
/** Page 0x40 of the same table, if an upper entry leads to it. */
const FAR_VA = "0x1008040000";

const DIRECTED: readonly (() => GuestDocument)[] = [linkedTable];

/** @param seed -1 for the first */
export function directedGuest(seed: number): RandomGuest {
  const make = DIRECTED[-seed - 1];
  if (make === undefined) throw new RangeError(`guest ${seed}: there are ${DIRECTED.length} directed ones`);
  return { seed, kernel: "v6.12", keepsTlb: true, document: make() };
}

function base(name: string, maps: readonly object[]): Omit<GuestDocument, "ops"> & { name: string } {
  return {
    name,
    kernel_params: { npt: 0 },
    memory: [{ slot: 0, gpa: "0x0", size: "4M", backing: "anon4k" }],
    guest_paging: { mode: "4level", maps },
  };
}

function linkedTable(): GuestDocument {
  const map = (va: string, pa: string): object => ({ va, pa, len: "4K", page: "4k", flags: "pwuad" });
  const start = base("linked-table", [map(VA, "0x10000"), map(NEXT_VA, "0x11000"), map("0x8240000", "0x12000")]);
  const write = (addr: string): object => ({ guest: "write", addr, value: "0x1" });
  return {
    ...start,
    ops: [
      // Each page has a frame of its own.
      ...[VA, NEXT_VA, "0x8240000"].map(write),
      // The first store is carried out by KVM; from the second on the table is unsync.
      { guest: "set_pte", va: NEXT_VA, level: 1, pa: "0x11000", flags: "pwuad" },
      { guest: "read", addr: NEXT_VA },
      { guest: "set_pte", va: NEXT_VA, level: 1, pa: "0x12000", flags: "pwuad" },
      { guest: "write", addr: placeOf(start, FAR_VA), value: entryOf(start, VA) },
      { guest: "read", addr: FAR_VA },
    ],
  };
}

// --- the tables as they are set up -----------------------------------------------------------------------------------

/** Where the entry of an address in its table of level 3 is. */
function placeOf(start: Omit<GuestDocument, "ops">, va: string): string {
  const { values, root } = tablesOf(start);
  const top = values.get(root + 8 * indexAt(va, 4)) ?? 0;
  return `0x${(top - (top % 4096) + 8 * indexAt(va, 3)).toString(16)}`;
}

/** That entry, as it is in the beginning. */
function entryOf(start: Omit<GuestDocument, "ops">, va: string): string {
  const { values } = tablesOf(start);
  return `0x${(values.get(Number(placeOf(start, va))) ?? 0).toString(16)}`;
}

function tablesOf(start: Omit<GuestDocument, "ops">): {
  readonly values: ReadonlyMap<number, number>;
  readonly root: number;
} {
  const tables = new GuestTables(parseWorkload("directed guest", { ...start, ops: [] }));
  const values = new Map(tables.initial.pageTableEntries.map(({ gpa, value }) => [gpa, value.lo]));
  return { values, root: [...tables.roots.values()][0] as number };
}

function indexAt(va: string, level: number): number {
  return Math.floor(Number(va) / (4096 * 512 ** (level - 1))) % 512;
}
