/**
 * A CPU in guest mode: it runs instructions until something makes it leave.
 *
 * The guest is a list of instructions. Each fetches its own code and does one thing; one that faults is left without effect and is run again
 * after the exit. Every access goes through the TLB or is walked, and is an access of the modelled memory like any other. An interrupt
 * is noticed between instructions.
 *
 *     paging          CR3 leads to                            a failed walk                       intercepted
 *     nested          the guest's tables, each address        nested page fault: exit             MOV to CR0 and CR4, WRMSR
 *                     in them through the nested ones         the guest's own: delivered to it
 *     shadow          tables that the hypervisor has built    exit                                also MOV to CR3, INVLPG
 *
 * What a CPU has cached and where it stands is its thread's own state, which follows from what its accesses returned.
 */
import { Cell, fetchAdd, load, type Steps, store, type U64, u64, u64ToNumber, type World } from "../engine/index.ts";
import { type Gpa, type Gva, type Hpa, PAGE_SIZE } from "./address.ts";
import { deliverEvent, type ExceptionTables, type GuestEvent, PF_VECTOR } from "./guest-exception.ts";
import type { GuestObserver, ObservedStore } from "./guest-observer.ts";
import { type Interrupts, isInterrupted } from "./interrupts.ts";
import { type NestedFormat, NPT_FORMAT, PageModificationLog } from "./nested-format.ts";
import { type AccessKind, guestWalk, type ShadowRoot, shadowWalk } from "./page-walk.ts";
import { type PagingMode, pagingModeOf } from "./paging-mode.ts";
import { Tlb } from "./tlb.ts";

/** Bytes of one access; one that is not aligned to them is made byte by byte. */
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
  | { readonly kind: "mov-to-cr"; readonly register: 0 | 3 | 4; readonly value: number }
  | { readonly kind: "wrmsr"; readonly msr: number; readonly value: number }
  /** Leaves to the VMM. */
  | { readonly kind: "out" };

export interface GuestInstruction {
  /** Guest-virtual address that it is fetched from; null for a guest whose code is not modelled. */
  readonly rip: Gva | null;
  /** 3 for user mode. */
  readonly cpl: 0 | 3;
  readonly action: GuestAction;
  /** Its bytes as an emulator fetches them, `48 8b 06`; left out where nobody looks. */
  readonly bytes?: string;
  /** A hypervisor that tries to carry it out in the guest's place finds that it does not know how. */
  readonly unemulatable?: boolean;
}

/** Why the guest was left. `rip` is 0 for a guest whose code is not modelled. */
export type VmExit =
  | { readonly kind: "io"; readonly rip: number }
  | { readonly kind: "interrupt"; readonly rip: number }
  /** The page-modification log has no room; the instruction at hand is still to be carried out. */
  | { readonly kind: "pml-full"; readonly rip: number }
  /** There is no next instruction. */
  | { readonly kind: "done" }
  | {
      readonly kind: "npf";
      readonly gpa: Gpa;
      readonly errorCode: number;
      /** See {@link NestedFault}. */
      readonly reported: number | null;
      readonly rip: number;
    }
  /** A #PF that is intercepted. */
  | { readonly kind: "page-fault"; readonly gva: Gva; readonly errorCode: number; readonly rip: number }
  /** An instruction that the hypervisor wants to carry out itself. */
  | { readonly kind: "intercept"; readonly instruction: GuestInstruction; readonly rip: number }
  /** A #PF that the guest has no handler for. */
  | { readonly kind: "guest-fault"; readonly gva: Gva; readonly errorCode: number; readonly rip: number };

/** The memory of the guest in which exceptions are delivered, and the handler's code. */
export interface ExceptionHandler {
  readonly tables: ExceptionTables;
  readonly code: readonly GuestInstruction[];
}

export class GuestCpu {
  readonly world: World;
  readonly cpu: number;
  readonly interrupts: Interrupts;
  readonly tlb = new Tlb();
  readonly pml = new PageModificationLog();
  /** How the nested tables are read. */
  readonly format: NestedFormat;
  mode: PagingMode;
  /** Host-physical address of the nested root: nCR3. */
  nestedRoot: Hpa = 0 as Hpa;
  /** Not null: there is no nested paging; CR3 leads to these tables. */
  shadow: ShadowRoot | null = null;
  instructions: readonly GuestInstruction[] = [];
  /** The instruction at hand. */
  next = 0;
  /** Is told of each access before it is made. */
  observer: GuestObserver | null = null;
  /** Null: a #PF of the guest ends its run. */
  handler: ExceptionHandler | null = null;
  /** EVENTINJ: to be delivered when the guest is entered. */
  eventInjection: GuestEvent | null = null;
  /** EXITINTINFO: what was being delivered when the guest was left. */
  exitEvent: GuestEvent | null = null;
  /** As the emulated CPU of the recordings does: nothing stays in the TLB from one stay in the guest to the next. */
  forgetsBetweenStays = false;
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
    this.format = logsDirty ? { ...format, pml: this.pml } : format;
    this.world = world;
    this.cpu = cpu;
    this.interrupts = interrupts;
    this.mode = mode;
  }

  /** Sets what it is to run from now on. */
  loadInstructions(instructions: readonly GuestInstruction[]): void {
    this.instructions = instructions;
    this.next = 0;
    this.lastFault = null;
  }

  /** Where it stands; 0 for a guest whose code is not modelled. */
  get rip(): number {
    return this.instructions[this.next]?.rip ?? 0;
  }

  get cpl(): 0 | 3 {
    return this.instructions[this.next]?.cpl ?? 0;
  }
}

/** VMRUN: runs the guest to an exit. */
export function* vmrun(guest: GuestCpu): Steps<VmExit> {
  if (guest.forgetsBetweenStays) guest.tlb.flushAll();
  guest.exitEvent = null;
  const { eventInjection } = guest;
  guest.eventInjection = null;
  if (eventInjection !== null) {
    const exit = yield* deliver(guest, eventInjection);
    if (exit !== null) return exit;
  }
  for (;;) {
    const { rip } = guest;
    if (yield* isInterrupted(guest.interrupts, guest.cpu)) return { kind: "interrupt", rip };
    const instruction = guest.instructions[guest.next];
    if (instruction === undefined) return { kind: "done" };
    const exit = yield* execute(guest, instruction);
    if (exit !== null && exit.kind === "guest-fault" && guest.handler !== null) {
      // The guest's own: no exit, unless the delivery itself needs one.
      const event = { vector: PF_VECTOR, errorCode: exit.errorCode, address: exit.gva };
      const failed = yield* deliver(guest, event);
      if (failed !== null) return failed;
      continue;
    }
    if (exit !== null) return exit;
    guest.next++;
    if (instruction.action.kind === "out") return { kind: "io", rip };
  }
}

/** Delivers an exception: the CPU goes on in the handler. An exit leaves it to be delivered again. */
function* deliver(guest: GuestCpu, event: GuestEvent): Steps<VmExit | null> {
  const { handler, rip } = guest;
  guest.lastFault = { gva: event.address, errorCode: event.errorCode };
  guest.observer?.faulted(event);
  if (handler === null) return { kind: "guest-fault", gva: event.address, errorCode: event.errorCode, rip };
  for (const { gva, kind } of deliverEvent(handler.tables, event, guest.cpl)) {
    const place = yield* translate(guest, gva, kind, 0);
    if (typeof place !== "number") {
      guest.exitEvent = event;
      return place;
    }
    guest.observer?.accessed({ gva, kind, user: false, size: 4, store: null }, place);
    // What is pushed is never looked at; that the page is touched is what matters.
    yield* touchWord(guest.world, place, kind);
  }
  guest.instructions = handler.code;
  guest.next = 0;
  return null;
}

function* touchWord(world: World, place: Hpa, kind: AccessKind): Steps<void> {
  const cell = new Cell<number>(world, place - (place % 4), 4, false);
  if (kind === "write") yield* store(cell, 0, "guest: push");
  else yield* load(cell, "guest: read a descriptor");
}

/** One instruction; an exit leaves it to be run again. */
function* execute(guest: GuestCpu, instruction: GuestInstruction): Steps<VmExit | null> {
  const { rip, cpl, action } = instruction;
  if (rip !== null) {
    const fetched = yield* translate(guest, rip, "exec", cpl);
    if (typeof fetched !== "number") return fetched;
    guest.observer?.accessed({ gva: rip, kind: "exec", user: cpl === 3, size: 1, store: null }, fetched);
  }
  if (isIntercepted(guest, action)) return { kind: "intercept", instruction, rip: rip ?? 0 };
  switch (action.kind) {
    case "access":
      return yield* access(guest, action, cpl);
    case "invlpg":
      guest.tlb.flushPage(action.gva);
      guest.observer?.retired(action);
      return null;
    case "mov-to-cr":
      guest.mode = withControlRegister(guest.mode, action.register, action.value);
      guest.tlb.flushAll();
      guest.observer?.retired(action);
      return null;
    default:
      return null;
  }
}

function isIntercepted(guest: GuestCpu, action: GuestAction): boolean {
  switch (action.kind) {
    case "mov-to-cr":
      return guest.shadow !== null || action.register !== 3;
    case "invlpg":
      return guest.shadow !== null;
    case "wrmsr":
      return true;
    default:
      return false;
  }
}

/** The mode after a MOV to CR0, CR3 or CR4. */
export function withControlRegister(mode: PagingMode, register: 0 | 3 | 4, value: number): PagingMode {
  return pagingModeOf({ ...mode, [`cr${register}`]: value });
}

type MemoryAccess = GuestAction & { readonly kind: "access" };

function* access(guest: GuestCpu, action: MemoryAccess, cpl: 0 | 3): Steps<VmExit | null> {
  const { gva, size, value } = action;
  const kind = action.access === "read" ? "read" : "write";
  const first = yield* translate(guest, gva, kind, cpl);
  if (typeof first !== "number") return first;
  if (gva % size === 0) {
    observe(guest, action, cpl, { gva, size, value }, first);
    yield* accessWord(guest, action, first);
    return null;
  }
  // Both pages of an access that crosses a boundary are translated before anything is written.
  const end = (gva + size - 1) as Gva;
  const crosses = Math.floor(end / PAGE_SIZE) !== Math.floor(gva / PAGE_SIZE);
  const last = crosses ? yield* translate(guest, end, kind, cpl) : ((first + size - 1) as Hpa);
  if (typeof last !== "number") return last;
  const pieces = bytesOf(value, size);
  const placeOf = (i: number): Hpa => {
    const inLast = crosses && Math.floor((gva + i) / PAGE_SIZE) === Math.floor(end / PAGE_SIZE);
    return (inLast ? last - (size - 1 - i) : first + i) as Hpa;
  };
  for (const [i, byte] of pieces.entries()) {
    const place = placeOf(i);
    observe(guest, action, cpl, { gva: (gva + i) as Gva, size: 1, value: u64(0, byte) }, place);
    const cell = new Cell<number>(guest.world, place, 1, false);
    if (kind === "write") yield* store(cell, byte, labelOf(guest, action));
    else yield* load(cell, labelOf(guest, action));
  }
  return null;
}

interface Piece {
  readonly gva: Gva;
  readonly size: number;
  readonly value: U64;
}

/** Tells the observer of an access, or of one byte of it. */
function observe(guest: GuestCpu, action: MemoryAccess, cpl: 0 | 3, { gva, size, value }: Piece, hpa: Hpa): void {
  if (guest.observer === null) return;
  const { access } = action;
  const kind = access === "read" ? "read" : "write";
  const store: ObservedStore | null = access === "read" ? null : { value, adds: access === "rmw" };
  guest.observer.accessed({ gva, kind, user: cpl === 3, size, store }, hpa);
}

/** The low bytes of a value, as they lie in memory. */
export function bytesOf(value: U64, size: number): number[] {
  return Array.from({ length: size }, (_, i) => ((i < 4 ? value.lo : value.hi) >>> (8 * (i % 4))) & 0xff);
}

/** A text for each access of the guest is for who sees it. */
function labelOf({ world }: GuestCpu, action: MemoryAccess): string {
  if (world.current?.unwatched) return "";
  return `guest: ${action.access} gfn 0x${Math.floor(action.gva / PAGE_SIZE).toString(16)}`;
}

/** The translation may be stale by now: whether the page may still be touched is what the isolation oracle checks. */
function* accessWord(guest: GuestCpu, action: MemoryAccess, at: Hpa): Steps<void> {
  const { world } = guest;
  const { size, value } = action;
  const label = labelOf(guest, action);
  if (action.access === "rmw") {
    yield* fetchAdd(new Cell<number>(world, at, size, false), u64ToNumber(value), label);
  } else if (size === 8) {
    const cell = new Cell<U64>(world, at, 8, true);
    if (action.access === "read") guest.lastRead = yield* load(cell, label);
    else yield* store(cell, value, label);
  } else {
    const cell = new Cell<number>(world, at, size, false);
    if (action.access === "read") guest.lastRead = u64(0, yield* load(cell, label));
    else yield* store(cell, (value.lo & (size === 4 ? -1 : 2 ** (8 * size) - 1)) >>> 0, label);
  }
}

function* translate(guest: GuestCpu, addr: Gva, kind: AccessKind, cpl: 0 | 3): Steps<Hpa | VmExit> {
  const { mode, shadow, rip } = guest;
  const user = cpl === 3;
  const cached = guest.tlb.lookup(addr, kind, user, mode);
  if (cached !== null) return cached;
  const found =
    shadow === null
      ? yield* guestWalk(guest.world, guest.nestedRoot, mode, addr, kind, user, guest.format)
      : yield* shadowWalk(guest.world, shadow, mode, addr, kind, user);
  if (found.kind === "pml-full") return { kind: "pml-full", rip };
  if (found.kind === "nested-fault") {
    return { kind: "npf", gpa: found.gpa, errorCode: found.errorCode, reported: found.reported, rip };
  }
  if (found.kind === "guest-fault") {
    const { gva, errorCode } = found;
    return { kind: shadow === null ? "guest-fault" : "page-fault", gva, errorCode, rip };
  }
  guest.tlb.fill(addr, found);
  return found.hpa;
}

/** An instruction of a guest whose code is not modelled, which accesses the first bytes of a guest frame. */
export function touch(frame: number, kind: "read" | "write"): GuestInstruction {
  const gva = (frame * PAGE_SIZE) as Gva;
  return { rip: null, cpl: 0, action: { kind: "access", access: kind, gva, size: 8, value: { hi: 0, lo: 1 } } };
}
