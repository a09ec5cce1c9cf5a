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
    name: "the retry check of a fault of the shadow MMU",
    file: "kvm/shadow/fault.ts",
    find: "return isFrameStale(shadow.kvm, fault);",
    replace: "return false;",
    study: "shadow-fault",
    variant: "7.2",
    scenario: "unmap",
    caught: "isolation",
  },
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
    find: "const found = yield* compareExchangeEntry(tdp.world, sptepAddr, oldSpte, newSpte);",
    replace: "yield* storeEntry(tdp.world, sptepAddr, newSpte);\n  const found = oldSpte;",
    study: "tdp-fault",
    variant: "7.2",
    scenario: "two-maps",
    caught: "final",
  },
  {
    name: "the sequence is read before the frame is looked up",
    file: "kvm/mmu.ts",
    find: "  if (yield* mmuInvalidateRetryGfnUnsafe(kvm, fault.mmuSeq, fault.gfn)) {\n    yield* releaseUnused",
    replace:
      "  fault.mmuSeq = yield* load(kvm.mmuInvalidateSeq);\n  if (yield* mmuInvalidateRetryGfnUnsafe(kvm, fault.mmuSeq, fault.gfn)) {\n    yield* releaseUnused",
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
  if (leavesLast) yield* srcuReadUnlock(kvm.srcu);
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
  {
    name: "a fast page fault marks the page after it has given W back",
    file: "kvm/fast-page-fault.ts",
    find: "  const found = yield* compareExchange(sptep, oldSpte, newSpte);",
    replace: `  if (fault.slot !== null) yield* markPageDirtyInSlot(vcpu.vm.kvm, fault.slot, fault.gfn, vcpu.dirtyRing);
  const found = yield* compareExchange(sptep, oldSpte, newSpte);`,
    also: {
      find: "if (isWritablePte(newSpte) && !isWritablePte(oldSpte) && fault.slot !== null) {",
      replace: "if (fault.addr < 0 && isWritablePte(newSpte) && fault.slot !== null) {",
    },
    study: "dirty-log",
    variant: "7.2",
    scenario: "protected",
    caught: "final",
  },
  {
    name: "the flush before a log is handed out",
    file: "kvm/dirty-log.ts",
    find: "  if (flush) yield* flushRemoteTlbs(kvm);\n  return log;",
    replace: "  return flush ? log : log;",
    study: "dirty-log",
    variant: "7.2",
    scenario: "writable",
    caught: "final",
  },
  {
    name: "the bits of the log are cleared before W is taken",
    file: "kvm/dirty-log.ts",
    find: `    const mask = yield* exchange(word, U64_ZERO);
    log[i] = mask;
    yield* kvmArchMmuEnableLogDirtyPtMasked(vm, slot, i * BITS_PER_LONG, mask);`,
    replace: `    yield* kvmArchMmuEnableLogDirtyPtMasked(vm, slot, i * BITS_PER_LONG, seen);
    log[i] = yield* exchange(word, U64_ZERO);`,
    study: "dirty-log",
    variant: "7.2",
    scenario: "writable",
    caught: "final",
  },
  {
    name: "make_spte() marks the page that becomes writable",
    file: "kvm/tdp-map.ts",
    find: "  if (isWritablePte(spte) && kvmSlotDirtyTrackEnabled(slot)) {",
    replace: "  if (fault.addr < 0 && isWritablePte(spte) && kvmSlotDirtyTrackEnabled(slot)) {",
    study: "dirty-log",
    variant: "7.2",
    scenario: "first-touch",
    caught: "final",
  },
  {
    name: "the flush when dirty logging begins",
    file: "kvm/dirty-log.ts",
    find: "  yield* flushRemoteTlbs(kvm);\n}",
    replace: "}",
    study: "dirty-log",
    variant: "7.2",
    scenario: "begin",
    caught: "final",
  },
  {
    name: "the flush after a dirty ring was reset",
    file: "kvm/dirty-ring.ts",
    find: "  if (cleared > 0 && kvm.arch !== null) yield* kvm.arch.flushRemoteTlbs();\n",
    replace: "",
    study: "dirty-log",
    variant: "7.2",
    scenario: "ring",
    caught: "final",
  },
  {
    name: "the CPU's log is marked at every exit, and not only where the guest cannot go on",
    file: "kvm/vcpu.ts",
    find: "  if (guest.pml.entries.length > 0) yield*",
    replace: '  if (guest.pml.entries.length > 0 && exit?.kind !== "interrupt" && exit?.kind !== "done") yield*',
    study: "dirty-log",
    variant: "7.2-pml",
    scenario: "writable",
    caught: "final",
  },
  {
    name: "the flush after D was cleared",
    file: "kvm/dirty-log.ts",
    find: "  if (flush) yield* flushRemoteTlbs(kvm);\n  return log;",
    replace: "  return flush ? log : log;",
    study: "dirty-log",
    variant: "7.2-pml",
    scenario: "writable",
    caught: "final",
  },
  {
    name: "lockless aging changes an entry only if it is still what was read",
    file: "kvm/aging.ts",
    find: "  const found = yield* compareExchange(sptep, oldSpte, newSpte);",
    replace: "  yield* store(sptep, newSpte);\n  const found = oldSpte;",
    study: "aging",
    variant: "7.2",
    scenario: "zap",
    caught: "final",
  },
  {
    name: "the same without A/D bits",
    file: "kvm/aging.ts",
    find: "  const found = yield* compareExchange(sptep, oldSpte, newSpte);",
    replace: "  yield* store(sptep, newSpte);\n  const found = oldSpte;",
    study: "aging",
    variant: "7.2-no-ad",
    scenario: "zap",
    caught: "final",
  },
  {
    name: "a fast page fault on an access-tracked entry sets the software A bit",
    file: "kvm/fast-page-fault.ts",
    find: 'const accessed = layout.kernel === "7.2" ? layout.accessed : layout.read;',
    replace: "const accessed = layout.read;",
    study: "aging",
    variant: "7.2-no-ad",
    scenario: "access",
    caught: "final",
  },
  {
    name: "clear_flush_young flushes, in 6.12",
    file: "kvm/mmu-notifier.ts",
    find: "if (range.flush && young) yield* arch.flushRemoteTlbs();",
    replace: "",
    study: "aging",
    variant: "6.12",
    scenario: "cached",
    caught: "final",
  },
  {
    name: "mmu_lock is held for aging, in 6.12 without A/D bits",
    file: "kvm/mmu-notifier.ts",
    find: 'const locked = kvm.variants.kernel === "6.12";',
    replace: "const locked = range.start < 0;",
    study: "aging",
    variant: "6.12-no-ad",
    scenario: "zap",
    caught: "lock-not-held",
  },
  {
    name: "a huge page is not made writable by a fast page fault while its slot is logged",
    file: "kvm/fast-page-fault.ts",
    find: "const mustSplit = level > PG_LEVEL_4K && fault.slot !== null",
    replace: "const mustSplit = level > 9 && fault.slot !== null",
    study: "huge-pages",
    variant: "7.2",
    scenario: "split-log",
    caught: "final",
  },
  {
    name: "a split table is linked only over the entry that it was filled from",
    file: "kvm/tdp-mmu.ts",
    find: "const found = yield* compareExchangeEntry(tdp.world, sptepAddr, oldSpte, newSpte);",
    replace: "yield* storeEntry(tdp.world, sptepAddr, newSpte);\n  const found = oldSpte;",
    study: "huge-pages",
    variant: "7.2",
    scenario: "split-twice",
    caught: "final",
  },
  {
    name: "the entries of a removed table are frozen",
    file: "kvm/tdp-mmu.ts",
    find: "oldSpte = yield* exchangeEntry(tdp.world, sptep, frozen);",
    replace: "oldSpte = yield* exchangeEntry(tdp.world, sptep, tdp.layout.nonPresent);",
    study: "huge-pages",
    variant: "7.2",
    scenario: "nx-empty",
    caught: "final",
  },
  {
    name: "a table that was unlinked meanwhile is not listed for NX recovery",
    file: "kvm/tdp-map.ts",
    find: "if (!isUnlinked || tdp.kvm.lacks",
    replace: "if (isUnlinked || !isUnlinked || tdp.kvm.lacks",
    study: "huge-pages",
    variant: "7.2",
    scenario: "nx-recover",
    caught: "final",
  },
  {
    name: "a table that is unlinked leaves the list of NX recovery",
    file: "kvm/tdp-mmu.ts",
    find: "  yield* tdpMmuUnlinkSp(tdp, sp);\n",
    replace: "",
    study: "huge-pages",
    variant: "7.2",
    scenario: "nx-recover",
    caught: "final",
  },
  {
    name: "fork() tells secondary users that pages are write-protected",
    file: "kernel/mm/fork.ts",
    find: "    yield* notifyStart(mm, range);\n",
    replace: "",
    also: { find: "    yield* notifyEnd(mm, range);\n", replace: "" },
    study: "host-mm",
    variant: "7.2",
    scenario: "fork",
    caught: "final",
  },
  {
    name: "KSM write-protects a page for secondary users too, before it compares",
    file: "kernel/mm/ksm.ts",
    find: "  yield* notifyStart(mm, range);\n  yield* spinLock(mm.pageTableLock);\n  const cell",
    replace: "  yield* spinLock(mm.pageTableLock);\n  const cell",
    also: { find: "  yield* notifyEnd(mm, range);\n  return isAlone", replace: "  return isAlone" },
    study: "host-mm",
    variant: "7.2",
    scenario: "ksm",
    caught: "final",
  },
  {
    name: "a fault that copied the page itself retries",
    file: "kernel/mm/fault.ts",
    find: `  if (isLast) yield* revokeFrame(frames, oldFrame, "copy on write");`,
    replace: `  yield* notifyEnd(mm, range);\n  if (isLast) yield* revokeFrame(frames, oldFrame, "copy on write");`,
    also: {
      find: "  if (isSame && !isZero) yield* putPage(frames, oldFrame);\n  yield* notifyEnd(mm, range);",
      replace: "  if (isSame && !isZero) yield* putPage(frames, oldFrame);",
    },
    study: "host-mm",
    variant: "7.2",
    scenario: "cow",
    caught: "isolation",
  },
  {
    name: "KSM replaces only the entry that it has compared",
    file: "kernel/mm/ksm.ts",
    find: "const isSame = (yield* load(mm.pteOf(addr))) === old;",
    replace: "const isSame = (yield* load(mm.pteOf(addr))) !== 0;",
    study: "host-mm",
    variant: "7.2",
    scenario: "ksm",
    caught: "final",
  },
  {
    name: "a page is written to swap after its mappings are gone",
    file: "kernel/mm/madvise.ts",
    find: "  yield* notifyStart(mm, range);\n  if (mm.frames.folioPages(frame)",
    replace: "  if (mm.frames.folioPages(frame)",
    also: {
      find: "  yield* notifyEnd(mm, range);\n  yield* putPage(mm.frames, frame);",
      replace: "  yield* putPage(mm.frames, frame);",
    },
    study: "host-mm",
    variant: "7.2",
    scenario: "swap",
    caught: "final",
  },
];
