/**
 * The guests of lazy-large-spte: their page tables, and a store that cannot be emulated, to one of them.
 */
import { type Gva, PAGE_SIZE } from "../machine/index.ts";
import { accessAt, type GuestEntry, LARGE, type ShadowedGuestOptions, unemulatableStore } from "./shadowed-guest.ts";

const GIB = 2 ** 30;
const at = (n: number): number => n * PAGE_SIZE;
/** Where the store goes: the last entry of the table in gfn 4, which nobody uses. */
export const TABLE_STORE = at(5) - 8;

/** A guest, without the hypervisor that it runs on. */
export type Guest = Omit<ShadowedGuestOptions, "variants" | "check">;

const ROOT = 512;

/** The walk to address 0: level 4, 3, 2. */
const TOP: readonly GuestEntry[] = [[ROOT, 0, 513]];

/** gfn 4 is the level-2 table of the walk to v, and v leads to gfn 4. All pages are small. */
export const SELF_MAP_L2: Guest = {
  hugePage: false,
  root: ROOT,
  entries: [...TOP, [513, 0, 4], [4, 0, 515], [515, 4, 4]],
  instructions: [accessAt("read", at(4)), unemulatableStore(TABLE_STORE)],
};

/** The same with large pages: the seven steps as they stand. The second gigabyte maps the same frames by another table. */
export const SELF_MAP_LARGE: Guest = {
  hugePage: true,
  root: ROOT,
  entries: [...TOP, [513, 0, 4], [4, 0, 0, LARGE], [513, 1, 514], [514, 0, 0, LARGE]],
  instructions: [accessAt("write", GIB + at(8)), unemulatableStore(TABLE_STORE)],
};

/** gfn 4 is the last-level table of the walk to v. */
export const selfMapL1 = (...before: Guest["instructions"]): Guest => ({
  hugePage: false,
  root: ROOT,
  entries: [...TOP, [513, 0, 514], [514, 0, 4], [4, 4, 4], [4, 5, 5]],
  instructions: [...before, unemulatableStore(TABLE_STORE)],
});

/** The guest flushes: what was unsync is brought in step, and its frame is write-protected again. */
export const FLUSH = { rip: null, cpl: 0, action: { kind: "mov-to-cr", register: 3, value: at(ROOT) } } as const;

/** gfn 4 is a level-2 table, but of another walk than that to v. */
export const NO_SELF_MAP: Guest = {
  hugePage: true,
  root: ROOT,
  entries: [...TOP, [513, 0, 514], [514, 0, 0, LARGE], [513, 1, 4], [4, 0, 516], [516, 0, 517]],
  instructions: [accessAt("write", at(8)), accessAt("read", GIB), unemulatableStore(TABLE_STORE)],
};

/** An event is delivered whose gate lies in gfn 4, the table of the walk to it, in a large page of the guest. */
export const DELIVERY: Guest = {
  ...SELF_MAP_LARGE,
  instructions: [accessAt("read", 2 * GIB)],
  handler: {
    tables: { idt: at(4) as Gva, gdt: at(8) as Gva, tss: at(8) as Gva, stackTop: at(9) as Gva, longMode: true },
    code: [],
  },
};

/** The same with the stack in another large page. */
export const DELIVERY_STACK_APART: Guest = {
  ...DELIVERY,
  entries: [...DELIVERY.entries, [4, 1, 518], [518, 0, 519]],
  handler: {
    tables: { idt: at(4) as Gva, gdt: at(8) as Gva, tss: at(8) as Gva, stackTop: at(513) as Gva, longMode: true },
    code: [],
  },
};
