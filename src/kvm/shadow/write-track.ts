/**
 * A frame that has a shadow page of its table may not be written behind KVM's back.
 *
 *     upper tables    are write-tracked: every write faults and is emulated
 *     last tables     may be written freely once their shadow pages are unsync (unsync.ts); until then they are write-protected
 *
 * Either way no huge mapping may cover the frame. The order matters to a guest that writes the table at the same time: the count goes up and W
 * goes away first; then the fault reads the guest's entry again (gpte_changed()). Stands for account_shadowed(), unaccount_shadowed(),
 * __kvm_write_track_add_gfn() of 6.12 and 7.2.
 */
import { assertThat, fence, load, type Steps, store } from "../../engine/index.ts";
import { PG_LEVEL_4K } from "../../machine/index.ts";
import { gfnToMemslot } from "../memslots.ts";
import { kvmFlushRemoteTlbs } from "../requests.ts";
import { type ShadowPage, spGfn, spLevel } from "./page.ts";
import type { ShadowMmu } from "./shadow-mmu.ts";
import { kvmMmuGfnDisallowLpage, updateGfnWriteTrack } from "./slot-arch.ts";
import { kvmMmuSlotGfnWriteProtect } from "./spte-change.ts";

/** account_shadowed() */
export function* accountShadowed(shadow: ShadowMmu, sp: ShadowPage): Steps<void> {
  const gfn = spGfn(sp);
  yield* store(shadow.indirectShadowPages, shadow.indirectShadowPages.value + 1);
  // Pairs with the barrier of who has written guest memory: one of the two sees the other.
  if (shadow.kernel === "7.2") yield* fence(shadow.world);
  const slot = yield* gfnToMemslot(shadow.kvm.memslots, gfn);
  assertThat(slot !== null, "a shadow page of a frame in no memslot", "shadow-page-in-memslot");
  const tracked = spLevel(sp) > PG_LEVEL_4K;
  if (tracked) yield* updateGfnWriteTrack(shadow, slot, gfn, 1);
  kvmMmuGfnDisallowLpage(shadow, slot, gfn, 1);
  if (yield* kvmMmuSlotGfnWriteProtect(shadow, slot, gfn, PG_LEVEL_4K)) yield* kvmFlushRemoteTlbs(shadow.vm);
}

/** unaccount_shadowed(): writable mappings come back as faults ask for them. */
export function* unaccountShadowed(shadow: ShadowMmu, sp: ShadowPage): Steps<void> {
  const gfn = spGfn(sp);
  yield* store(shadow.indirectShadowPages, (yield* load(shadow.indirectShadowPages)) - 1);
  const slot = yield* gfnToMemslot(shadow.kvm.memslots, gfn);
  if (slot === null) return;
  if (spLevel(sp) > PG_LEVEL_4K) yield* updateGfnWriteTrack(shadow, slot, gfn, -1);
  kvmMmuGfnDisallowLpage(shadow, slot, gfn, -1);
}
