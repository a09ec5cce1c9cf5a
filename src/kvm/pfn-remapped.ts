/**
 * hva_to_pfn_remapped(): the frame behind an address of a VMA with VM_PFNMAP, for a page fault. get_user_pages() gives none, because the frame may have no
 * struct page, or one whose count means nothing.
 *
 *     before 5.13     a reference is taken, and given back when the fault is over: of a page with a count of 0 that frees it
 *     6.12            a reference is taken if there is one already; else the fault fails
 *     7.2             no reference
 *
 * What keeps the frame is that the driver unmaps it before it is used for anything else, which KVM is told of like any user.
 */
import { fetchAdd, type Steps } from "../engine/index.ts";
import { followPfn, putPage, tryGetPage, type UserPage } from "../kernel/index.ts";
import type { Hva, Pfn } from "../machine/index.ts";
import type { Kvm } from "./kvm.ts";

/** A page, and whether a reference on it has to be given back. */
export interface FaultinPage extends UserPage {
  readonly refcounted: boolean;
}

/** Null: there is no such VMA at the address, no frame, or none that may be mapped. */
export function* hvaToPfnRemapped(kvm: Kvm, addr: Hva, write: boolean): Steps<FaultinPage | null> {
  const { mm, variants } = kvm;
  if (!mm.hasPfnMaps) return null;
  const page = yield* followPfn(mm, addr, write);
  if (page === null) return null;
  if (kvm.lacks("pfn-mapped-page-without-refcount")) {
    yield* fetchAdd(mm.frames.refcountOf(page.pfn), 1, "get_page()");
    return { ...page, refcounted: true };
  }
  if (variants.kernel === "7.2") return { ...page, refcounted: false };
  return (yield* tryGetPage(mm.frames, page.pfn)) ? { ...page, refcounted: true } : null;
}

/** kvm_release_pfn_clean(), kvm_release_page_unused(): of a page that nothing was made of. */
export function* releaseUnused({ mm }: Kvm, frame: Pfn, refcounted: boolean): Steps<void> {
  if (refcounted) yield* putPage(mm.frames, frame);
}
