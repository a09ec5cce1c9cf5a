/**
 * How a CPU delivers an exception to the guest: which of the guest's memory it touches before the handler's first instruction.
 *
 *     the gate in the IDT, the code segment's descriptor in the GDT
 *     from user mode: the stack pointer in the TSS
 *     pushes, from the top of the stack down: SS, RSP, RFLAGS, CS, RIP, error code     (64-bit code)
 *                                             [SS, ESP,] EFLAGS, CS, EIP, error code    (32-bit code; the first two from user mode)
 *
 * All of them are accesses of the supervisor.
 */
import type { Gva } from "./address.ts";

/** #PF */
export const PF_VECTOR = 14;

/** An exception, as it is injected or was being delivered. */
export interface GuestEvent {
  readonly vector: number;
  readonly errorCode: number;
  /** What goes to CR2. */
  readonly address: Gva;
}

/** Where the guest has its tables and its stack. */
export interface ExceptionTables {
  readonly idt: Gva;
  readonly gdt: Gva;
  readonly tss: Gva;
  /** The stack grows down from here. */
  readonly stackTop: Gva;
  readonly longMode: boolean;
}

export interface DeliveryAccess {
  readonly gva: Gva;
  readonly kind: "read" | "write";
}

/** The accesses of a delivery, in order. */
export function* deliverEvent(tables: ExceptionTables, event: GuestEvent, cpl: 0 | 3): Generator<DeliveryAccess> {
  const { idt, gdt, tss, stackTop, longMode } = tables;
  const read = (gva: number): DeliveryAccess => ({ gva: gva as Gva, kind: "read" });
  yield read(idt + event.vector * (longMode ? 16 : 8));
  yield read(gdt + 8);
  if (cpl === 3) yield read(tss + 4);
  const pushes = longMode || cpl === 3 ? 6 : 4;
  const word = longMode ? 8 : 4;
  for (let i = 1; i <= pushes; i++) yield { gva: (stackTop - i * word) as Gva, kind: "write" };
}
