/** Undoing what the concurrency scenarios of the TDP MMU rest on (docs/tdp-scenarios.md): retries, compare-exchanges, flushes and barriers. */
import type { Mutation } from "./mutations.ts";

const tdpFault = { study: "tdp-fault", variant: "7.2" } as const;
const hugePages = { study: "huge-pages", variant: "7.2" } as const;
const dirtyLog = { study: "dirty-log", variant: "7.2" } as const;

const flushWhenLoggingBegins = {
  file: "kvm/dirty-log.ts",
  find: `before the flush that it relies on.
  yield* flushRemoteTlbs(kvm);`,
  replace: `before the flush that it relies on.
  if (vm.vcpus.length === 0) yield* flushRemoteTlbs(kvm);`,
} as const;

const retryOfFrozen = {
  file: "kvm/tdp-map.ts",
  find: '    if (isFrozenSpte(tdp.layout, iter.oldSpte)) return "retry";\n',
  replace: "",
} as const;

export const SCENARIO_MUTATIONS: readonly Mutation[] = [
  {
    name: "a table that could not be linked is freed",
    file: "kvm/tdp-map.ts",
    find: "    yield* tdp.pages.free(sp);\n    return false;",
    replace: "    return false;",
    ...tdpFault,
    scenario: "two-maps",
    caught: "final",
  },
  {
    name: "who loses the compare-exchange of a leaf does not go on as if it had won",
    file: "kvm/tdp-mmu.ts",
    find: "  if (!sameU64(found, oldSpte)) {\n    iter.oldSpte = found;\n    return false;\n  }\n  yield* handle",
    replace: "  yield* handle",
    ...tdpFault,
    scenario: "same-page",
    caught: "final",
  },
  {
    name: "the full barrier between a vCPU's mode and its requests",
    file: "kvm/vcpu.ts",
    find: "  if (leavesLast) yield* srcuReadUnlock(kvm.srcu);\n  const requested",
    replace: "  const requested",
    ...tdpFault,
    scenario: "reenter",
    caught: "isolation",
  },
  {
    name: "the flush when logging begins: a huge page that the fault splits",
    ...flushWhenLoggingBegins,
    ...hugePages,
    scenario: "lazy-split",
    caught: "final",
  },
  {
    name: "the flush when logging begins: a huge page that is split eagerly",
    ...flushWhenLoggingBegins,
    ...hugePages,
    scenario: "eager-split",
    caught: "final",
  },
  {
    name: "a table that a huge page replaces is freed after a grace period",
    file: "kvm/tdp-mmu.ts",
    find: "  yield* callRcu(tdp.kvm.kernel.rcu, sp.addr, tdp.freeSpRcuCallback);",
    replace: "  yield* tdp.pages.free(sp);",
    ...hugePages,
    scenario: "recover",
    caught: "use-after-free",
  },
  {
    name: "a fault that finds a frozen entry tries again",
    ...retryOfFrozen,
    ...hugePages,
    scenario: "nx-empty",
    caught: "frozen-spte",
  },
  {
    name: "a table that 6.12 drops is frozen out until the TLBs are flushed",
    file: "kvm/tdp-recover.ts",
    find: "const found = yield* compareExchange(sptep, oldSpte, frozen);",
    replace: "const found = yield* compareExchange(sptep, oldSpte, nonPresent);",
    study: "huge-pages",
    variant: "6.12",
    scenario: "recover",
    caught: "final",
  },
  {
    name: "the flush after the log was cleared",
    file: "kvm/dirty-log.ts",
    find: "  if (flush) yield* flushRemoteTlbs(kvm);\n  return 0;",
    replace: "  return flush && vm.vcpus.length === 0 ? 2 : 0;",
    ...dirtyLog,
    scenario: "clear",
    caught: "final",
  },
  {
    name: "only the bits that userspace names are cleared",
    file: "kvm/dirty-log.ts",
    find: "yield* fetchAnd(word, u64(~wanted.hi, ~wanted.lo))",
    replace: "yield* exchange(word, U64_ZERO)",
    ...dirtyLog,
    scenario: "clear-protected",
    caught: "final",
  },
  {
    name: "the bits are cleared before W is taken, in KVM_CLEAR_DIRTY_LOG too",
    file: "kvm/dirty-log.ts",
    find: `yield* fetchAnd(word, u64(~wanted.hi, ~wanted.lo)));
    if (isEmpty(mask)) continue;
    flush = true;
    yield* kvmArchMmuEnableLogDirtyPtMasked(vm, slot, first + i * BITS_PER_LONG, mask);`,
    replace: `yield* load(word));
    if (isEmpty(mask)) continue;
    flush = true;
    yield* kvmArchMmuEnableLogDirtyPtMasked(vm, slot, first + i * BITS_PER_LONG, mask);
    yield* fetchAnd(word, u64(~wanted.hi, ~wanted.lo));`,
    ...dirtyLog,
    scenario: "clear",
    caught: "final",
  },
  {
    name: "a fast page fault changes the entry only if it is still what it has read",
    file: "kvm/fast-page-fault.ts",
    find: "  const found = yield* compareExchange(sptep, oldSpte, newSpte);",
    replace: "  yield* store(sptep, newSpte);\n  const found = oldSpte;",
    also: {
      find: "import { type Cell, compareExchange, load,",
      replace: "import { type Cell, compareExchange, store, load,",
    },
    study: "aging",
    variant: "7.2-no-ad",
    scenario: "zap",
    caught: "final",
  },
];
