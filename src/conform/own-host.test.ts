/**
 * Runs without a recording against the recordings: the modelled host mm decides by itself what backs each page and which notifiers it calls, and the
 * recorded host has decided the same.
 *
 * Where threads run at the same time (`race`), who comes first is nobody's decision: there only the invariants are compared.
 */
import { existsSync } from "node:fs";
import { basename, join } from "node:path";
import { expect, test } from "vitest";
import { compareWithRecording } from "./compare.ts";
import { type HostLayout, piecesOf } from "./host-layout.ts";
import { isHostWritable, isLeaf, parseSetSpte, parseSpteChanged, parseSpteRequested } from "./mmu-event.ts";
import { runWorkload } from "./model.ts";
import { findCases, type KernelRecording, loadRecording, type Recording, runOf } from "./recording.ts";
import type { EventLine, OperationResult } from "./run.ts";

const OWN = join(import.meta.dirname, "../../recordings");
const SHARED = join(import.meta.dirname, "../../../shared/traces");
const hasShared = existsSync(SHARED);

if (!hasShared) {
  test.skip("every recorded case: ../shared/traces is not here, only the recordings of the repository were compared", () => {});
}

const cases = findCases(hasShared ? SHARED : OWN).filter((path) => basename(path).startsWith("tdp-"));

/** What the host did and gave in an operation, one line each, with addresses as places in the workload's memory. */
function decisionsOf(events: readonly EventLine[], layout: HostLayout): string[] {
  const found: string[] = [];
  const open = new Map<string, { readonly at: number; readonly gfn: number }>();
  for (const { task, event, text } of events) {
    if (event === "mn_inv_start" || event === "mn_inv_end") {
      const [, start, end, why] = /start=(0x[0-9a-f]+) end=(0x[0-9a-f]+)(?: event=(\d))?/.exec(text) ?? [];
      const pieces = piecesOf(layout, Number(start), Number(end));
      const places = pieces.map(({ memory, offset, length }) => {
        return `memory ${memory} 0x${offset.toString(16)}+0x${length.toString(16)}`;
      });
      if (pieces.length > 0) found.push(`${event} ${places.join(", ")}${why === undefined ? "" : ` event ${why}`}`);
    } else if (event === "kvm_mmu_spte_requested") {
      const requested = parseSpteRequested(text);
      if (requested === null) continue;
      const { gfn, level } = requested;
      open.set(task, { at: found.length, gfn });
      found.push(`page for gfn 0x${gfn.toString(16)} level ${level}`);
    } else noteWritable(event, text, task, open, found);
  }
  return found;
}

/** The entry that is made after a request tells whether the host's page was writable. */
function noteWritable(
  event: string,
  text: string,
  task: string,
  open: Map<string, { readonly at: number; readonly gfn: number }>,
  found: string[],
): void {
  const asked = open.get(task);
  const changed = event === "kvm_tdp_mmu_spte_changed" ? parseSpteChanged(text) : null;
  const set = event === "kvm_mmu_set_spte" ? parseSetSpte(text) : null;
  const entry = changed === null ? set : { ...changed, spte: changed.newSpte };
  if (asked === undefined || entry === null || !isLeaf(entry.spte, entry.level)) return;
  if (entry.gfn !== asked.gfn - (asked.gfn % 512 ** (entry.level - 1))) return;
  found[asked.at] += isHostWritable(entry.spte) ? " writable" : " read-only";
  open.delete(task);
}

/** What guests and the VMM were told, as far as the model says it too. */
function resultsOf(results: readonly Readonly<Record<string, unknown>>[], like: readonly OperationResult[]): object[] {
  const keys = ["end", "rax", "cr2", "error_code", "rc"];
  return results.map((result, i) => {
    const known = keys.filter((key) => result[key] !== undefined && like[i]?.[key] !== undefined);
    return Object.fromEntries(known.map((key) => [key, result[key]]));
  });
}

function expectSame(recording: Recording, kernel: KernelRecording): void {
  const { workload, race, name } = recording;
  const own = runWorkload({ workload, initial: null, kernel: kernel.kernel, recording: null });
  expect(own.notModelled).toEqual([]);
  expect(compareWithRecording(recording, kernel, own)).toMatchObject({ score: 1, firstDivergence: null });
  if (race) return;
  runOf(kernel).operations.forEach((recorded, at) => {
    const mine = own.operations[at];
    const place = `${name} ${kernel.kernel}, ops[${at}] ${JSON.stringify(workload.requests[at])}`;
    expect(decisionsOf(mine?.events ?? [], own.layout ?? kernel.layout), place).toEqual(
      decisionsOf(recorded.events, kernel.layout),
    );
    // The guest's clock page has the time in it.
    if (name.includes("kvmclock")) return;
    const results = mine?.results ?? [];
    expect(resultsOf(results, results), place).toEqual(resultsOf(kernel.operations[at]?.result ?? [], results));
  });
}

test.each(cases.map((path) => ({ path, name: basename(path) })))("$name", { timeout: 60_000 }, ({ path }) => {
  const recording = loadRecording(path);
  for (const kernel of recording.kernels) expectSame(recording, kernel);
});
