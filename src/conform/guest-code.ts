/**
 * The guest's program of an operation: the instructions that the VMM's little guest runs for it (traces/README.md, "The guest").
 *
 * Every operation has its own entry in the code page, a loop over its operands, and an OUT at the end. Registers hold the parameters, so that
 * the guest touches its code, its tables and the operands only.
 *
 *                   entry      operand     OUT
 *     write         40000000   +12         +25       32-bit modes: 40000800
 *     read          40000040   +12         +25                     40000840
 *     rmw           40000080   +12         +25                     40000880
 *     nop           40000200               +1                      40000a00
 */
import { addU64, numberToU64, type U64, U64_ZERO, UsageError, u64ToNumber } from "../engine/index.ts";
import {
  type AccessSizeOfGuest,
  type ExceptionHandler,
  type GuestAction,
  type GuestInstruction,
  type Gva,
  gva,
  PAGE_SIZE,
  X86_CR0_WP,
} from "../machine/index.ts";
import type { GuestTables } from "./guest-tables.ts";
import type { GuestOperation } from "./operation.ts";
import type { ResolvedMember } from "./recording.ts";
import type { Workload } from "./workload.ts";

const CODE = 0x4000_0000;

interface Entry {
  /** Offset of the operation's code in the code page. */
  readonly at: number;
  /** From there to the instruction that has the operand, and to the OUT. */
  readonly operand: number;
  readonly out: number;
}

const loop = (at: number): Entry => ({ at, operand: 0x12, out: 0x25 });

/** In 32-bit code the first instruction has the operand. */
const loop32 = (at: number): Entry => ({ at, operand: 0, out: 0x10 });

const ENTRIES: Readonly<Record<string, Entry>> = {
  write8: loop(0),
  read: loop(0x40),
  rmw: loop(0x80),
  exec: loop(0xc0),
  invlpg: loop(0x100),
  set_cr3: { at: 0x140, operand: 0, out: 3 },
  set_cr0: { at: 0x180, operand: 0, out: 3 },
  set_cr4: { at: 0x1c0, operand: 0, out: 3 },
  nop: { at: 0x200, operand: 0, out: 1 },
  write4: loop(0x240),
  write2: loop(0x280),
  write1: loop(0x2c0),
  cr3_alternate: { at: 0x3c0, operand: 0, out: 0x14 },
  wrmsr: { at: 0x380, operand: 0, out: 2 },
};

/** Here `write8` is the natural size, too: it stores four bytes. */
const ENTRIES_32: Readonly<Record<string, Entry>> = {
  write8: loop32(0x800),
  read: loop32(0x840),
  rmw: loop32(0x880),
  exec: loop32(0x8c0),
  invlpg: loop32(0x900),
  set_cr3: { at: 0x940, operand: 0, out: 3 },
  set_cr0: { at: 0x980, operand: 0, out: 3 },
  set_cr4: { at: 0x9c0, operand: 0, out: 3 },
  nop: { at: 0xa00, operand: 0, out: 1 },
  write4: loop32(0xa40),
  write2: loop32(0xa80),
  write1: loop32(0xac0),
  cr3_alternate: { at: 0xbc0, operand: 0, out: 0x14 },
  wrmsr: { at: 0xb80, operand: 0, out: 2 },
};

/** What an operation's code depends on besides the operation. */
export interface GuestProgramContext {
  readonly workload: Workload;
  readonly tables: GuestTables;
  /** The control registers that the guest started with. */
  readonly initial: { readonly cr0: number; readonly cr4: number };
}

/** @param resolved what the VMM worked out for the operation, where it did */
export function guestCode(
  { workload, tables, initial }: GuestProgramContext,
  operation: GuestOperation,
  resolved: ResolvedMember | null,
): readonly GuestInstruction[] {
  const { mode } = workload.guestPaging;
  const wide = mode === "4level" || mode === "5level";
  const natural: AccessSizeOfGuest = wide ? 8 : 4;
  const storeOf = (name: AccessSizeOfGuest): AccessSizeOfGuest => (name === 8 ? natural : name);
  const { cpl } = operation;
  const code: GuestInstruction[] = [];
  const start = (name: string): Entry => {
    const entry = (wide ? ENTRIES : ENTRIES_32)[name] as Entry;
    if (entry.operand > 0) code.push({ rip: gva(CODE + entry.at), cpl, action: { kind: "nothing" } });
    return entry;
  };
  const add = (entry: Entry, action: GuestAction): void => {
    const bytes = bytesOf(action, wide);
    const rip = gva(CODE + entry.at + entry.operand);
    code.push({ rip, cpl, action, bytes });
    // The rest of a loop.
    const next = gva(rip + lengthOf(bytes));
    if (next !== CODE + entry.at + entry.out) code.push({ rip: next, cpl, action: { kind: "nothing" } });
  };
  const leave = (entry: Entry): readonly GuestInstruction[] => {
    code.push({ rip: gva(CODE + entry.at + entry.out), cpl, action: { kind: "out" } });
    return code;
  };
  switch (operation.guest) {
    case "nop": {
      const entry = start("nop");
      add(entry, { kind: "nothing" });
      return leave(entry);
    }
    case "write": {
      const name = operation.size ?? 8;
      const size = storeOf(name);
      const entry = start(`write${name}`);
      let { value } = operation;
      for (const addr of addresses(operation)) {
        add(entry, { kind: "access", access: "write", gva: addr, size, value });
        value = addU64(value, operation.value_step);
      }
      return leave(entry);
    }
    case "read":
    case "rmw": {
      const entry = start(operation.guest);
      const size = operation.size ?? natural;
      const value = numberToU64(1);
      for (const addr of addresses(operation))
        add(entry, { kind: "access", access: operation.guest, gva: addr, size, value });
      return leave(entry);
    }
    case "exec": {
      const entry = start("exec");
      for (const addr of addresses(operation)) code.push({ rip: addr, cpl, action: { kind: "nothing" } });
      return leave(entry);
    }
    case "invlpg": {
      const entry = start("invlpg");
      for (const addr of addresses(operation)) add(entry, { kind: "invlpg", gva: addr });
      return leave(entry);
    }
    case "set_pte": {
      const entrySize = mode === "32bit" ? 4 : 8;
      const name = operation.size ?? entrySize;
      const size = storeOf(name);
      const entry = start(`write${name}`);
      for (const store of tableStores(operation, resolved, {
        entrySize,
        pageBytes: pageBytesOf(workload, operation),
      })) {
        add(entry, { kind: "access", access: "write", gva: store.at, size, value: store.value });
      }
      return leave(entry);
    }
    case "set_cr3": {
      const entry = start("set_cr3");
      const root = resolved?.value;
      if (root === undefined || root === null)
        throw new UsageError("set_cr3: the value of CR3 is not known; give the recording");
      add(entry, { kind: "mov-to-cr", register: 3, value: u64ToNumber(root) });
      return leave(entry);
    }
    case "wrmsr": {
      const entry = start("wrmsr");
      add(entry, { kind: "wrmsr", msr: operation.msr, value: u64ToNumber(operation.value) });
      return leave(entry);
    }
    case "set_cr0": {
      const entry = start("set_cr0");
      const value = operation.wp ? initial.cr0 | X86_CR0_WP : initial.cr0 & ~X86_CR0_WP;
      add(entry, { kind: "mov-to-cr", register: 0, value: value >>> 0 });
      return leave(entry);
    }
    case "set_cr4": {
      const entry = start("set_cr4");
      const value = (initial.cr4 | operation.set) & ~operation.clear;
      add(entry, { kind: "mov-to-cr", register: 4, value: value >>> 0 });
      return leave(entry);
    }
    case "cr3_alternate": {
      const entry = start("cr3_alternate");
      const value = U64_ZERO;
      for (let round = 0; round < operation.count; round++) {
        for (const [nth, root] of operation.roots.entries()) {
          const at = entry.at + (nth === 0 ? 0 : ALTERNATE_BYTES);
          const bytes = nth === 0 ? "0f 22 da" : wide ? "41 0f 22 d9" : "0f 22 d9";
          const load: GuestAction = { kind: "mov-to-cr", register: 3, value: rootOf(tables, root) };
          code.push({ rip: gva(CODE + at), cpl, action: load, bytes });
          const read: GuestAction = { kind: "access", access: "read", gva: gva(operation.addr), size: natural, value };
          const rip = gva(CODE + at + lengthOf(bytes));
          code.push({ rip, cpl, action: read, bytes: bytesOf(read, wide) });
        }
      }
      return leave(entry);
    }
  }
}

/** How long an instruction is, from its bytes; those that nobody decodes are taken for one byte. */
function lengthOf(bytes: string): number {
  return bytes.split(" ").length;
}

/** From the first MOV to CR3 of an alternation to the second. */
const ALTERNATE_BYTES = 6;

function rootOf(tables: GuestTables, name: string): number {
  const root = tables.roots.get(name);
  if (root === undefined) throw new UsageError(`there is no address space ${name}; name one of guest_paging.roots`);
  return root;
}

/** Where the guest's exceptions are delivered, and its handler: reads CR2, pops the error code, OUT. */
export function exceptionHandler(workload: Workload): ExceptionHandler {
  const { mode } = workload.guestPaging;
  const page = (nth: number): Gva => gva(CODE + nth * PAGE_SIZE);
  const longMode = mode === "4level" || mode === "5level";
  const at = (offset: number): Gva => gva(CODE + HANDLER + offset);
  const pop: GuestAction = { kind: "access", access: "read", gva: gva(page(4) - 48), size: 4, value: U64_ZERO };
  return {
    tables: { idt: page(1), gdt: page(2), tss: gva(page(2) + 0x100), stackTop: page(4), longMode },
    code: [
      { rip: at(0), cpl: 0, action: { kind: "nothing" } },
      { rip: at(3), cpl: 0, action: pop },
      { rip: at(4), cpl: 0, action: { kind: "out" } },
    ],
  };
}

/** Offset of the handler in the code page. */
const HANDLER = 0xf00;

/** The instruction's bytes. RSI has the address, RDX the value. */
function bytesOf(action: GuestAction, wide: boolean): string {
  switch (action.kind) {
    case "access":
      return accessBytes(action.access, action.size, wide);
    case "invlpg":
      return "0f 01 3e";
    case "mov-to-cr":
      return { 0: "0f 22 c2", 3: "0f 22 da", 4: "0f 22 e2" }[action.register];
    case "wrmsr":
      return "0f 30";
    default:
      return "";
  }
}

function accessBytes(access: "read" | "write" | "rmw", size: AccessSizeOfGuest, wide: boolean): string {
  const prefix = wide && size === 8 ? "48 " : size === 2 ? "66 " : "";
  if (access === "rmw") return `f0 ${prefix}ff 06`;
  if (access === "read") return `${prefix}8b 06`;
  return size === 1 ? "88 16" : `${prefix}89 16`;
}

function* addresses(operation: {
  readonly addr: number;
  readonly count: number;
  readonly stride: number;
  readonly repeat: number;
}): Generator<Gva> {
  for (let round = 0; round < operation.repeat; round++) {
    for (let i = 0; i < operation.count; i++) yield gva(operation.addr + i * operation.stride);
  }
}

/** What pa grows by from one entry of a set_pte to the next: a page of the entry's size, or a table. */
function pageBytesOf(workload: Workload, { level, flags }: GuestOperation & { readonly guest: "set_pte" }): number {
  if (level === 1 || flags === null || !flags.includes("s")) return PAGE_SIZE;
  const entries = workload.guestPaging.mode === "32bit" ? 1024 : 512;
  return PAGE_SIZE * entries ** (level - 1);
}

/** The stores of a set_pte: entry k gets pa + k pages. */
function* tableStores(
  operation: GuestOperation & { readonly guest: "set_pte" },
  resolved: ResolvedMember | null,
  { entrySize, pageBytes }: { readonly entrySize: number; readonly pageBytes: number },
): Generator<{ at: Gva; value: U64 }> {
  const first = resolved?.pteAddress ?? null;
  if (first === null) throw new UsageError("set_pte: the entry's address is not known; give the recording");
  const value = resolved?.value ?? operation.value ?? U64_ZERO;
  const step = operation.flags === null ? U64_ZERO : numberToU64(pageBytes);
  for (let round = 0; round < operation.repeat; round++) {
    let each = value;
    for (let i = 0; i < operation.count; i++) {
      yield { at: gva(first + i * entrySize), value: each };
      each = addU64(each, step);
    }
  }
}
