/**
 * One operation of a workload: something that a guest does (`{"guest": "write", ...}`), something that the VMM's process does
 * (`{"host": "madvise_dontneed", ...}`), or several of these at the same time (`{"par": [...]}`).
 *
 * The vocabulary is that of traces/README.md. The parsed form is a union on `kind`, then on `guest` or `host`: every optional key has its
 * default filled in, or null where absence itself has a meaning. A key or an operation that is not in the vocabulary is refused: an
 * operation that is half understood would compare a model with something else than what was recorded.
 */
import { z } from "zod";
import { U64_ZERO } from "../engine/index.ts";
import {
  amount,
  flag,
  integer,
  leaf,
  list,
  parse,
  readAmount,
  record,
  show,
  text,
  usageError,
  value64,
  word,
} from "./json-input.ts";

/** One above the largest number that is exact. */
const NUMBER_MAX = Number.MAX_SAFE_INTEGER;

/** A distance in bytes, which may be negative. */
const distance = (what: string) =>
  leaf(what, "4096", (input) => (typeof input === "number" && Number.isSafeInteger(input) ? input : readAmount(input)));

const count = integer("a count", 0, NUMBER_MAX).default(1);
const stride = distance("a distance in bytes").default(4096);
const address = amount("a guest address");

/** The letters of guest page-table entries, as in traces/README.md. */
export const entryFlags = leaf('entry flags out of "pwuadsgtcx"', '"pwuad"', (input) =>
  typeof input === "string" && /^[pwuadsgtcx]*$/.test(input) ? input : undefined,
);

/** Keys that every guest operation may have. `cpl` 3 runs it in user mode. */
const guestKeys = {
  vcpu: integer("a vcpu", 0, 4095).default(0),
  cpl: leaf("a privilege level (0 or 3)", "3", (input) => (input === 0 || input === 3 ? input : undefined)).default(0),
  note: text("a note", '"why"').optional(),
};

/** A loop over addresses: `count` of them, `stride` bytes apart, the whole loop `repeat` times. */
const loopKeys = {
  ...guestKeys,
  addr: address,
  count,
  stride,
  repeat: integer("a number of rounds", 1, NUMBER_MAX).default(1),
};

/** Bytes of one access; null: the natural one of the mode (8, or 4 in the 32-bit modes). */
const size = leaf("an access size (1, 2, 4, 8)", "8", (input) =>
  input === 1 || input === 2 || input === 4 || input === 8 ? input : undefined,
)
  .nullable()
  .default(null);

const guestOperation = z.discriminatedUnion("guest", [
  record({ guest: z.literal("nop"), ...guestKeys }),
  record({
    guest: z.literal("write"),
    ...loopKeys,
    size,
    /** The value of the first store, and what it grows by from one store to the next. */
    value: value64("a value").default(U64_ZERO),
    value_step: value64("a value").default(U64_ZERO),
  }),
  record({ guest: z.literal("read"), ...loopKeys, size }),
  record({ guest: z.literal("rmw"), ...loopKeys, size }),
  record({ guest: z.literal("exec"), ...loopKeys }),
  record({ guest: z.literal("invlpg"), ...loopKeys }),
  record({
    guest: z.literal("set_pte"),
    ...guestKeys,
    va: address,
    level: integer("a level of the guest's tables", 1, 5),
    /** With `flags`: the entry is pa + flags, and pa grows by a page from one entry to the next. Without: `value` is stored. */
    pa: amount("a guest-physical address").nullable().default(null),
    flags: entryFlags.nullable().default(null),
    value: value64("an entry").nullable().default(null),
    count,
    repeat: integer("a number of rounds", 1, NUMBER_MAX).default(1),
    root: text("the name of a root", '"A"').nullable().default(null),
    size,
    /** The VMM's own note that no table is behind the entry any more; it changes nothing that the guest does. */
    no_table: flag("true or false").default(false),
  }),
  record({ guest: z.literal("set_cr3"), ...guestKeys, root: text("the name of a root", '"A"') }),
  record({ guest: z.literal("set_cr0"), ...guestKeys, wp: flag("0 or 1") }),
  record({
    guest: z.literal("set_cr4"),
    ...guestKeys,
    /** Bits to set and to clear in the initial value; without both, the initial value itself. */
    set: amount("bits of CR4", '"0x80"').default(0),
    clear: amount("bits of CR4", '"0x80"').default(0),
  }),
  record({
    guest: z.literal("cr3_alternate"),
    ...guestKeys,
    roots: list(text("the name of a root", '"A"')),
    addr: address,
    count,
  }),
  record({
    guest: z.literal("wrmsr"),
    ...guestKeys,
    msr: amount("a number of an MSR", '"0x4b564d01"'),
    value: value64("a value"),
  }),
]);

/** Keys that every host operation may have. `cpu`: where its thread runs when it is part of a `par`; null: CPU 0. */
const hostKeys = {
  cpu: integer("a CPU", 0, 4095).nullable().default(null),
  note: text("a note", '"why"').optional(),
};

/** A range of memory `mem`; `len` null: up to its end. */
const rangeKeys = {
  ...hostKeys,
  mem: integer("a memory", 0, 32767).default(0),
  offset: amount("an offset").default(0),
  len: amount("a length").nullable().default(null),
};

const placeKeys = { ...rangeKeys, count, stride };

const slot = integer("a memslot", 0, 32767);

/** Flags of a memslot. */
export const slotFlags = list(word("a flag of a memslot", ["dirty_log", "readonly"]));

/** The advice that madvise(2) knows, in lower case without its prefix. */
const ADVICE = [
  "normal",
  "random",
  "sequential",
  "willneed",
  "dontneed",
  "free",
  "remove",
  "dontfork",
  "dofork",
  "mergeable",
  "unmergeable",
  "hugepage",
  "nohugepage",
  "dontdump",
  "dodump",
  "wipeonfork",
  "keeponfork",
  "cold",
  "pageout",
  "populate_read",
  "populate_write",
  "dontneed_locked",
  "collapse",
] as const;

const advice = word("an advice", ADVICE);

const hostOperation = z.discriminatedUnion("host", [
  record({ host: z.literal("dirty_log"), ...hostKeys, slot, on: flag("true or false") }),
  record({ host: z.literal("slot_flags"), ...hostKeys, slot, flags: slotFlags }),
  record({ host: z.literal("slot_delete"), ...hostKeys, slot }),
  record({
    host: z.literal("slot_create"),
    ...hostKeys,
    slot,
    /** Null: what the memory's own entry says. */
    gpa: amount("a guest-physical address").nullable().default(null),
    flags: slotFlags.nullable().default(null),
  }),
  record({ host: z.literal("slot_move"), ...hostKeys, slot, gpa: amount("a guest-physical address") }),
  record({ host: z.literal("get_dirty_log"), ...hostKeys, slot }),
  record({
    host: z.literal("clear_dirty_log"),
    ...hostKeys,
    slot,
    first: integer("a page", 0, NUMBER_MAX),
    pages: integer("a number of pages", 0, NUMBER_MAX),
  }),
  record({ host: z.literal("ring_collect"), ...hostKeys }),
  record({ host: z.literal("madvise"), ...rangeKeys, advice }),
  record({
    host: z.literal("repeat_madvise"),
    ...rangeKeys,
    advice,
    times: integer("a number of times", 0, NUMBER_MAX),
    usleep: integer("a pause in microseconds", 0, NUMBER_MAX).default(0),
  }),
  record({
    host: z.literal("mprotect"),
    ...rangeKeys,
    prot: word("a protection", ["none", "r", "w", "x", "rw", "rx", "wx", "rwx"]),
  }),
  record({ host: z.literal("munmap"), ...rangeKeys }),
  record({ host: z.literal("mmap_fixed"), ...rangeKeys }),
  record({ host: z.literal("mremap_swap"), ...rangeKeys, to: amount("an offset") }),
  record({ host: z.literal("punch"), ...rangeKeys }),
  record({ host: z.literal("touch"), ...rangeKeys, write: flag("true or false").default(false) }),
  record({ host: z.literal("poke"), ...placeKeys, value: value64("a value").default(U64_ZERO) }),
  record({ host: z.literal("poke_ret"), ...placeKeys }),
  record({ host: z.literal("peek"), ...placeKeys }),
  record({ host: z.literal("fork"), ...hostKeys }),
  record({ host: z.literal("fork_exit"), ...hostKeys }),
  record({
    host: z.literal("age"),
    ...rangeKeys,
    mode: word("a mode", ["clear_flush_young", "clear_young", "test_young"]),
  }),
  record({
    host: z.literal("prefault"),
    ...hostKeys,
    vcpu: integer("a vcpu", 0, 4095).default(0),
    gpa: amount("a guest-physical address"),
    len: amount("a length"),
  }),
  record({ host: z.literal("nr_mmu_pages"), ...hostKeys, pages: integer("a number of pages", 0, NUMBER_MAX) }),
  record({ host: z.literal("set_clock"), ...hostKeys }),
  record({
    host: z.literal("write_file"),
    ...hostKeys,
    path: text("a path", '"/sys/..."'),
    value: text("a text", '"1"'),
  }),
  record({ host: z.literal("sleep"), ...hostKeys, ms: integer("milliseconds", 0, NUMBER_MAX) }),
]);

const GUEST_NAMES = guestOperation.options.map((option) => option.shape.guest.value);
const HOST_NAMES = hostOperation.options.map((option) => option.shape.host.value);

/** An operation of a guest; `guest` names it. */
export type GuestOperation = { readonly kind: "guest" } & Readonly<z.output<typeof guestOperation>>;

/** An operation of the VMM or of the host under it; `host` names it, madvise_X being `madvise` with `advice` X. */
export type HostOperation = { readonly kind: "host" } & Readonly<z.output<typeof hostOperation>>;

/** Operations that start at the same time; the next one starts when all are done. */
export interface ParallelOperation {
  readonly kind: "par";
  readonly members: readonly SingleOperation[];
}

export type SingleOperation = GuestOperation | HostOperation;
export type Operation = SingleOperation | ParallelOperation;

/** The members of a parallel operation, or the operation itself. */
export function membersOf(operation: Operation): readonly SingleOperation[] {
  return operation.kind === "par" ? operation.members : [operation];
}

type Path = readonly (string | number)[];

/**
 * Reads one element of `ops`.
 *
 * @throws UsageError naming the first mistake in it
 */
export function readOperation(file: string, input: unknown, path: Path): Operation {
  const keys = keysOf(file, input, path);
  if (!keys.has("par")) return readSingle(file, input, path, keys);
  const { par } = parse(
    file,
    record({ par: list(z.unknown()), note: text("a note", '"why"').optional() }),
    input,
    path,
  );
  const members = par.map((member, at) => {
    const place = [...path, "par", at];
    return readSingle(file, member, place, keysOf(file, member, place));
  });
  return { kind: "par", members };
}

function keysOf(file: string, input: unknown, path: Path): Set<string> {
  if (typeof input === "object" && input !== null && !Array.isArray(input)) return new Set(Object.keys(input));
  throw usageError(
    file,
    pathText(path),
    `expected an operation, not ${show(input)}; write {"guest": ...} or {"host": ...}`,
  );
}

function readSingle(file: string, input: unknown, path: Path, keys: ReadonlySet<string>): SingleOperation {
  if (keys.has("guest") === keys.has("host")) {
    const what = keys.has("guest")
      ? 'both "guest" and "host"; keep one'
      : 'neither "guest" nor "host"; name the operation by one';
    throw usageError(
      file,
      pathText(path),
      keys.has("par") ? '"par" inside "par"; list all members in one' : `has ${what}`,
    );
  }
  const operation = input as Readonly<Record<string, unknown>>;
  if (keys.has("guest")) {
    refuseUnknown(file, "guest", operation["guest"], GUEST_NAMES, path);
    return { kind: "guest", ...parse(file, guestOperation, input, path) };
  }
  const name = operation["host"];
  const plain = typeof name === "string" && name.startsWith("madvise_");
  const spelled = plain ? { ...operation, host: "madvise", advice: name.slice("madvise_".length) } : operation;
  if (!plain)
    refuseUnknown(file, "host", name, [...HOST_NAMES.filter((known) => known !== "madvise"), "madvise_X"], path);
  return { kind: "host", ...parse(file, hostOperation, spelled, path) };
}

function refuseUnknown(file: string, side: string, name: unknown, known: readonly string[], path: Path): void {
  if (typeof name === "string" && known.includes(name)) return;
  const what = `unknown ${side} operation ${show(name)}; use one of ${known.join(", ")}`;
  throw usageError(file, `${pathText(path)}.${side}`, what);
}

function pathText(path: Path): string {
  return path.map((step, at) => (typeof step === "number" ? `[${step}]` : at === 0 ? step : `.${step}`)).join("");
}
