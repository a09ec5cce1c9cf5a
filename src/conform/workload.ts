/**
 * A workload: the script that a recording was made from, and that a model runs (`<case>.workload.json`, traces/README.md).
 *
 * It says what memory the VMM maps, which memslots it makes of it, how the guest's page tables start out, and what is then done, one
 * operation after the other. {@link readWorkload} turns the file into plain readonly data with every default filled in; anything
 * that it does not know is refused with one line that names the place.
 *
 *     memory N  = host mapping N  = (unless `later`) memslot N
 *     memory 100 = the control slot, in every case: code, IDT, GDT, stack and, unless `pt_base` says otherwise, the page tables
 *
 * Left out: the place and contents of the initial page tables, which `<case>.initial.json` gives entry by entry (initial-state.ts).
 */
import { z } from "zod";
import {
  amount,
  flag,
  integer,
  leaf,
  list,
  parse,
  readAmount,
  readJson,
  record,
  show,
  text,
  usageError,
  word,
} from "./json-input.ts";
import { entryFlags, membersOf, type Operation, readOperation, type SingleOperation, slotFlags } from "./operation.ts";

/** The control slot, which every case has besides those in `memory`. Sizes and addresses in bytes. */
export const CONTROL_SLOT = { slot: 100, gpa: 0x4000_0000, size: 0x10_0000 } as const;

/** What backs a host mapping. `anon4k`: private anonymous, huge pages forbidden; `thp`: huge pages asked for. */
const BACKINGS = ["anon4k", "anon", "thp", "hugetlb2m", "hugetlb1g", "memfd", "fileprivate"] as const;

const MODES = ["4level", "5level", "pae", "32bit"] as const;
const PAGE_SIZES = ["4k", "2m", "4m", "1g"] as const;

/** One host mapping, and the memslot that is made of it. Sizes, offsets and addresses in bytes. */
export interface Memory {
  /** Number of the mapping and of the memslot. */
  readonly slot: number;
  readonly gpa: number;
  readonly size: number;
  /** Null for an alias: it has no mapping of its own. */
  readonly backing: (typeof BACKINGS)[number] | null;
  readonly flags: { readonly dirtyLog: boolean; readonly readonly: boolean };
  /** True: mapped on the host from the start, but no memslot until a `slot_create`. */
  readonly later: boolean;
  /** How far past a 2M-aligned host address the mapping starts. */
  readonly hvaOffset: number;
  /** The same host memory as memory `of`, from `offset` on. */
  readonly alias: { readonly of: number; readonly offset: number } | null;
}

/** A run of guest mappings; `flags` null: the default `pwuad`. */
export interface GuestMap {
  readonly va: number;
  readonly pa: number;
  readonly len: number;
  readonly page: (typeof PAGE_SIZES)[number];
  readonly flags: string | null;
}

/** An address space of the guest, with a name that operations use. */
export interface GuestRoot {
  readonly name: string;
  readonly maps: readonly GuestMap[];
}

/** The guest's paging. `none`: protected mode without paging. */
export interface GuestPaging {
  readonly mode: "none" | (typeof MODES)[number];
  /** Identity mapping with pages of this size; `size` null: as far as the memory reaches. */
  readonly identity: { readonly page: (typeof PAGE_SIZES)[number]; readonly size: number | null } | null;
  /** All address spaces; without `roots` in the file there is one, called "A". */
  readonly roots: readonly GuestRoot[];
  /** Name of the address space that is active at the start. */
  readonly root: string;
  /** Guest-physical place of the page tables; null: in the control slot. */
  readonly ptBase: number | null;
  /** False: page-table pages are not mapped at their own address. A number: the window's address. */
  readonly ptWindow: boolean | number;
}

/** Parameters of kvm and kvm_amd. Those that the file does not set have upstream's defaults. */
export interface KernelParams {
  /** True: two-dimensional paging; false: shadow paging. */
  readonly npt: boolean;
  readonly tdpMmu: boolean;
  readonly eagerPageSplit: boolean;
  readonly nxHugePages: boolean;
  /** Every parameter as written. */
  readonly given: Readonly<Record<string, string>>;
}

export interface Workload {
  readonly file: string;
  readonly name: string;
  readonly note: string;
  readonly kernelParams: KernelParams;
  readonly memory: readonly Memory[];
  readonly caps: readonly { readonly cap: "manual_dirty_log_protect2" | "dirty_ring"; readonly arg: number }[];
  readonly guestPaging: GuestPaging;
  /** EFER.NXE, CR0.WP, CR4.PGE at the start. */
  readonly guestNx: boolean;
  readonly guestWp: boolean;
  readonly guestPge: boolean;
  readonly vcpus: number;
  /** True: the trace has kvm_entry and kvm_exit. */
  readonly traceExits: boolean;
  readonly extraProbes: readonly string[];
  readonly ops: readonly Operation[];
  /** `ops` as written, for reports. */
  readonly requests: readonly unknown[];
}

const memoryEntry = record({
  slot: integer("a number of a memory", 0, 32767).optional(),
  gpa: amount("a guest-physical address"),
  size: amount("a size", '"8M"'),
  backing: word("a backing", BACKINGS).optional(),
  flags: slotFlags.default([]),
  later: flag("true or false").default(false),
  hva_offset: amount("an offset").default(0),
  alias_of: integer("a memory", 0, 32767).optional(),
  alias_offset: amount("an offset").default(0),
  note: text("a note", '"why"').optional(),
});

const page = word("a page size", PAGE_SIZES);

const guestMap = record({
  va: amount("a guest-virtual address"),
  pa: amount("a guest-physical address"),
  len: amount("a length", '"4M"'),
  page: page.default("4k"),
  flags: entryFlags.nullable().default(null),
});

const pagingObject = record({
  mode: word("a paging mode", ["none", ...MODES]),
  identity: page.optional(),
  identity_size: amount("a size", '"8M"').nullable().default(null),
  maps: list(guestMap).default([]),
  roots: list(record({ name: text("a name", '"A"'), maps: list(guestMap).default([]) })).optional(),
  root: text("the name of a root", '"A"').optional(),
  pt_base: amount("a guest-physical address").nullable().default(null),
  pt_window: leaf("true, false or an address", "true", (input) =>
    typeof input === "boolean" ? input : readAmount(input),
  ).default(true),
});

const parameter = leaf("a value of a module parameter", '"Y"', (input) =>
  typeof input === "string" || typeof input === "number" || typeof input === "boolean" ? input : undefined,
);

/** Module parameters that bear on the MMU. A parameter that changes something else would not be modelled: it is refused. */
const KERNEL_PARAMS = [
  "npt",
  "tdp_mmu",
  "eager_page_split",
  "nx_huge_pages",
  "nx_huge_pages_recovery_ratio",
  "nx_huge_pages_recovery_period_ms",
  "mmio_caching",
  "flush_on_reuse",
  "force_flush_and_sync_on_reuse",
  "allow_unsafe_mappings",
  "mitigate_smt_rsb",
] as const;

const workloadObject = record({
  name: text("a name", '"tdp-touch-4k"'),
  note: text("a note", '"why"').default(""),
  kernel_params: record(Object.fromEntries(KERNEL_PARAMS.map((name) => [name, parameter.optional()]))).default({}),
  memory: list(memoryEntry),
  caps: list(
    record({
      cap: word("a capability", ["manual_dirty_log_protect2", "dirty_ring"]),
      arg: amount("an argument", "1"),
    }),
  ).default([]),
  guest_paging: z.unknown(),
  guest_nx: flag("true or false").default(true),
  guest_wp: flag("true or false").default(true),
  guest_pge: flag("true or false").default(false),
  vcpus: integer("a number of vcpus", 1, 4096).default(1),
  trace_exits: flag("true or false").default(false),
  extra_probes: list(text("the name of a probe", '"srcu_sync"')).default([]),
  ops: list(z.unknown()),
});

/**
 * Reads a workload.
 *
 * @throws UsageError, one line, for whatever is wrong with it
 */
export function readWorkload(file: string): Workload {
  return parseWorkload(file, readJson(file));
}

/** The same for a document that was read already; `file` is used in messages. */
export function parseWorkload(file: string, input: unknown): Workload {
  const raw = parse(file, workloadObject, input);
  const workload: Workload = {
    file,
    name: raw.name,
    note: raw.note,
    kernelParams: kernelParams(raw.kernel_params),
    memory: raw.memory.map((entry, at) => memoryOf(file, entry, at)),
    caps: raw.caps,
    guestPaging: guestPaging(file, raw.guest_paging),
    guestNx: raw.guest_nx,
    guestWp: raw.guest_wp,
    guestPge: raw.guest_pge,
    vcpus: raw.vcpus,
    traceExits: raw.trace_exits,
    extraProbes: raw.extra_probes,
    ops: raw.ops.map((operation, at) => readOperation(file, operation, ["ops", at])),
    requests: raw.ops,
  };
  checkReferences(workload);
  return workload;
}

function kernelParams(raw: Readonly<Record<string, unknown>>): KernelParams {
  const given = Object.fromEntries(Object.entries(raw).map(([name, value]) => [name, String(value)]));
  const isOn = (name: string, otherwise: boolean) =>
    given[name] === undefined ? otherwise : /^(y|1|true|on|force|auto)$/i.test(given[name]);
  return {
    npt: isOn("npt", true),
    tdpMmu: isOn("tdp_mmu", true),
    eagerPageSplit: isOn("eager_page_split", true),
    // "auto" turns the mitigation on only where the processor has the defect, which AMD's have not.
    nxHugePages: isOn("nx_huge_pages", false) && given["nx_huge_pages"] !== "auto",
    given,
  };
}

function memoryOf(file: string, entry: z.output<typeof memoryEntry>, at: number): Memory {
  if (entry.alias_of === undefined && entry.backing === undefined) {
    throw usageError(file, `memory[${at}].backing`, 'is missing; add what backs it, as "anon4k", or "alias_of"');
  }
  return {
    slot: entry.slot ?? at,
    gpa: entry.gpa,
    size: entry.size,
    backing: entry.alias_of === undefined ? (entry.backing ?? null) : null,
    flags: { dirtyLog: entry.flags.includes("dirty_log"), readonly: entry.flags.includes("readonly") },
    later: entry.later,
    hvaOffset: entry.hva_offset,
    alias: entry.alias_of === undefined ? null : { of: entry.alias_of, offset: entry.alias_offset },
  };
}

function guestPaging(file: string, input: unknown): GuestPaging {
  const raw = parse(file, pagingObject, typeof input === "string" ? pagingFromText(file, input) : input, [
    "guest_paging",
  ]);
  const roots = raw.roots ?? [{ name: raw.root ?? "A", maps: raw.maps }];
  const root = raw.root ?? (roots[0] as GuestRoot | undefined)?.name ?? "A";
  if (!roots.some((candidate) => candidate.name === root)) {
    throw usageError(
      file,
      "guest_paging.root",
      `no root is called "${root}"; use one of ${roots.map((each) => each.name).join(", ")}`,
    );
  }
  return {
    mode: raw.mode,
    identity: raw.identity === undefined ? null : { page: raw.identity, size: raw.identity_size },
    roots:
      raw.roots === undefined ? roots : roots.map((each) => ({ name: each.name, maps: [...raw.maps, ...each.maps] })),
    root,
    ptBase: raw.pt_base,
    ptWindow: raw.pt_window,
  };
}

/** `none`, or `<mode> identity <page size>`. */
function pagingFromText(file: string, input: string): unknown {
  if (input === "none") return { mode: "none" };
  const match = /^(\S+) identity (\S+)$/.exec(input);
  if (match !== null) return { mode: match[1], identity: match[2] };
  throw usageError(
    file,
    "guest_paging",
    `unknown paging ${show(input)}; write "none" or "4level identity 2m", or an object`,
  );
}

/** Every number and name in an operation must mean something: a memory, a memslot, a vcpu, a root, a range inside its memory. */
function checkReferences(workload: Workload): void {
  const { file, memory } = workload;
  const seen = new Set<number>([CONTROL_SLOT.slot]);
  memory.forEach((entry, at) => {
    if (seen.has(entry.slot))
      throw usageError(file, `memory[${at}].slot`, `memory ${entry.slot} exists already; number it anew`);
    if (entry.alias !== null && !seen.has(entry.alias.of)) {
      throw usageError(file, `memory[${at}].alias_of`, `no memory ${entry.alias.of} before it; name an earlier one`);
    }
    seen.add(entry.slot);
  });
  workload.ops.forEach((operation, at) => {
    membersOf(operation).forEach((member, nth) => {
      const place = operation.kind === "par" ? `ops[${at}].par[${nth}]` : `ops[${at}]`;
      const fault = faultOf(workload, member);
      if (fault !== null) throw usageError(file, `${place}.${fault.key}`, fault.what);
    });
  });
}

function faultOf(workload: Workload, member: SingleOperation): { key: string; what: string } | null {
  const names = workload.guestPaging.roots.map((root) => root.name);
  if ("vcpu" in member && member.vcpu >= workload.vcpus) {
    return { key: "vcpu", what: `no vcpu ${member.vcpu} among ${workload.vcpus}; raise vcpus or use another` };
  }
  for (const name of rootsOf(member)) {
    if (!names.includes(name))
      return { key: "root", what: `no root is called "${name}"; use one of ${names.join(", ")}` };
  }
  if (member.kind === "guest") return null;
  const slots = [CONTROL_SLOT, ...workload.memory];
  if ("slot" in member && !slots.some((entry) => entry.slot === member.slot)) {
    return { key: "slot", what: `no memory makes a memslot ${member.slot}; add it to memory` };
  }
  if (!("mem" in member)) return null;
  const entry = slots.find((candidate) => candidate.slot === member.mem);
  if (entry === undefined) return { key: "mem", what: `there is no memory ${member.mem}; add it to memory` };
  if (member.offset + (member.len ?? 0) > entry.size) {
    return { key: "offset", what: `the range ends outside memory ${member.mem} of ${entry.size} bytes; shorten it` };
  }
  return null;
}

function rootsOf(member: SingleOperation): readonly string[] {
  if ("roots" in member) return member.roots;
  return "root" in member && member.root !== null ? [member.root] : [];
}
