/** The silicon: addresses, page-table entries, walkers, TLBs, interrupts. */
export * from "./address.ts";
export * from "./entry.ts";
export {
  type AccessSizeOfGuest,
  bytesOf,
  type ExceptionHandler,
  type GuestAction,
  GuestCpu,
  type GuestInstruction,
  touch,
  type VmExit,
  vmrun,
  withControlRegister,
} from "./guest-cpu.ts";
export * from "./guest-exception.ts";
export type { GuestObserver, ObservedAccess, ObservedStore } from "./guest-observer.ts";
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
export * from "./paging-mode.ts";
export { Tlb } from "./tlb.ts";
