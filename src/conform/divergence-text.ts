/**
 * The outcome of a comparison as text that can be pasted into mail: ASCII, at most 72 columns.
 *
 *     tdp-touch-4k v7.2: score 0.9991, 1158 of 1159
 *     first divergence: operation 2, event 14, vcpu0
 *       {"guest":"read","addr":"0x200000","count":16,"stride":4096}
 *         vcpu0 kvm_mmu_spte_requested: gfn 200 pfn 35648 level 1 access f
 *       - kvm_tdp_mmu_spte_changed: as id 0 gfn 200 level 1 ...
 *       + kvm_tdp_mmu_spte_changed: as id 0 gfn 200 level 1 ...
 *
 * Lines marked - are the recording's, those marked + the model's.
 */
import type { CaseResult, Divergence } from "./compare.ts";

const COLUMNS = 72;

const REASONS: Readonly<Record<Divergence["reason"], string>> = {
  missing: "the model has no such event here",
  extra: "the recording has no such event here",
  different: "the model has another event here",
  frames: "same event, but its frames contradict the ones before",
  statistic: "another value after the operation",
  invariant: "an invariant does not hold",
};

/** @returns lines joined by newlines, without one at the end */
export function formatDivergence(result: CaseResult): string {
  const { events, matched, firstDivergence: divergence } = result;
  const unit = result.race ? " operations (race: by invariants)" : "";
  // A score below 1 is never rounded up to 1.
  const score = Math.floor(result.score * 10_000) / 10_000;
  const lines = fold(
    `${result.case} ${result.kernel}: score ${score.toFixed(4)}, ${matched} of ${events}${unit}`,
    "",
    "  ",
  );
  if (divergence === null) return lines.join("\n");
  const { operation, request, index, task } = divergence;
  const place = operation === null ? `${String(request)}, event ${index}` : `operation ${operation}, event ${index}`;
  lines.push(
    ...fold(`first divergence: ${place}${task === "" ? "" : `, ${task}`}: ${REASONS[divergence.reason]}`, "", "  "),
  );
  if (operation !== null) lines.push(...fold(JSON.stringify(request), "  ", "    "));
  for (const line of divergence.context) lines.push(...fold(line, "    ", "      "));
  if (divergence.expected !== null) lines.push(...fold(divergence.expected, "  - ", "      "));
  if (divergence.actual !== null) lines.push(...fold(divergence.actual, "  + ", "      "));
  return lines.join("\n");
}

/** Breaks a text at blanks, or at commas where there are none; a longer word is cut. */
function fold(text: string, first: string, next: string): string[] {
  const lines: string[] = [];
  let rest = text.replace(/[^\x20-\x7e]/g, "?");
  let indent = first;
  while (indent.length + rest.length > COLUMNS) {
    const room = COLUMNS - indent.length;
    const blank = rest.lastIndexOf(" ", room);
    const comma = rest.lastIndexOf(",", room - 1) + 1;
    const cut = blank > room / 2 ? blank : comma > room / 2 ? comma : room;
    lines.push(indent + rest.slice(0, cut));
    rest = rest.slice(cut).trimStart();
    indent = next;
  }
  lines.push(indent + rest);
  return lines;
}
