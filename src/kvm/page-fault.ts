/**
 * struct kvm_page_fault: a page fault while it is being handled.
 */
import { TWO32 } from "../engine/index.ts";
import type { Gfn, Gpa, Pfn } from "../machine/index.ts";
import type { KvmMemorySlot } from "./memslots.ts";

/** RET_PF_*: what came of a fault. */
export type RetPf = "continue" | "retry" | "emulate" | "invalid" | "fixed" | "spurious" | "write-protected" | "error";

/** KVM_PFN_NOSLOT: no memslot has the guest frame. */
export const KVM_PFN_NOSLOT = (2 ** 63) as Pfn;
/** KVM_PFN_ERR_FAULT: the host has no page there. */
export const KVM_PFN_ERR_FAULT = (2 ** 52) as Pfn;

/** struct kvm_page_fault */
export interface KvmPageFault {
  readonly addr: Gpa;
  readonly errorCode: number;
  readonly exec: boolean;
  readonly write: boolean;
  readonly present: boolean;
  /** The access was made by user mode; of a nested fault always. */
  readonly user: boolean;
  /** KVM_PRE_FAULT_MEMORY: nobody waits for the page. */
  readonly prefetch: boolean;
  /** Of a guest-virtual fault known after the walk of the guest's tables. */
  gfn: Gfn;
  /** Null: MMIO. */
  slot: KvmMemorySlot | null;
  mmuSeq: number;
  pfn: Pfn;
  mapWritable: boolean;
  /** A reference on the page is held until the fault is over. */
  refcounted: boolean;
  /** No page larger than the guest's own may be mapped. */
  maxLevel: number;
  /** The level that the page could be mapped at, if it need not be executable. */
  reqLevel: number;
  goalLevel: number;
  /** The mitigation of NX huge pages forbids a huge page here. */
  hugePageDisallowed: boolean;
  /** The write goes to a table on the very way to it. */
  writeFaultToShadowPgtable: boolean;
}

/** Error codes have up to 37 bits, more than a bit operation looks at. */
export function errorBit(errorCode: number, mask: number): boolean {
  return mask < TWO32 ? (errorCode & mask) !== 0 : (Math.floor(errorCode / TWO32) & (mask / TWO32)) !== 0;
}
