/**
 * What things cost in virtual time that no operation of the model stands for, in nanoseconds.
 *
 * The figures of the threads come first: they are what a reviewer knows. What a thread does not give is an order of magnitude measured elsewhere, and
 * says where. Every figure can be set from the command line: racewalk measure STUDY --cost "name=nanoseconds".
 */
import type { CostTable } from "../engine/index.ts";

export interface Cost {
  readonly nanoseconds: number;
  readonly source: string;
}

export const KVM_COSTS: Readonly<Record<string, Cost>> = {
  "look up a host page": {
    nanoseconds: 1_000,
    source: "get_user_pages_unlocked() of a present page: about 1 us (kernel's own gup_test, PIN_FAST off)",
  },
  "unmap on the host": {
    nanoseconds: 20_000,
    source: "start() to end() of a small madvise(MADV_DONTNEED) with a remote flush: 10-50 us on two sockets",
  },
  "zap a leaf": {
    nanoseconds: 45,
    source:
      "T5: about 7 s for the 2^27 4K leaves of 512 GiB, with write-back to struct page (before 6.13), is 52 ns each; 7 of them are the exchange, which is charged as a locked access",
  },
  "visit an entry": { nanoseconds: 1, source: "a step of the TDP iterator beside the load: a few instructions" },
  "visit it again": {
    nanoseconds: 0,
    source: "only counted: an earlier pass of the same zap was here; its time is that of a visit",
  },
  "RCU grace period": {
    nanoseconds: 10e6,
    source:
      "the shortest, without load: a few jiffies until quiescent states are looked for (RCU_JIFFIES_TILL_FORCE_QS)",
  },
  "free a table": {
    nanoseconds: 200,
    source: "free_page() of one page in an RCU callback: 100-300 ns",
  },
  "raise a softirq": {
    nanoseconds: 100,
    source: "from one softirq to the next on a CPU that has interrupts on: 0.1 us",
  },
  "wake ksoftirqd": { nanoseconds: 5_000, source: "from the wake-up of a thread until it runs: 2-10 us (cyclictest)" },
  "wake a worker": { nanoseconds: 5_000, source: "the same, of a kworker" },
  "send an IPI": { nanoseconds: 200, source: "a write of the ICR (x2APIC), for each CPU: 0.1-0.3 us" },
  "take an IPI": {
    nanoseconds: 1_000,
    source: "smp_call_function_single() to a running CPU: 1-2 us round trip, less what the sender does",
  },
  "flush a TLB": { nanoseconds: 500, source: "INVEPT/ASID flush at entry and refills: 0.2-1 us" },
  "leave and enter the guest": { nanoseconds: 1_200, source: "VM exit and entry with mitigations: 1-1.5 us" },
  "handle a page fault": {
    nanoseconds: 1_500,
    source: "KVM's part of an EPT/NPT violation without locks and look-up: about 1.5 us",
  },
};

/** The table of a simulation of KVM, with some costs replaced. */
export function kvmCosts(overrides: CostTable = {}): CostTable {
  const own = Object.fromEntries(Object.entries(KVM_COSTS).map(([name, { nanoseconds }]) => [name, nanoseconds]));
  return { ...own, ...overrides };
}
