/**
 * What each host operation of a workload does to the model: a table from its name to code.
 *
 * An operation that is only the host mm's business (madvise, mremap) needs nothing here but its place in the table: its notifier calls are
 * replayed after it. One that is not in the table is reported as not modelled, and the run goes on.
 */
import type { Steps } from "../engine/index.ts";
import type { Vm } from "../kvm/vm.ts";
import type { Hva } from "../machine/index.ts";
import type { HostFollower } from "./host-follower.ts";
import type { HostOperation } from "./operation.ts";
import type { Workload } from "./workload.ts";

/** What an operation may use of the machine that runs the workload. */
export interface OperationMachine {
  readonly workload: Workload;
  readonly vm: Vm;
  /** Null: there is no recording. */
  readonly follower: HostFollower | null;
  /** Runs one thread to its end. @param task `vmm`, `hostop`, `vcpu0` */
  sequentially<T>(task: string, steps: () => Steps<T>): T;
  /** Host addresses of part of a memory. */
  rangeOf(operation: { readonly mem: number; readonly offset: number; readonly len: number | null }): {
    readonly start: Hva;
    readonly end: Hva;
  };
}

type Named<Name extends HostOperation["host"]> = Extract<HostOperation, { readonly host: Name }>;

/** @param task the thread that does it */
type Code<Name extends HostOperation["host"]> = (
  machine: OperationMachine,
  operation: Named<Name>,
  task: string,
) => void;

const nothing = (): void => {};

const HOST_OPERATIONS: { readonly [Name in HostOperation["host"]]?: Code<Name> } = {
  poke: nothing,
  poke_ret: nothing,
  peek: nothing,
  touch: nothing,
  madvise: (machine, operation) => {
    if (operation.advice !== "dontneed") return;
    const { start, end } = machine.rangeOf(operation);
    machine.follower?.discard(start, end);
  },
};

/** Runs an operation; false when the model does not know it. */
export function runHostOperation(machine: OperationMachine, operation: HostOperation, task: string): boolean {
  // The table pairs each name with code for that very operation; the compiler cannot follow the pairing through a look-up.
  const code = HOST_OPERATIONS[operation.host] as Code<HostOperation["host"]> | undefined;
  if (code === undefined) return false;
  code(machine, operation as never, task);
  return true;
}
