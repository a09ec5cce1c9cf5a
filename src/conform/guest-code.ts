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
  type Gpa,
  type GuestAction,
  type GuestInstruction,
  type Gva,
  gva,
  PAGE_SIZE,
} from "../machine/index.ts";
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
  cr3_alternate: loop(0x300),
  wrmsr: { at: 0x380, operand: 0, out: 2 },
};

const ENTRIES_32: Readonly<Record<string, Entry>> = {
  write4: loop32(0x800),
  read: loop32(0x840),
  rmw: loop32(0x880),
  exec: loop32(0x8c0),
  invlpg: loop32(0x900),
  set_cr3: { at: 0x940, operand: 0, out: 3 },
  set_cr0: { at: 0x980, operand: 0, out: 3 },
  set_cr4: { at: 0x9c0, operand: 0, out: 3 },
  nop: { at: 0xa00, operand: 0, out: 1 },
  write8: loop32(0xa40),
  write2: loop32(0xa80),
  write1: loop32(0xac0),
  cr3_alternate: loop32(0xb00),
  wrmsr: { at: 0xb80, operand: 0, out: 2 },
};

/** @param resolved what the VMM worked out for the operation, where it did */
export function guestCode(
  workload: Workload,
  operation: GuestOperation,
  resolved: ResolvedMember | null,
): readonly GuestInstruction[] {
  const { mode } = workload.guestPaging;
  const wide = mode === "4level" || mode === "5level";
  const natural: AccessSizeOfGuest = wide ? 8 : 4;
  const { cpl } = operation;
  const code: GuestInstruction[] = [];
  const start = (name: string): Entry => {
    const entry = (wide ? ENTRIES : ENTRIES_32)[name] as Entry;
    if (entry.operand > 0) code.push({ rip: gva(CODE + entry.at), cpl, action: { kind: "nothing" } });
    return entry;
  };
  const add = (entry: Entry, action: GuestAction): void => {
    code.push({ rip: gva(CODE + entry.at + entry.operand), cpl, action, bytes: bytesOf(action, wide) });
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
      const size = operation.size ?? natural;
      const entry = start(`write${size}`);
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
      const size = operation.size ?? natural;
      const entry = start(`write${size}`);
      for (const store of tableStores(operation, resolved, natural)) {
        add(entry, { kind: "access", access: "write", gva: store.at, size, value: store.value });
      }
      return leave(entry);
    }
    case "set_cr3": {
      const entry = start("set_cr3");
      const root = resolved?.value;
      if (root === undefined || root === null)
        throw new UsageError("set_cr3: the value of CR3 is not known; give the recording");
      add(entry, { kind: "mov-to-cr3", value: root.lo as Gpa });
      return leave(entry);
    }
    case "wrmsr": {
      const entry = start("wrmsr");
      add(entry, { kind: "wrmsr", msr: operation.msr, value: u64ToNumber(operation.value) });
      return leave(entry);
    }
    default: {
      const entry = start(operation.guest);
      return leave(entry);
    }
  }
}

/** The instruction's bytes. RSI has the address, RDX the value. */
function bytesOf(action: GuestAction, wide: boolean): string {
  switch (action.kind) {
    case "access":
      return accessBytes(action.access, action.size, wide);
    case "invlpg":
      return "0f 01 3e";
    case "mov-to-cr3":
      return "0f 22 da";
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

/** The stores of a set_pte: entry k gets pa + k pages. */
function* tableStores(
  operation: GuestOperation & { readonly guest: "set_pte" },
  resolved: ResolvedMember | null,
  entrySize: number,
): Generator<{ at: Gva; value: U64 }> {
  const first = resolved?.pteAddress ?? null;
  if (first === null) throw new UsageError("set_pte: the entry's address is not known; give the recording");
  const value = resolved?.value ?? operation.value ?? U64_ZERO;
  const step = operation.flags === null ? U64_ZERO : numberToU64(PAGE_SIZE);
  for (let round = 0; round < operation.repeat; round++) {
    let each = value;
    for (let i = 0; i < operation.count; i++) {
      yield { at: gva(first + i * entrySize), value: each };
      each = addU64(each, step);
    }
  }
}
