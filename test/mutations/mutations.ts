/**
 * Undoing what keeps KVM right, one thing at a time: for each, the study that must notice.
 *
 * A mutation is an edit of racewalk's own source: the model is changed as a patch to the kernel would change it, and the same studies are run.
 * What no study notices is not checked by anything.
 */

export interface Mutation {
  /** What is undone. */
  readonly name: string;
  /** In src/. */
  readonly file: string;
  /** Stands exactly once in the file. */
  readonly find: string;
  readonly replace: string;
  /** A second edit of the same file. */
  readonly also?: { readonly find: string; readonly replace: string };
  /** The study, and the cells of it to run. */
  readonly study: string;
  readonly variant: string;
  readonly scenario: string;
  /** The property that must fail where it held; or "none" for a failure that must vanish. */
  readonly caught: string;
}

export const MUTATIONS: readonly Mutation[] = [
  {
    name: "the retry check after re-taking gpc->lock",
    file: "kvm/gpc-protocols.ts",
    find: "return { pfn, usable: !(yield* mmuNotifierRetryCache(kvm, mmuSeq)) };",
    replace: "return { pfn, usable: mmuSeq >= 0 };",
    study: "gpc-refresh",
    variant: "D0",
    scenario: "use",
    caught: "isolation",
  },
  {
    name: "the active count is raised before the caches are invalidated",
    file: "kvm/gpc-protocols.ts",
    find: `    yield* spinLock(kvm.memslots.mnInvalidateLock);
    yield* countUp(kvm);
    yield* spinUnlock(kvm.memslots.mnInvalidateLock);
    yield* clearMatching(kvm, range, AT_START);
  },
  *invalidateEnd(kvm) {
    yield* spinLock(kvm.memslots.mnInvalidateLock);
    yield* countDown(kvm);`,
    replace: `    yield* clearMatching(kvm, range, AT_START);
    yield* spinLock(kvm.memslots.mnInvalidateLock);
    yield* countUp(kvm);
    yield* spinUnlock(kvm.memslots.mnInvalidateLock);
  },
  *invalidateEnd(kvm) {
    yield* spinLock(kvm.memslots.mnInvalidateLock);
    yield* countDown(kvm);`,
    study: "gpc-refresh",
    variant: "D0",
    scenario: "use",
    caught: "isolation",
  },
  {
    name: "the retry check reads the active count before the sequence",
    file: "kvm/gpc-protocols.ts",
    find: `  if ((yield* load(kvm.memslots.mnActiveInvalidateCount)) !== 0) return true;
  return (yield* load(kvm.mmuInvalidateSeq)) !== mmuSeq;`,
    replace: `  if ((yield* load(kvm.mmuInvalidateSeq)) !== mmuSeq) return true;
  return (yield* load(kvm.memslots.mnActiveInvalidateCount)) !== 0;`,
    study: "gpc-refresh",
    variant: "D0",
    scenario: "use",
    caught: "isolation",
  },
  {
    name: "invalidate_range_end() moves the sequence before it lowers the active count",
    file: "kvm/mmu-notifier.ts",
    find: `  void index;
  yield* gpcProtocol(kvm.variants.gpc).invalidateEnd(kvm, range);
}`,
    replace: `  void index;
}
function* endedFirst(kvm: Kvm, range: NotifierRange): Steps<void> {
  yield* gpcProtocol(kvm.variants.gpc).invalidateEnd(kvm, range);
  yield* kvmMmuNotifierInvalidateRangeEnd(kvm, range);
}`,
    also: {
      find: "invalidateRangeEnd: (range) => kvmMmuNotifierInvalidateRangeEnd(kvm, range)",
      replace: "invalidateRangeEnd: (range) => endedFirst(kvm, range)",
    },
    study: "gpc-refresh",
    variant: "D0",
    scenario: "use",
    caught: "isolation",
  },
  {
    name: "the stale check of the TDP fault under mmu_lock",
    file: "kvm/mmu.ts",
    find: "if (!isPageFaultStale(vcpu, fault)) result",
    replace: "if (vcpu.id >= 0 || !isPageFaultStale(vcpu, fault)) result",
    study: "tdp-fault",
    variant: "7.2",
    scenario: "unmap",
    caught: "isolation",
  },
  {
    name: "the remote flush before the notifier returns",
    file: "kvm/mmu-notifier.ts",
    find: "if (flush) yield*",
    replace: "if (flush && kvm.variants.faultsMax < 0) yield*",
    study: "tdp-fault",
    variant: "7.2",
    scenario: "unmap",
    caught: "isolation",
  },
  {
    name: "the compare-exchange of the atomic SPTE change",
    file: "kvm/tdp-mmu.ts",
    find: "const found = yield* compareExchange(sptep, oldSpte, newSpte);",
    replace: "yield* store(sptep, newSpte);\n  const found = oldSpte;",
    study: "tdp-fault",
    variant: "7.2",
    scenario: "two-maps",
    caught: "final",
  },
  {
    name: "the sequence is read before the frame is looked up",
    file: "kvm/mmu.ts",
    find: "  if (yield* mmuInvalidateRetryGfnUnsafe(kvm, fault.mmuSeq, fault.gfn)) {\n    yield* putPage",
    replace:
      "  fault.mmuSeq = yield* load(kvm.mmuInvalidateSeq);\n  if (yield* mmuInvalidateRetryGfnUnsafe(kvm, fault.mmuSeq, fault.gfn)) {\n    yield* putPage",
    study: "tdp-fault",
    variant: "7.2",
    scenario: "unmap",
    caught: "isolation",
  },
  {
    name: "a vCPU sets its mode before it reads its requests",
    file: "kvm/vcpu.ts",
    find: `  yield* store(vcpu.mode, IN_GUEST_MODE);
  // Leaving SRCU is a full barrier: the mode is visible before the requests are read.
  yield* srcuReadUnlock(kvm.srcu);
  const requested = (yield* load(vcpu.requests)) !== 0 || (yield* load(vcpu.mode)) !== IN_GUEST_MODE;`,
    replace: `  const early = (yield* load(vcpu.requests)) !== 0;
  yield* store(vcpu.mode, IN_GUEST_MODE);
  yield* srcuReadUnlock(kvm.srcu);
  const requested = early;`,
    study: "tdp-fault",
    variant: "7.2",
    scenario: "reenter",
    caught: "isolation",
  },
];
