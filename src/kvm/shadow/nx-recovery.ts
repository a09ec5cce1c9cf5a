/**
 * Recovery of huge pages that were split because they may not be executable: every so often the oldest shadow pages that stand in for them are zapped,
 * and the next access maps the huge page again, without execution.
 *
 * Pages of slots whose writes are logged are only taken off the list: what is mapped there is 4K anyway. Stands for kvm_recover_nx_huge_pages() of
 * 6.12 and 7.2, for shadow pages.
 */
import type { Steps } from "../../engine/index.ts";
import { listEntries, srcuReadLock, srcuReadUnlock, writeLock, writeUnlock } from "../../kernel/index.ts";
import { kvmSlotDirtyTrackEnabled } from "../huge-page.ts";
import { gfnToMemslot } from "../memslots.ts";
import { unaccountShadowNxHugePage } from "./nx-pages.ts";
import { spGfn } from "./page.ts";
import type { ShadowMmu } from "./shadow-mmu.ts";
import { commitZapPage, type InvalidList, prepareZapPage } from "./zap.ts";

/** One round: as many pages as the ratio says, the oldest first. */
export function* recoverShadowNxHugePages(shadow: ShadowMmu): Steps<void> {
  const { kvm } = shadow;
  const ratio = kvm.params.nxHugePagesRecoveryRatio;
  const list: InvalidList = [];
  yield* srcuReadLock(kvm.srcu);
  yield* writeLock(kvm.mmuLock);
  const waiting = [...listEntries(shadow.world, shadow.possibleNxHugePages)];
  const wanted = ratio === 0 ? 0 : Math.ceil(waiting.length / ratio);
  for (let left = wanted; left > 0; left--) {
    const [link] = listEntries(shadow.world, shadow.possibleNxHugePages);
    if (link === undefined) break;
    const sp = shadow.pages.ofNxLink(link);
    const slot = yield* gfnToMemslot(kvm.memslots, spGfn(sp));
    if (slot !== null && kvmSlotDirtyTrackEnabled(slot)) unaccountShadowNxHugePage(shadow, sp);
    else yield* prepareZapPage(shadow, sp, list);
  }
  yield* commitZapPage(shadow, list);
  yield* writeUnlock(kvm.mmuLock);
  yield* srcuReadUnlock(kvm.srcu);
}
