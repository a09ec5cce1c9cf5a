/** Random guests, one after the other, under the oracles; the first that fails is made as short as it can be. */
import { type CheckedProblem, runChecked } from "../../src/conform/checked-run.ts";
import { parseWorkload } from "../../src/conform/workload.ts";
import { type GuestDocument, type RandomGuest, randomGuest } from "./random-guest.ts";

/** Room for the shadow pages of a short run. */
const KERNEL_BYTES = 24 * 1024 * 1024;

/** What a campaign went through. */
export interface CampaignTotals {
  sequences: number;
  operations: number;
  /** Accesses and translations that were held against the guest's tables. */
  judged: number;
  /** How the guests' operations ended. */
  readonly ends: Map<string, number>;
}

export interface FailingGuest {
  readonly guest: RandomGuest;
  readonly problem: CheckedProblem;
}

export function newCampaignTotals(): CampaignTotals {
  return { sequences: 0, operations: 0, judged: 0, ends: new Map() };
}

/** @returns what is wrong, or null */
export function runGuest(
  { document, kernel, keepsTlb }: RandomGuest,
  totals: CampaignTotals | null = null,
): CheckedProblem | null {
  const workload = parseWorkload(document.name, document);
  try {
    const { problem, judged, ends } = runChecked({ workload, kernel, keepsTlb, kernelBytes: KERNEL_BYTES });
    if (totals !== null) {
      totals.sequences++;
      totals.operations += document.ops.length;
      totals.judged += judged;
      for (const [end, count] of ends) totals.ends.set(end, (totals.ends.get(end) ?? 0) + count);
    }
    return problem;
  } catch (error) {
    // A mistake of ours is as good a find: it is made short in the same way.
    const { message, stack } = error as Error;
    return { property: "crash", message: `${message}\n${stack ?? ""}`, operation: document.ops.length };
  }
}

/** Runs the guests of `count` seeds from `first` on. @returns the first that fails, shrunk; null when none does */
export function shadowCampaign(first: number, count: number, totals: CampaignTotals): FailingGuest | null {
  for (let seed = first; seed < first + count; seed++) {
    const guest = randomGuest(seed);
    const problem = runGuest(guest, totals);
    if (problem !== null) return shrink(guest, problem);
  }
  return null;
}

/** Leaves operations out as long as the same property still fails. */
function shrink(guest: RandomGuest, found: CheckedProblem): FailingGuest {
  let best: FailingGuest = { guest, problem: found };
  const attempt = (ops: readonly object[]): boolean => {
    const document: GuestDocument = { ...best.guest.document, ops };
    const problem = runGuest({ ...guest, document });
    if (problem?.property !== found.property) return false;
    // What comes after the failure does not matter.
    best = { guest: { ...guest, document: { ...document, ops: ops.slice(0, problem.operation + 1) } }, problem };
    return true;
  };
  attempt(guest.document.ops.slice(0, found.operation + 1));
  for (let size = best.guest.document.ops.length >> 1; size >= 1; size = size === 1 ? 0 : size >> 1) {
    for (let at = 0; at < best.guest.document.ops.length; ) {
      const { ops } = best.guest.document;
      if (!attempt([...ops.slice(0, at), ...ops.slice(at + size)])) at += size;
    }
  }
  return best;
}

/** What a person needs to see it again: the workload, and how to run it. */
export function failureText({ guest, problem }: FailingGuest): string {
  const { seed, kernel, keepsTlb, document } = guest;
  const ops = document.ops.map((operation) => `  ${JSON.stringify(operation)}`).join(",\n");
  const rest = JSON.stringify({ ...document, ops: undefined });
  return [
    `seed ${seed}, kernel ${kernel}, TLB ${keepsTlb ? "kept" : "forgotten between stays"}: ${problem.property} fails in operation ${problem.operation}:`,
    problem.message,
    `${rest.slice(0, -1)},"ops":[\n${ops}]}`,
  ].join("\n");
}
