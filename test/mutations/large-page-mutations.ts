/** Undoing what keeps large pages and write-protected tables from going round in circles: mutations as in mutations.ts. */
import type { Mutation } from "./mutations.ts";

const linux = { study: "lazy-large-spte", variant: "7.2" } as const;

export const LARGE_PAGE_MUTATIONS: readonly Mutation[] = [
  {
    name: "the place of the last retry is looked at",
    file: "kvm/mmu.ts",
    find: 'const looksAtPlace = failedEmulation === "report" || failedEmulation === "retry-once";',
    replace: 'const looksAtPlace = failedEmulation === "retry-once";',
    also: {
      find: "    writeToShadowPgtable = fault.writeFaultToShadowPgtable;\n",
      replace: "    writeToShadowPgtable = fault.addr < 0;\n",
    },
    ...linux,
    scenario: "seven-steps",
    caught: "progress",
  },
  {
    name: "a large SPTE in the way of a table is dropped",
    file: "kvm/shadow/fetch.ts",
    find: "if (!shadow.kvm.variants.largeMakesWay) {",
    replace: "if (shadow.kvm.variants.largeMakesWay) {",
    ...linux,
    scenario: "one-write",
    caught: "progress",
  },
  {
    name: "a fast page fault leaves large SPTEs alone where writes are logged",
    file: "kvm/fast-page-fault.ts",
    find: "if (mustSplit && !fixesLarge)",
    replace: "if (mustSplit && fixesLarge)",
    ...linux,
    scenario: "two-writes",
    caught: "final",
  },
  {
    name: "a table becomes unsync rather than be emulated",
    file: "kvm/shadow/unsync.ts",
    find: "if (prefetch || !shadow.kvm.variants.unsync) return false;",
    replace: "if (prefetch || shadow.kvm.variants.unsync) return false;",
    ...linux,
    scenario: "self-map-l1",
    caught: "final",
  },
];
