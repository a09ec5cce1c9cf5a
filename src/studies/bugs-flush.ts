/**
 * bugs-flush: TLB flushes that Linux once missed.
 *
 * Tasks: vcpu0 runs a guest that uses what it has cached, vmm begins logging, first and second are invalidations, nx is a round of NX
 * recovery, rcu frees tables, irq0 is the CPU's interrupt handler.
 */
import { awaitUntil, type Steps } from "../engine/index.ts";
import { MMU_NOTIFY_CLEAR, notifyStart, revokeFrame, writeLock, writeUnlock } from "../kernel/index.ts";
import { kvmMmuFreeRoots } from "../kvm/mmu-roots.ts";
import { kvmRecoverNxHugePages } from "../kvm/nx-huge.ts";
import { kvmFlushRemoteTlbs } from "../kvm/requests.ts";
import { gfn, touch } from "../machine/index.ts";
import type { Copies } from "../oracle/dirty-log.ts";
import { clearYoung } from "./aging.ts";
import { type BugScenario, bugStudy, onTdp } from "./bug-cells.ts";
import { beginAndCopy, check, write } from "./dirty-log.ts";
import { execute, FRAMES_USED, HUGE, run } from "./huge-pages.ts";
import { hostPage, runGuest, type TdpScene } from "./tdp-scene.ts";

const FRAMES = 2;
const read0 = touch(0, "read");

/** The host ages the page, and the VMM begins logging: one after the other, so no race of theirs. */
function* ageAndBegin(scene: TdpScene): Steps<Copies> {
  yield* clearYoung(scene, false);
  return yield* beginAndCopy(scene);
}

/**
 * The vCPU goes on as a guest of its guest: in a new root, which comes first on the list, and has page 0. The old one, which nobody uses, has page 1
 * only.
 */
function* enterNested({ vm }: TdpScene): Steps<void> {
  const vcpu = vm.vcpus[0] as (typeof vm.vcpus)[number];
  yield* kvmMmuFreeRoots(vcpu);
  vcpu.guestMode = true;
  yield* runGuest(vm, 0, [read0]);
}

/** When the other invalidation has begun: the part of one of page 0 that holds mmu_lock; then the host frees the page. */
function* takePage0({ mm, vm }: TdpScene): Steps<void> {
  const { mmuLock, mmuInvalidateInProgress } = vm.kvm;
  yield* awaitUntil(mmuInvalidateInProgress, (count) => count > 0, "(the first invalidation has begun)");
  yield* writeLock(mmuLock);
  if (yield* vm.ops.unmapGfnRange({ start: gfn(0), end: gfn(1) })) yield* kvmFlushRemoteTlbs(vm);
  yield* writeUnlock(mmuLock);
  const frame = mm.frameAt(hostPage(0));
  if (frame !== null) yield* revokeFrame(mm.frames, frame, "MADV_DONTNEED");
}

const SCENARIOS: readonly BugScenario[] = [
  {
    ...onTdp("enable", {
      frames: FRAMES,
      variants: { paging: "ept-no-ad", gfnEnd: FRAMES },
      guests: [[write(0, 2), write(0, 3)]],
      warm: [0],
      threads: { vmm: ageAndBegin },
      check,
    }),
    property: "final",
    models: ["sc", "tso"],
    because: "TLBs are flushed whether or not an entry has changed",
    without: {
      "dirty-log-enable-skips-flush": {
        because: "aging has taken W away without a flush, so logging finds nothing to protect; the TLB still has it",
      },
    },
  },
  {
    ...onTdp("two-roots", {
      frames: FRAMES,
      variants: { yields: true, gfnEnd: FRAMES, faultsMax: 1 },
      guests: [[read0, read0]],
      warm: [1],
      prepare: enterNested,
      threads: {
        first: ({ mm }) => notifyStart(mm, { start: hostPage(0), end: hostPage(FRAMES), event: MMU_NOTIFY_CLEAR }),
        second: takePage0,
      },
    }),
    property: "isolation",
    models: ["sc"],
    because: "what was zapped in one root is flushed before mmu_lock is dropped in the next one",
    without: {
      "yield-drops-flush-of-previous-root": {
        because: "mmu_lock is dropped in the second root; an invalidation finds the page unmapped, and goes on",
      },
    },
  },
  {
    ...onTdp("nx-recovery", {
      ...HUGE,
      variants: { gfnEnd: FRAMES_USED },
      guests: [[touch(1, "read")]],
      params: { nxHugePages: true, nxHugePagesRecoveryRatio: 1 },
      prepare: ({ vm }) => run(vm, [execute(0)]),
      threads: { nx: ({ vm }) => kvmRecoverNxHugePages(vm.tdp) },
      rcu: true,
    }),
    property: "use-after-free",
    models: ["sc", "tso"],
    because: "a vCPU has left the guest, and with it its walk, before the table's grace period can end",
    without: {
      "nx-recovery-forgets-tdp-flush": {
        because: "the walker has read the entry above, and goes on in a table that is freed",
      },
    },
  },
];

export default bugStudy({
  id: "bugs-flush",
  title: "TLB flushes that were missed: found without their fixes, absent with them?",
  scenarios: SCENARIOS,
});
