/**
 * struct kvm_page_fault: a page fault while it is being handled.
 */
import type { Gfn, Gpa, Pfn } from "../machine/index.ts";
import type { KvmMemorySlot } from "./memslots.ts";

/** RET_PF_*: what came of a fault. */
export type RetPf = "continue" | "retry" | "emulate" | "invalid" | "fixed" | "spurious" | "error";

/** KVM_PFN_NOSLOT: no memslot has the guest frame. */
export const KVM_PFN_NOSLOT = (2 ** 63) as Pfn;

/** struct kvm_page_fault */
export interface KvmPageFault {
  readonly addr: Gpa;
  readonly errorCode: number;
  readonly exec: boolean;
  readonly write: boolean;
  readonly present: boolean;
  /** KVM_PRE_FAULT_MEMORY: nobody waits for the page. */
  readonly prefetch: boolean;
  readonly gfn: Gfn;
  /** Null: MMIO. */
  slot: KvmMemorySlot | null;
  mmuSeq: number;
  pfn: Pfn;
  mapWritable: boolean;
  /** The level that the page could be mapped at, if it need not be executable. */
  reqLevel: number;
  goalLevel: number;
  /** The mitigation of NX huge pages forbids a huge page here. */
  hugePageDisallowed: boolean;
}

export function errorBit(errorCode: number, mask: number): boolean {
  return Math.floor(errorCode / mask) % 2 === 1;
}
