/** The silicon: addresses, page-table entries, walkers, TLBs, interrupts. */
export * from "./address.ts";
export * from "./entry.ts";
export {
  type AccessSizeOfGuest,
  type GuestAction,
  GuestCpu,
  type GuestInstruction,
  NO_PAGING,
  touch,
  type VmExit,
  vmrun,
} from "./guest-cpu.ts";
export {
  Interrupts,
  interrupt,
  interruptAndWait,
  interruptHandler,
  maskInterrupts,
  unmaskInterrupts,
} from "./interrupts.ts";
export * from "./nested-format.ts";
export * from "./page-walk.ts";
export { Tlb } from "./tlb.ts";
