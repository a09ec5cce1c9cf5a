/**
 * A CPU in guest mode: it runs instructions until something makes it leave.
 *
 * The guest is a list of instructions. Each fetches its own code and does one thing; one that faults is left without effect and is run again
 * after the exit. Every access goes through the TLB or is walked, and is an access of the modelled memory like any other. An interrupt
 * is noticed between instructions.
 *
 * What a CPU has cached and where it stands is its thread's own state, which follows from what its accesses returned.
 */
import { Cell, load, type Steps, store, type U64, type World } from "../engine/index.ts";
import type { Gpa, Gva, Hpa } from "./address.ts";
import { type Interrupts, isInterrupted } from "./interrupts.ts";
import { type NestedFormat, NPT_FORMAT } from "./nested-format.ts";
import { type AccessKind, guestWalk, type PagingMode } from "./page-walk.ts";
import { Tlb } from "./tlb.ts";

/** Bytes of one access; a larger one that crosses a boundary of its size is made where it begins. */
export type AccessSizeOfGuest = 1 | 2 | 4 | 8;

/** What an instruction does besides being fetched. */
export type GuestAction =
  | { readonly kind: "nothing" }
  | {
      readonly kind: "access";
      readonly access: "read" | "write" | "rmw";
      readonly gva: Gva;
      readonly size: AccessSizeOfGuest;
      /** What a write stores, or what an rmw adds. */
      readonly value: U64;
    }
  | { readonly kind: "invlpg"; readonly gva: Gva }
  | { readonly kind: "mov-to-cr3"; readonly value: Gpa }
  /** Intercepted: the hypervisor does it, and goes on behind it. */
  | { readonly kind: "wrmsr"; readonly msr: number; readonly value: number }
  /** Leaves to the VMM. */
  | { readonly kind: "out" };

export interface GuestInstruction {
  /** Guest-virtual address that it is fetched from; null for a guest whose code is not modelled. */
  readonly rip: Gva | null;
  /** 3 for user mode. */
  readonly cpl: 0 | 3;
  /** Its bytes as an emulator fetches them, `48 8b 06`; left out where nobody looks. */
  readonly bytes?: string;
  readonly action: GuestAction;
}

/** Why the guest was left. `rip` is 0 for a guest whose code is not modelled. */
export type VmExit =
  | { readonly kind: "io" }
  | { readonly kind: "interrupt" }
  /** There is no next instruction. */
  | { readonly kind: "done" }
  | { readonly kind: "msr"; readonly msr: number; readonly value: number }
  | {
      readonly kind: "npf";
      readonly gpa: Gpa;
      readonly errorCode: number;
      /** See {@link NestedFault}. */
      readonly reported: number | null;
      readonly rip: number;
    }
  | { readonly kind: "guest-fault"; readonly gva: Gva; readonly errorCode: number; readonly rip: number };

export class GuestCpu {
  readonly world: World;
  readonly cpu: number;
  readonly interrupts: Interrupts;
  readonly tlb = new Tlb();
  /** The page-modification log: what the walker has set dirty flags for and nobody has taken yet. It never fills up here. */
  readonly pml: Gpa[] = [];
  /** How the nested tables are read. */
  readonly format: NestedFormat;
  mode: PagingMode;
  /** Host-physical address of the nested root: nCR3. */
  nestedRoot: Hpa = 0 as Hpa;
  instructions: readonly GuestInstruction[] = [];
  /** The instruction at hand. */
  next = 0;
  /** In 64-bit mode. */
  longMode = true;
  /** Value of the last read. */
  lastRead: U64 = { hi: 0, lo: 0 };
  /** The last page fault of its own: CR2 and the error code. */
  lastFault: { readonly gva: Gva; readonly errorCode: number } | null = null;

  /** @param logsDirty page-modification logging is on */
  constructor(
    world: World,
    cpu: number,
    interrupts: Interrupts,
    mode: PagingMode,
    format: NestedFormat = NPT_FORMAT,
    logsDirty = false,
  ) {
    this.format = logsDirty ? { ...format, logDirty: (addr) => this.pml.push(addr) } : format;
    this.world = world;
    this.cpu = cpu;
    this.interrupts = interrupts;
    this.mode = mode;
  }

  /** Sets what it is to run from now on. */
  loadInstructions(instructions: readonly GuestInstruction[]): void {
    this.instructions = instructions;
    this.next = 0;
  }
}

/** VMRUN: runs the guest to an exit. */
export function* vmrun(guest: GuestCpu): Steps<VmExit> {
  for (;;) {
    if (yield* isInterrupted(guest.interrupts, guest.cpu)) return { kind: "interrupt" };
    const instruction = guest.instructions[guest.next];
    if (instruction === undefined) return { kind: "done" };
    const exit = yield* execute(guest, instruction);
    if (exit !== null) return exit;
    if (instruction.action.kind === "wrmsr") return { ...instruction.action, kind: "msr" };
    guest.next++;
    if (instruction.action.kind === "out") return { kind: "io" };
  }
}

/** One instruction; an exit leaves it to be run again. */
function* execute(guest: GuestCpu, instruction: GuestInstruction): Steps<VmExit | null> {
  const { rip, action } = instruction;
  if (rip !== null) {
    const fetched = yield* translate(guest, instruction, rip, "exec");
    if (typeof fetched !== "number") return fetched;
  }
  switch (action.kind) {
    case "access": {
      const kind = action.access === "read" ? "read" : "write";
      const place = yield* translate(guest, instruction, action.gva, kind);
      if (typeof place !== "number") return place;
      yield* access(guest, action, place);
      return null;
    }
    case "invlpg":
      guest.tlb.flushPage(action.gva);
      return null;
    case "mov-to-cr3":
      guest.mode = { ...guest.mode, cr3: action.value };
      guest.tlb.flushAll();
      return null;
    default:
      return null;
  }
}

/** The translation may be stale by now: whether the page may still be touched is what the isolation oracle checks. */
function* access(guest: GuestCpu, action: GuestAction & { readonly kind: "access" }, place: Hpa): Steps<void> {
  const { world } = guest;
  const { size, value } = action;
  const label = `gfn 0x${Math.floor(action.gva / 4096).toString(16)}`;
  const at = place - (place % size);
  if (size === 8) {
    const cell = new Cell<U64>(world, at, 8, true);
    if (action.access === "read") guest.lastRead = yield* load(cell, `guest: read ${label}`);
    else yield* store(cell, value, `guest: write ${label}`);
    return;
  }
  const cell = new Cell<number>(world, at, size, false);
  if (action.access === "read") guest.lastRead = { hi: 0, lo: yield* load(cell, `guest: read ${label}`) };
  else yield* store(cell, value.lo & (size === 4 ? -1 : 2 ** (8 * size) - 1), `guest: write ${label}`);
}

function* translate(guest: GuestCpu, instruction: GuestInstruction, addr: Gva, kind: AccessKind): Steps<Hpa | VmExit> {
  const cached = guest.tlb.lookup(addr, kind);
  if (cached !== null) return cached;
  const rip = instruction.rip ?? 0;
  const { world, nestedRoot, mode, format } = guest;
  const found = yield* guestWalk(world, nestedRoot, mode, addr, kind, instruction.cpl === 3, format);
  if (found.kind === "nested-fault") {
    return { kind: "npf", gpa: found.gpa, errorCode: found.errorCode, reported: found.reported, rip };
  }
  if (found.kind === "guest-fault") {
    guest.lastFault = found;
    return { kind: "guest-fault", gva: found.gva, errorCode: found.errorCode, rip };
  }
  guest.tlb.fill(addr, found);
  return found.hpa;
}

/** A guest without paging. */
export const NO_PAGING: PagingMode = { paging: false, cr3: 0 as Gpa, wp: true, nx: true };

/** An instruction of a guest whose code is not modelled, which accesses the first bytes of a guest frame. */
export function touch(frame: number, kind: "read" | "write"): GuestInstruction {
  const gva = (frame * 4096) as Gva;
  return { rip: null, cpl: 0, action: { kind: "access", access: kind, gva, size: 8, value: { hi: 0, lo: 1 } } };
}
