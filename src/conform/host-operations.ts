/**
 * What each host operation of a workload does to the model: a table from its name to code.
 *
 * An operation that is only the host mm's business (madvise, mremap) needs nothing here but its place in the table: its notifier calls are
 * replayed after it. One that is not in the table is reported as not modelled, and the run goes on.
 */
import { type Steps, UsageError } from "../engine/index.ts";
import type { Mm } from "../kernel/index.ts";
import { KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, type SlotDescription } from "../kvm/memslots.ts";
import { gfn, type Hva, PAGE_SIZE } from "../machine/index.ts";
import type { HostFollower } from "./host-follower.ts";
import { recoverNxHugePages, recoveryRounds, writeFile } from "./kvm-settings.ts";
import type { HostOperation } from "./operation.ts";
import type { OperationResult } from "./run.ts";
import type { Memory, Workload } from "./workload.ts";
import type { WorkloadBody } from "./workload-body.ts";

/** What an operation may use of the machine that runs the workload. */
export interface OperationMachine {
  readonly workload: Workload;
  readonly body: WorkloadBody;
  /** Null: there is no recording. */
  readonly follower: HostFollower | null;
  /** Where a memory starts on the host. */
  hvaOf(memory: number): Hva;
  /** Runs one thread to its end. @param task `vmm`, `hostop`, `vcpu0` */
  sequentially<T>(task: string, steps: () => Steps<T>): T;
  /** Host addresses of part of a memory. */
  rangeOf(operation: { readonly mem: number; readonly offset: number; readonly len: number | null }): {
    readonly start: Hva;
    readonly end: Hva;
  };
}

type Named<Name extends HostOperation["host"]> = Extract<HostOperation, { readonly host: Name }>;

/** @param task the thread that does it. Returns what the recordings say of its result, where that is more than success. */
type Code<Name extends HostOperation["host"]> = (
  machine: OperationMachine,
  operation: Named<Name>,
  task: string,
) => OperationResult | undefined;

const nothing = (): undefined => undefined;

const HOST_OPERATIONS: { readonly [Name in HostOperation["host"]]?: Code<Name> } = {
  poke: nothing,
  poke_ret: nothing,
  peek: nothing,
  touch: nothing,
  fork: nothing,
  fork_exit: nothing,
  sleep: (machine, { ms }) => {
    // A recording tells what else ran meanwhile.
    if (machine.follower === null) recoverNxHugePages(machine, recoveryRounds(machine.body.params, ms));
    return undefined;
  },
  write_file: (machine, { path, value }, task) => {
    writeFile(machine, path, value, task);
    return undefined;
  },
  get_dirty_log: (machine, { slot }, task) => {
    const log = machine.sequentially(task, () => machine.body.getDirtyLog(slot));
    return typeof log === "number" ? { rc: -log } : dirtyResult(log);
  },
  clear_dirty_log: (machine, { slot, first, pages }, task) => {
    const errno = machine.sequentially(task, () => machine.body.clearDirtyLog(slot, first, pages));
    return { rc: errno === 0 ? 0 : -errno };
  },
  ring_collect: (machine, _operation, task) => machine.sequentially(task, () => collectAndReset(machine.body)),
  age: (machine, { mode, ...range }, task) => {
    // With a recording the calls are replayed.
    if (machine.follower !== null) return undefined;
    const { start, end } = machine.rangeOf(range);
    const young = machine.sequentially(task, () => ageRange(machine.body.mm, mode, start, end));
    return { young: young ? "1" : "0", rc: 0 };
  },
  madvise: (machine, operation) => {
    if (throwsAway(machine, operation)) discard(machine, operation);
  },
  repeat_madvise: (machine, operation) => {
    if (throwsAway(machine, operation)) discard(machine, operation);
  },
  punch: discard,
  munmap: (machine, operation) => {
    discard(machine, operation);
    const { start, end } = machine.rangeOf(operation);
    machine.follower?.protect(start, end, { read: false, write: false });
  },
  mmap_fixed: (machine, operation) => {
    discard(machine, operation);
    const { start, end } = machine.rangeOf(operation);
    machine.follower?.protect(start, end, { read: true, write: true });
  },
  mprotect: (machine, { prot, ...range }) => {
    const { start, end } = machine.rangeOf(range);
    // A page that may be written or executed may be read as well, on x86.
    machine.follower?.protect(start, end, { read: prot !== "none", write: prot.includes("w") });
  },
  slot_create: (machine, operation, task) => {
    const memory = memoryOf(machine, operation.slot);
    const flags = operation.flags ?? namesOf(memory.flags);
    setMemoryRegion(machine, task, {
      id: operation.slot,
      baseGfn: gfn((operation.gpa ?? memory.gpa) / PAGE_SIZE),
      npages: memory.size / PAGE_SIZE,
      userspaceAddr: machine.hvaOf(operation.slot),
      flags: flagsOf(flags),
    });
  },
  slot_delete: (machine, operation, task) => {
    const slot = slotOf(machine, operation.slot);
    if (slot !== null) setMemoryRegion(machine, task, { ...slot, npages: 0 });
  },
  slot_move: (machine, operation, task) => {
    const slot = slotOf(machine, operation.slot);
    if (slot !== null) setMemoryRegion(machine, task, { ...slot, baseGfn: gfn(operation.gpa / PAGE_SIZE) });
  },
  slot_flags: (machine, operation, task) => {
    const slot = slotOf(machine, operation.slot);
    if (slot !== null) setMemoryRegion(machine, task, { ...slot, flags: flagsOf(operation.flags) });
  },
  dirty_log: (machine, operation, task) => {
    const slot = slotOf(machine, operation.slot);
    if (slot === null) return undefined;
    const flags = operation.on ? slot.flags | KVM_MEM_LOG_DIRTY_PAGES : slot.flags & ~KVM_MEM_LOG_DIRTY_PAGES;
    setMemoryRegion(machine, task, { ...slot, flags });
  },
  prefault: (machine, { vcpu, gpa, len }, task) => {
    if (vcpu >= machine.body.vcpus) throw new UsageError(`prefault: there is no vcpu ${vcpu}; mend the workload`);
    const errno = machine.sequentially(task, () => machine.body.preFault(vcpu, gpa, len));
    return errno === 0 ? undefined : { rc: -errno };
  },
  nr_mmu_pages: (machine, { pages }, task) => {
    machine.sequentially(task, () => machine.body.setNrMmuPages(pages));
  },
  set_clock: (machine, _operation, task) => {
    machine.sequentially(task, () => machine.body.setClock());
  },
};

/** Frames of a log, as runs of [first, count]. */
function dirtyResult(frames: readonly number[]): OperationResult {
  const runs: [number, number][] = [];
  for (const frame of frames) {
    const last = runs.at(-1);
    if (last !== undefined && last[0] + last[1] === frame) last[1]++;
    else runs.push([frame, 1]);
  }
  return { dirty: runs, dirty_pages: frames.length, rc: 0 };
}

/** The VMM collects the dirty rings of all vCPUs, and has them reset. */
function* collectAndReset(body: WorkloadBody): Steps<OperationResult> {
  const rings: Record<string, [number, number][]> = {};
  let collected = 0;
  for (let vcpu = 0; vcpu < body.vcpus; vcpu++) {
    const frames = yield* body.collectDirtyRing(vcpu);
    if (frames === null) continue;
    if (frames.length > 0) rings[`vcpu${vcpu}_ring`] = frames.map(({ slot, offset }) => [slot, offset]);
    collected += frames.length;
  }
  return { ...rings, collected, reset: yield* body.resetDirtyRings(), rc: 0 };
}

/** The notifier's aging calls, as the host mm makes them. */
function* ageRange(
  mm: Mm,
  mode: "clear_flush_young" | "clear_young" | "test_young",
  start: Hva,
  end: Hva,
): Steps<boolean> {
  let young = false;
  for (const ops of mm.notifiers) {
    const steps =
      mode === "clear_flush_young"
        ? ops.clearFlushYoung(start, end)
        : mode === "clear_young"
          ? ops.clearYoung(start, end)
          : ops.testYoung(start);
    if (yield* steps) young = true;
  }
  return young;
}

/** Shared memory of a file only leaves the process's tables. */
function throwsAway(
  { workload }: OperationMachine,
  operation: { readonly mem: number; readonly advice: string },
): boolean {
  const memory = workload.memory.find((each) => each.slot === operation.mem);
  return operation.advice === "dontneed" && memory?.backing !== "memfd";
}

/** The pages of a range are thrown away. */
function discard(machine: OperationMachine, range: Parameters<OperationMachine["rangeOf"]>[0]): undefined {
  const { start, end } = machine.rangeOf(range);
  machine.follower?.discard(start, end);
}

function memoryOf(machine: OperationMachine, slot: number): Memory {
  const found = machine.workload.memory.find((memory) => memory.slot === slot);
  if (found === undefined) throw new UsageError(`slot ${slot}: no such memory; mend the workload`);
  return found;
}

/** A memslot as it is now; null when there is none. */
function slotOf({ body }: OperationMachine, id: number): SlotDescription | null {
  return body.slots().find((slot) => slot.id === id) ?? null;
}

/** The VMM's ioctl; its errors are the workload's business. */
function setMemoryRegion(machine: OperationMachine, task: string, region: SlotDescription): void {
  machine.sequentially(task, () => machine.body.setMemoryRegion(region));
}

type FlagName = "dirty_log" | "readonly";

function namesOf(flags: Memory["flags"]): readonly FlagName[] {
  return [...(flags.dirtyLog ? (["dirty_log"] as const) : []), ...(flags.readonly ? (["readonly"] as const) : [])];
}

/** KVM_MEM_* of a memslot's flags. */
function flagsOf(names: readonly FlagName[]): number {
  return (
    (names.includes("dirty_log") ? KVM_MEM_LOG_DIRTY_PAGES : 0) | (names.includes("readonly") ? KVM_MEM_READONLY : 0)
  );
}

/** Runs an operation, and returns what is to be said of its result; null when the model does not know it. */
export function runHostOperation(
  machine: OperationMachine,
  operation: HostOperation,
  task: string,
): OperationResult | null {
  // The table pairs each name with code for that very operation; the compiler cannot follow the pairing through a look-up.
  const code = HOST_OPERATIONS[operation.host] as Code<HostOperation["host"]> | undefined;
  if (code === undefined) return null;
  return code(machine, operation as never, task) ?? {};
}
