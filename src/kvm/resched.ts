/**
 * Giving mmu_lock away in the middle of long work: need_resched(), rwlock_needbreak(), cond_resched_rwlock_write().
 *
 * Whether somebody waits is what the clock says; where there is none, an exploration looks at both answers (KvmVariants.yields).
 */
import { choose, type Steps } from "../engine/index.ts";
import { writeLock, writeUnlock } from "../kernel/index.ts";
import type { Kvm } from "./kvm.ts";

/** need_resched() || rwlock_needbreak(): as the clock has it; where there is none, either may be. */
export function* needsResched({ world, mmuLock }: Kvm): Steps<boolean> {
  const { clock } = world;
  if (clock === null) return (yield* choose(world, 2)) === 1;
  return clock.needsResched() || clock.isContended(mmuLock.addr);
}

/** cond_resched_rwlock_write(), when it does: others have had the lock, and everything may be different. */
export function* yieldWriteLock(kvm: Kvm): Steps<void> {
  yield* writeUnlock(kvm.mmuLock);
  yield* writeLock(kvm.mmuLock);
  kvm.world.clock?.rescheduled();
}
