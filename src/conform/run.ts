/**
 * What one execution of a workload produced: by real KVM, as recorded, or by a model.
 *
 * This is the comparator's input on both sides. A model prints the events that KVM prints, in KVM's own words; it need not print probes
 * (function entries), which are not compared, but may.
 */
import type { HostLayout } from "./host-layout.ts";

/** One line of a trace, without its time and place. */
export interface EventLine {
  /** The thread: `vcpu0`, `vmm` (the VMM's main thread), `hostop` (a parallel host operation), or one of the kernel's own. */
  readonly task: string;
  readonly event: string;
  /** Exactly what the kernel prints after `event: `. */
  readonly text: string;
}

/** Values after an operation, by the kernel's names. */
export interface Stats {
  readonly vm: Readonly<Record<string, number>>;
  readonly vcpu: readonly Readonly<Record<string, number>>[];
}

/** What an operation returned, in the words of stats.json: `end`, `rax`, `cr2`, `rc`. */
export type OperationResult = Readonly<Record<string, string | number | readonly (readonly number[])[]>>;

export interface OperationRun {
  /** From the operation's begin to the next one's. */
  readonly events: readonly EventLine[];
  readonly stats: Stats;
  /** Remote TLB flushes asked for (calls of kvm_flush_remote_tlbs(), range flushes included). */
  readonly flushes: number;
  /** One for each member of a parallel operation; one otherwise. Left out where nobody looks. */
  readonly results?: readonly OperationResult[];
}

export interface WorkloadRun {
  readonly setup: readonly EventLine[];
  readonly operations: readonly OperationRun[];
  /** After the last operation: the VM goes away. */
  readonly teardown: readonly EventLine[];
  /** Where this run has the workload's memory on the host; left out, it is taken from the markers in `setup`, or from the other run. */
  readonly layout?: HostLayout;
}

/** The probe that counts as one flush; a range flush calls it too. */
export const FLUSH_PROBE = "flush_remote_tlbs";
