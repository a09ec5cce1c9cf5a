/** Undoing what keeps lockless aging over reverse maps right: mutations as in mutations.ts. */
import type { Mutation } from "./mutations.ts";

const a7 = { study: "lockless-aging", variant: "A7" } as const;
const a7NoAd = { study: "lockless-aging", variant: "A7-no-ad" } as const;

export const RMAP_MUTATIONS: readonly Mutation[] = [
  {
    name: "pte_list_add() takes the lock bit",
    file: "kvm/shadow/rmap.ts",
    find: "options.addsUnlocked === true ? UNLOCKED : options",
    replace: "UNLOCKED",
    ...a7,
    scenario: "add",
    caught: "final",
  },
  {
    name: "pte_list_remove() takes the lock bit",
    file: "kvm/shadow/rmap.ts",
    find: '  const value = yield* rmapLock(head, options);\n  assertThat(value !== 0, "an SPTE',
    replace: '  const value = (yield* load(head)) & ~LOCKED;\n  assertThat(value !== 0, "an SPTE',
    ...a7,
    scenario: "zap",
    caught: "final",
  },
  {
    name: "kvm_zap_all_rmap_sptes() takes the lock bit",
    file: "kvm/shadow/rmap.ts",
    find: "  const value = yield* rmapLock(head, options);\n  const found",
    replace: "  const value = (yield* load(head)) & ~LOCKED;\n  const found",
    ...a7,
    scenario: "many",
    caught: "final",
  },
  {
    name: "preemption is off while aging holds the lock bit",
    file: "kvm/shadow/age-designs.ts",
    find: "const LINUX: Design = { preemptible: false,",
    replace: "const LINUX: Design = { preemptible: true,",
    ...a7,
    scenario: "one-cpu",
    caught: "deadlock",
  },
  {
    name: "rights are put away only from an entry that is still what was read: against its zap",
    file: "kvm/shadow/age-designs.ts",
    find: 'lock: "held", rechecks: false, withoutAd: "compare-exchange" };',
    replace: 'lock: "held", rechecks: false, withoutAd: "store" };',
    ...a7NoAd,
    scenario: "munmap",
    caught: "final",
  },
  {
    name: "the same against write protection",
    file: "kvm/shadow/age-designs.ts",
    find: 'lock: "held", rechecks: false, withoutAd: "compare-exchange" };',
    replace: 'lock: "held", rechecks: false, withoutAd: "store" };',
    ...a7NoAd,
    scenario: "shadowing",
    caught: "final",
  },
];
