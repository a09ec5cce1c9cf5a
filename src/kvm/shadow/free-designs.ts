/**
 * How shadow pages are freed once they are unlinked and TLBs are flushed: Linux's way, and those of the 2013 thread on lockless walks by threads
 * that are no vCPU.
 *
 *   sync            Linux: at once. The flush has interrupted every vCPU that walks; nobody else may walk.
 *   flagged         by call_rcu() while a walker has set kvm->arch.rcu_free_shadow_page, at once otherwise (the proposal).
 *   rcu             always by call_rcu(), as the TDP MMU does.
 *   ipi-all         at once, after an interrupt to every CPU: a walker with interrupts off is waited for, whoever it is.
 *   capped-sync     by call_rcu() while less than the cap wait; beyond it synchronize_rcu(), under mmu_lock.
 *   capped-spin     the same, but spinning until a grace period is over: legal where nobody may sleep.
 *   capped-parked   by call_rcu() while less than the cap wait; beyond it on a list, from which they follow one another.
 *
 * Source: LKML, M. Tosatti to X. Guangrong, 2013-10-07, "KVM: MMU: allow locklessly access shadow pagetable out of vcpu thread".
 */
import { assertThat, fetchAdd, load, type Steps, store } from "../../engine/index.ts";
import { callRcu, current, spinLock, spinUnlock, synchronizeRcu } from "../../kernel/index.ts";
import { interruptAndWait } from "../../machine/index.ts";
import type { ShadowPage } from "./page.ts";
import type { ShadowMmu } from "./shadow-mmu.ts";

/** kvm_mmu_commit_zap_page(), its end. mmu_lock held for write. */
export function* freeShadowPages(shadow: ShadowMmu, pages: readonly ShadowPage[]): Steps<void> {
  const { shadowFree } = shadow.kvm.variants;
  shadow.world.clock?.gauge("unlinked pages", pages.length);
  switch (shadowFree) {
    case "sync":
      return yield* freeAll(shadow, pages);
    case "ipi-all": {
      const self = current(shadow.world).cpu;
      const { interrupts } = shadow.vm;
      const others = Array.from({ length: interrupts.cpus }, (_, cpu) => cpu).filter((cpu) => cpu !== self);
      yield* interruptAndWait(interrupts, self, others);
      return yield* freeAll(shadow, pages);
    }
    case "flagged":
      if ((yield* load(shadow.rcuFreeShadowPage)) === 0) return yield* freeAll(shadow, pages);
      break;
    default:
      break;
  }
  for (const sp of pages) yield* queue(shadow, sp);
}

function* freeAll(shadow: ShadowMmu, pages: readonly ShadowPage[]): Steps<void> {
  for (const sp of pages) yield* freePage(shadow, sp);
}

function* freePage(shadow: ShadowMmu, sp: ShadowPage): Steps<void> {
  shadow.world.clock?.gauge("unlinked pages", -1);
  yield* shadow.pages.free(sp);
}

/** Hands a page over to RCU. */
function* queue(shadow: ShadowMmu, sp: ShadowPage): Steps<void> {
  const { kvm, rcuPending, rcuParked } = shadow;
  const { shadowFree, shadowFreeCap } = kvm.variants;
  const pending = yield* load(rcuPending);
  if (pending >= shadowFreeCap) {
    if (shadowFree === "capped-sync" || shadowFree === "capped-spin") {
      if (shadowFree === "capped-sync") yield* synchronizeRcu(kvm.kernel.rcu);
      else yield* kvm.kernel.rcu.gracePeriod("poll_state_synchronize_rcu()");
      yield* freePage(shadow, sp);
      return;
    }
    if (shadowFree === "capped-parked") {
      yield* spinLock(shadow.rcuParkedLock);
      // The link that the page had on active_mmu_pages is free for this.
      sp.link(0).value = yield* load(rcuParked);
      yield* store(rcuParked, sp.addr);
      yield* spinUnlock(shadow.rcuParkedLock);
      return;
    }
  }
  yield* fetchAdd(rcuPending, 1);
  yield* callRcu(kvm.kernel.rcu, sp.addr, shadow.freePagesRcu);
}

/** free_pages_rcu(): the page's grace period is over. With a cap, a parked page follows it: its own grace period begins only now. */
export function* freePagesRcu(shadow: ShadowMmu, addr: number): Steps<void> {
  const { rcuPending, rcuParked, kvm } = shadow;
  yield* spinLock(shadow.rcuParkedLock);
  yield* freePage(shadow, shadow.pages.at(addr));
  const next = yield* load(rcuParked);
  if (next === 0) yield* fetchAdd(rcuPending, -1);
  else yield* store(rcuParked, shadow.pages.at(next).link(0).value);
  yield* spinUnlock(shadow.rcuParkedLock);
  if (next !== 0) yield* callRcu(kvm.kernel.rcu, next, shadow.freePagesRcu);
}

/** How many unlinked pages RCU has to keep may not grow with the length of a grace period. For scenarios. */
export function* assertBacklog(shadow: ShadowMmu, most: number): Steps<void> {
  const pending = yield* load(shadow.rcuPending);
  assertThat(pending <= most, `${pending} shadow pages wait for a grace period, more than ${most}`, "bounds");
}

/** I2: nor may the number of all that are unlinked and not freed, those included that wait on the list. For scenarios. */
export function* assertMemory(shadow: ShadowMmu, most: number): Steps<void> {
  yield* spinLock(shadow.rcuParkedLock);
  let pages = yield* load(shadow.rcuPending);
  for (let at = yield* load(shadow.rcuParked); at !== 0; at = shadow.pages.at(at).link(0).value) pages++;
  yield* spinUnlock(shadow.rcuParkedLock);
  assertThat(pages <= most, `${pages} shadow pages are unlinked and not freed, more than ${most}`, "memory");
}
