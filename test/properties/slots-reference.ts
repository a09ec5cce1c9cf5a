/**
 * The memslots, and which of their pages were written: the plain reference for memslot updates and dirty logging.
 *
 * A slot that logs has the pages that a guest has certainly written since they were last fetched and cleared, and those that it has used at all: the log
 * must have the first and may have no others than the second, since KVM gives a page W, and logs it, when it is only read.
 */
import type { HostOperation } from "../../src/conform/operation.ts";
import type { OperationResult } from "../../src/conform/run.ts";
import type { Workload } from "../../src/conform/workload.ts";

const PAGE = 4096;

export interface ReferenceSlot {
  readonly id: number;
  readonly gpa: number;
  readonly pages: number;
  readonly readonly: boolean;
  readonly dirtyLog: boolean;
  /** Indices in the slot. */
  readonly written: Set<number>;
  readonly used: Set<number>;
}

/** What a slot update does to what is mapped. */
export type SlotChange = "nothing" | "all mappings go" | "logging ends" | "logging begins";

export class SlotsReference {
  readonly slots = new Map<number, ReferenceSlot>();
  private readonly workload: Workload;
  private readonly manualProtect: number;
  readonly hasRings: boolean;

  constructor(workload: Workload) {
    this.workload = workload;
    this.manualProtect = workload.caps.find(({ cap }) => cap === "manual_dirty_log_protect2")?.arg ?? 0;
    this.hasRings = workload.caps.some(({ cap }) => cap === "dirty_ring");
    for (const { slot, gpa, flags, later } of workload.memory) {
      if (!later) this.put(slot, gpa, flags.dirtyLog, flags.readonly, null);
    }
  }

  private put(id: number, gpa: number, dirtyLog: boolean, readonly: boolean, old: ReferenceSlot | null): void {
    const pages = (this.workload.memory.find(({ slot }) => slot === id)?.size ?? 0) / PAGE;
    const keepsLog = dirtyLog && old?.dirtyLog === true;
    const written = keepsLog ? old.written : new Set<number>();
    const used = keepsLog ? old.used : new Set<number>();
    if (dirtyLog && !keepsLog && this.manualProtect === 3) for (let i = 0; i < pages; i++) written.add(i);
    for (const index of written) used.add(index);
    this.slots.set(id, { id, gpa, pages, readonly, dirtyLog, written, used });
  }

  /** The slot that has a guest-physical address. */
  at(gpa: number): { readonly slot: ReferenceSlot; readonly index: number } | null {
    for (const slot of this.slots.values()) {
      if (gpa >= slot.gpa && gpa < slot.gpa + slot.pages * PAGE) {
        return { slot, index: Math.floor((gpa - slot.gpa) / PAGE) };
      }
    }
    return null;
  }

  /** Carries an ioctl out. */
  update(operation: HostOperation): SlotChange {
    switch (operation.host) {
      case "slot_create": {
        const memory = this.workload.memory.find(({ slot }) => slot === operation.slot);
        const flags = operation.flags;
        const dirtyLog = flags === null ? memory?.flags.dirtyLog === true : flags.includes("dirty_log");
        const readonly = flags === null ? memory?.flags.readonly === true : flags.includes("readonly");
        if (!this.slots.has(operation.slot)) {
          this.put(operation.slot, operation.gpa ?? memory?.gpa ?? 0, dirtyLog, readonly, null);
        }
        return "nothing";
      }
      case "slot_delete":
        return this.slots.delete(operation.slot) ? "all mappings go" : "nothing";
      case "slot_move": {
        const old = this.slots.get(operation.slot);
        if (old === undefined || old.gpa === operation.gpa) return "nothing";
        this.put(old.id, operation.gpa, old.dirtyLog, old.readonly, old);
        return "all mappings go";
      }
      case "dirty_log":
        return this.setLogging(operation.slot, operation.on);
      case "slot_flags": {
        const old = this.slots.get(operation.slot);
        // Whether a slot is read-only cannot be changed.
        if (old === undefined || operation.flags.includes("readonly") !== old.readonly) return "nothing";
        return this.setLogging(operation.slot, operation.flags.includes("dirty_log"));
      }
      default:
        return "nothing";
    }
  }

  private setLogging(id: number, on: boolean): SlotChange {
    const old = this.slots.get(id);
    if (old === undefined || old.dirtyLog === on) return "nothing";
    this.put(id, old.gpa, on, old.readonly, old);
    return on ? "logging begins" : "logging ends";
  }

  /** What an ioctl of the log gives, and does; what is wrong, or null. */
  log(operation: HostOperation, result: OperationResult): string | null {
    if (operation.host === "get_dirty_log") {
      const slot = this.slots.get(operation.slot);
      if (this.hasRings) return result["rc"] === -6 ? null : `returns ${String(result["rc"])}, not -ENXIO`;
      if (slot === undefined || !slot.dirtyLog) {
        return result["rc"] === -2 ? null : `returns ${String(result["rc"])}, not -ENOENT`;
      }
      const problem = logProblem(slot, new Set(pagesOf(result["dirty"] as readonly (readonly number[])[])));
      if (this.manualProtect === 0) forget(slot, 0, slot.pages);
      return problem;
    }
    if (operation.host === "clear_dirty_log") {
      const slot = this.slots.get(operation.slot);
      if (slot !== undefined && result["rc"] === 0) forget(slot, operation.first, operation.first + operation.pages);
      return null;
    }
    return operation.host === "ring_collect" ? this.collect(result) : null;
  }

  private collect(result: OperationResult): string | null {
    const found = new Map<number, Set<number>>();
    for (const [key, value] of Object.entries(result)) {
      if (!key.endsWith("_ring")) continue;
      for (const [slot = 0, index = 0] of value as readonly (readonly number[])[]) {
        found.set(slot, (found.get(slot) ?? new Set()).add(index));
      }
    }
    for (const slot of this.slots.values()) {
      const collected = found.get(slot.id) ?? new Set<number>();
      if (!slot.dirtyLog) continue;
      // What was pushed before the slot began to log anew is in the ring as well.
      for (const index of slot.written) {
        if (!collected.has(index)) return `page ${index} of slot ${slot.id} was written, and is in no ring`;
      }
      forget(slot, 0, slot.pages);
    }
    return null;
  }
}

function* pagesOf(runs: readonly (readonly number[])[]): Generator<number> {
  for (const [first = 0, count = 0] of runs) for (let i = 0; i < count; i++) yield first + i;
}

/** What is wrong with a log, or null. */
export function logProblem(slot: ReferenceSlot, log: ReadonlySet<number>): string | null {
  for (const index of slot.written) {
    if (!log.has(index)) return `page ${index} of slot ${slot.id} was written, and is not in the log`;
  }
  for (const index of log) {
    if (!slot.used.has(index)) return `page ${index} of slot ${slot.id} is in the log, and was not used`;
  }
  return null;
}

function forget({ written, used }: ReferenceSlot, first: number, end: number): void {
  for (const set of [written, used]) {
    for (const index of [...set]) if (index >= first && index < end) set.delete(index);
  }
}
