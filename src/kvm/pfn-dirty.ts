/**
 * What the host is told of pages that the guest has written: it writes such pages to its swap, and may drop the others.
 *
 *     6.12     whoever takes D from an entry, or an entry away that has it, marks the page (kvm_set_pfn_dirty())
 *     7.2      a page that is mapped writable is marked when the fault lets go of it (kvm_release_faultin_page()); entries tell nothing
 *
 * Kept only where somebody looks (PageFramesOptions.dirty). What is marked stays so, and nothing in KVM reads it: marking is no step of its own.
 */
import type { Steps } from "../engine/index.ts";
import { putPage } from "../kernel/index.ts";
import type { Pfn } from "../machine/index.ts";
import type { Kvm } from "./kvm.ts";
import type { KvmPageFault, RetPf } from "./page-fault.ts";

/** kvm_set_pfn_dirty(), which 7.2 has no more. */
export function kvmSetPfnDirty({ mm, variants }: Kvm, frame: Pfn): void {
  if (variants.kernel === "6.12") mm.frames.markDirty(frame);
}

/** kvm_mmu_finish_page_fault(): the fault's reference goes. @param frame the one that was looked up */
export function* finishPageFault({ mm, variants }: Kvm, fault: KvmPageFault, frame: Pfn, result: RetPf): Steps<void> {
  if (fault.slot === null || !fault.refcounted) return;
  if (variants.kernel === "7.2" && result !== "retry" && fault.mapWritable) mm.frames.markDirty(frame);
  yield* putPage(mm.frames, frame);
}
