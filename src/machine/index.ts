/** The silicon: addresses, page-table entries, walkers, TLBs, interrupts. */
export * from "./address.ts";
export * from "./entry.ts";
export {
  Interrupts,
  interruptAndWait,
  interruptHandler,
  isInterrupted,
  maskInterrupts,
  unmaskInterrupts,
} from "./interrupts.ts";
export * from "./page-walk.ts";
export { Tlb } from "./tlb.ts";
