/**
 * The host mm's notifier calls as events of a run without a recording, in the words of the recordings' probes. With a recording they are its
 * own, and are not printed again.
 */
import type { TraceEvent } from "../engine/index.ts";
import type { NotifierRange } from "../kernel/index.ts";

interface NotifierEvent extends TraceEvent {
  readonly name: "mn_inv_start" | "mn_inv_end";
  readonly range: NotifierRange;
}

export function notifierEvent(edge: "start" | "end", range: NotifierRange): NotifierEvent {
  return { name: edge === "start" ? "mn_inv_start" : "mn_inv_end", range };
}

export function isNotifierEvent(event: TraceEvent): event is NotifierEvent {
  return event.name === "mn_inv_start" || event.name === "mn_inv_end";
}

export function notifierText({ name, range }: NotifierEvent): string {
  const places = `start=0x${range.start.toString(16)} end=0x${range.end.toString(16)}`;
  const entered = `kvm_mmu_notifier_invalidate_range_${name === "mn_inv_start" ? "start" : "end"}`;
  return name === "mn_inv_start" ? `(${entered}) ${places} event=${range.event}` : `(${entered}) ${places}`;
}
