/**
 * Compares two executions of a case: the recorded one with a model's, event by event and statistic by statistic.
 *
 *   items      every tracepoint event (probes and markers are none), and after each operation every statistic
 *   matched    pairs along the longest agreeing alignment, made within the set-up, each operation and the teardown: equal templates
 *              (canonical.ts), and frames that no live correspondence contradicts (renaming.ts)
 *   score      matched / items, where a part counts as many items as the longer side of it: an event too many costs as much as one
 *              too few
 *
 * Threads that run in parallel have no order among them: within a `par` operation each thread's events are aligned on their own. The teardown
 * runs in whichever thread of the VMM ends last, so there the thread does not matter.
 *
 * Flushes, the statistics that count them, and exits depend on when a timer asks for a reschedule (traces/README.md). They are compared too,
 * but reported beside the score, as increments per operation.
 *
 * A case that races differs from run to run in order and count. Its items are its operations, and an operation matches when every invariant
 * (invariants.ts) held in both runs all through it.
 */
import { align } from "./alignment.ts";
import { type CanonicalEvent, canonicalRun } from "./canonical.ts";
import { layoutOf } from "./host-layout.ts";
import { type Breach, breachesOf, INVARIANTS } from "./invariants.ts";
import { MemslotHistory } from "./memslot-history.ts";
import { type KernelRecording, type Recording, runOf } from "./recording.ts";
import { FrameRenaming } from "./renaming.ts";
import type { EventLine, OperationRun, Stats, WorkloadRun } from "./run.ts";
import type { Workload } from "./workload.ts";

/** Where two runs go apart first. */
export interface Divergence {
  /** Null in the set-up and in the teardown. */
  readonly operation: number | null;
  /** The operation as the workload has it; "setup" or "teardown" outside of them. */
  readonly request: unknown;
  /** Place among the recorded tracepoint events of that part. */
  readonly index: number;
  /** The thread; for a statistic its owner, `vm` or `vcpu0`. */
  readonly task: string;
  readonly reason: "missing" | "extra" | "different" | "frames" | "statistic" | "invariant";
  /** What the recording has, in the kernel's own text. */
  readonly expected: string | null;
  readonly actual: string | null;
  /** The recorded events before it, oldest first. */
  readonly context: readonly string[];
}

/** Flush requests, and statistics that vary with rescheduling, as increments per operation. */
export interface FlushReport {
  readonly compared: number;
  readonly equal: number;
  /** Calls of kvm_flush_remote_tlbs() in the whole run. */
  readonly recorded: number;
  readonly actual: number;
  readonly firstDifference: {
    readonly operation: number;
    readonly name: string;
    readonly expected: number;
    readonly actual: number;
  } | null;
}

export interface CaseResult {
  readonly case: string;
  readonly kernel: string;
  readonly race: boolean;
  /** Items; for a race, operations. */
  readonly events: number;
  readonly matched: number;
  /** matched / events, 1 when there is nothing to compare. */
  readonly score: number;
  /** Null when everything matches. */
  readonly firstDivergence: Divergence | null;
  readonly flushes: FlushReport;
}

export interface Comparison {
  readonly case: string;
  readonly kernel: string;
  readonly race: boolean;
  readonly workload: Workload;
  readonly recorded: WorkloadRun;
  readonly other: WorkloadRun;
}

/** Statistics that are reported beside the score. */
const VARYING: ReadonlySet<string> = new Set(["exits", "remote_tlb_flush", "remote_tlb_flush_requests", "tlb_flush"]);

const CONTEXT_LINES = 4;

/** Compares what a model did with one kernel's recording of a case. */
export function compareWithRecording(recording: Recording, kernel: KernelRecording, other: WorkloadRun): CaseResult {
  const { name, race, workload } = recording;
  return compareRuns({ case: name, kernel: kernel.kernel, race, workload, recorded: runOf(kernel), other });
}

export function compareRuns(comparison: Comparison): CaseResult {
  const tally = comparison.race ? compareInvariants(comparison) : compareEvents(comparison);
  return {
    case: comparison.case,
    kernel: comparison.kernel,
    race: comparison.race,
    events: tally.items,
    matched: tally.matched,
    score: tally.items === 0 ? 1 : tally.matched / tally.items,
    firstDivergence: tally.firstDivergence,
    flushes: compareFlushes(comparison.recorded, comparison.other),
  };
}

interface Tally {
  readonly items: number;
  readonly matched: number;
  readonly firstDivergence: Divergence | null;
}

const NO_STATS: Stats = { vm: {}, vcpu: [] };

function compareEvents({ kernel, workload, recorded, other }: Comparison): Tally {
  const layout = recorded.layout ?? layoutOf(recorded.setup, workload);
  const left = canonicalRun({ ...recorded, layout }, kernel, layout);
  const right = canonicalRun(other, kernel, layout);
  const memslots = new MemslotHistory(workload);
  const isTdp = [...left.operations, left.teardown]
    .flat()
    .some((event) => event.source.event === "kvm_tdp_mmu_spte_changed");
  const renaming = new FrameRenaming(isTdp, (piece) => memslots.gfnsOf(piece));
  const setup: Part = { operation: null, request: "setup", threads: "one stream" };
  const tallies = [compareParts(setup, left.setup, right.setup, renaming)];
  const count = Math.max(recorded.operations.length, other.operations.length);
  for (let at = 0; at < count; at++) {
    const threads = workload.ops[at]?.kind === "par" ? "own streams" : "one stream";
    const part: Part = { operation: at, request: workload.requests[at] ?? null, threads };
    const events = left.operations[at] ?? [];
    tallies.push(compareParts(part, events, right.operations[at] ?? [], renaming));
    tallies.push(compareStats(part, events, recorded.operations[at]?.stats, other.operations[at]?.stats));
  }
  const teardown: Part = { operation: null, request: "teardown", threads: "any" };
  tallies.push(compareParts(teardown, left.teardown, right.teardown, renaming));
  return {
    items: tallies.reduce((sum, tally) => sum + tally.items, 0),
    matched: tallies.reduce((sum, tally) => sum + tally.matched, 0),
    firstDivergence: tallies.find((tally) => tally.firstDivergence !== null)?.firstDivergence ?? null,
  };
}

/** A set-up, an operation or a teardown; and whether its events form one stream, one per thread, or one whose threads do not matter. */
interface Part {
  readonly operation: number | null;
  readonly request: unknown;
  readonly threads: "one stream" | "own streams" | "any";
}

/** One step along both streams: a pair, or an event of one side. Numbers are places in the part's events. */
interface Step {
  readonly left: number | null;
  readonly right: number | null;
}

function compareParts(
  part: Part,
  left: readonly CanonicalEvent[],
  right: readonly CanonicalEvent[],
  renaming: FrameRenaming,
): Tally {
  const steps = stepsOf(part, left, right);
  let matched = 0;
  let firstDivergence: Divergence | null = null;
  steps.forEach((step, at) => {
    const recorded = step.left === null ? null : (left[step.left] as CanonicalEvent);
    const other = step.right === null ? null : (right[step.right] as CanonicalEvent);
    if (recorded !== null && other !== null && renaming.pair(recorded, other)) {
      matched++;
      return;
    }
    if (recorded === null || other === null) {
      if (recorded !== null) renaming.see(0, recorded);
      if (other !== null) renaming.see(1, other);
    }
    firstDivergence ??= divergenceAt(part, steps, at, left, right);
  });
  return { items: Math.max(left.length, right.length), matched, firstDivergence };
}

/** Aligns the two streams. Between two pairs, the recorded events come before the others. */
function stepsOf(part: Part, left: readonly CanonicalEvent[], right: readonly CanonicalEvent[]): readonly Step[] {
  const key = ({ source, template }: CanonicalEvent) =>
    part.threads === "any" ? template : `${threadOf(source)} ${template}`;
  const streams = new Map<string, { readonly left: number[]; readonly right: number[] }>();
  const streamOf = (event: CanonicalEvent) => {
    const name = part.threads === "own streams" ? threadOf(event.source) : "";
    const stream = streams.get(name) ?? { left: [], right: [] };
    streams.set(name, stream);
    return stream;
  };
  left.forEach((event, at) => {
    streamOf(event).left.push(at);
  });
  right.forEach((event, at) => {
    streamOf(event).right.push(at);
  });
  const partner = new Map<number, number>();
  for (const stream of streams.values()) {
    const keys = (events: readonly CanonicalEvent[], places: readonly number[]) =>
      places.map((place) => key(events[place] as CanonicalEvent));
    for (const [i, j] of align(keys(left, stream.left), keys(right, stream.right))) {
      partner.set(stream.left[i] as number, stream.right[j] as number);
    }
  }
  // Along the recorded order; the other side's events wait until their thread's next pair.
  const steps: Step[] = [];
  left.forEach((event, at) => {
    const match = partner.get(at) ?? null;
    const waiting = streamOf(event).right;
    while (match !== null && (waiting[0] as number) < match)
      steps.push({ left: null, right: waiting.shift() as number });
    if (match !== null) waiting.shift();
    steps.push({ left: at, right: match });
  });
  for (const stream of streams.values()) {
    for (const place of stream.right) steps.push({ left: null, right: place });
  }
  return steps;
}

/** Recovery threads carry a number in their names. */
function threadOf(line: EventLine): string {
  return line.task.startsWith("kvm-nx") ? line.task.replace(/[-\d]*$/, "") : line.task;
}

const textOf = (line: EventLine) => `${line.event}: ${line.text.trimEnd()}`;
const lineOf = (line: EventLine) => `${line.task} ${textOf(line)}`;

/** Describes the step that did not match; in a gap with events on both sides, the first of each. */
function divergenceAt(
  part: Part,
  steps: readonly Step[],
  at: number,
  left: readonly CanonicalEvent[],
  right: readonly CanonicalEvent[],
): Divergence {
  let { left: i, right: j } = steps[at] as Step;
  const isPair = i !== null && j !== null;
  const sourceOf = (events: readonly CanonicalEvent[], place: number) => (events[place] as CanonicalEvent).source;
  const first = i !== null ? sourceOf(left, i) : sourceOf(right, j as number);
  for (const step of isPair ? [] : steps.slice(at + 1)) {
    if (step.left !== null && step.right !== null) break;
    if (i === null && step.left !== null && sourceOf(left, step.left).task === first.task) i = step.left;
    if (j === null && step.right !== null && sourceOf(right, step.right).task === first.task) j = step.right;
  }
  const seen = steps.slice(0, at).filter((step) => step.left !== null).length;
  const reason = isPair ? "frames" : j === null ? "missing" : i === null ? "extra" : "different";
  return {
    operation: part.operation,
    request: part.request,
    index: i ?? seen,
    task: first.task,
    reason,
    expected: i === null ? null : textOf(sourceOf(left, i)),
    actual: j === null ? null : textOf(sourceOf(right, j)),
    context: left.slice(Math.max((i ?? seen) - CONTEXT_LINES, 0), i ?? seen).map((event) => lineOf(event.source)),
  };
}

/** Every statistic as `owner`, `name`, value. */
function statisticsOf(
  stats: Stats,
): readonly { readonly owner: string; readonly name: string; readonly value: number }[] {
  const owners: [string, Readonly<Record<string, number>>][] = [["vm", stats.vm]];
  stats.vcpu.forEach((values, number) => {
    owners.push([`vcpu${number}`, values]);
  });
  return owners.flatMap(([owner, values]) => Object.entries(values).map(([name, value]) => ({ owner, name, value })));
}

function compareStats(part: Part, events: readonly CanonicalEvent[], recorded = NO_STATS, other = NO_STATS): Tally {
  const scored = (stats: Stats) => statisticsOf(stats).filter((statistic) => !VARYING.has(statistic.name));
  const [left, right] = [scored(recorded), scored(other)];
  const values = new Map(right.map(({ owner, name, value }) => [`${owner}.${name}`, value]));
  const differing = left.filter(({ owner, name, value }) => values.get(`${owner}.${name}`) !== value);
  const items = Math.max(left.length, right.length);
  const matched = left.length - differing.length;
  if (matched === items) return { items, matched, firstDivergence: null };
  const known = new Set(left.map(({ owner, name }) => `${owner}.${name}`));
  const first = differing[0] ?? right.find(({ owner, name }) => !known.has(`${owner}.${name}`));
  const { owner, name } = first as (typeof left)[number];
  const show = (value: number | undefined) => (value === undefined ? null : `statistic ${owner}.${name}: ${value}`);
  const firstDivergence: Divergence = {
    operation: part.operation,
    request: part.request,
    index: events.length,
    task: owner,
    reason: "statistic",
    expected: show(differing[0]?.value),
    actual: show(values.get(`${owner}.${name}`)),
    context: events.slice(-CONTEXT_LINES).map((event) => lineOf(event.source)),
  };
  return { items, matched, firstDivergence };
}

function compareFlushes(recorded: WorkloadRun, other: WorkloadRun): FlushReport {
  const total = (run: WorkloadRun) => run.operations.reduce((sum, operation) => sum + operation.flushes, 0);
  let compared = 0;
  let equal = 0;
  let firstDifference: FlushReport["firstDifference"] = null;
  recorded.operations.forEach((operation, at) => {
    const expected = varyingOf(operation, recorded.operations[at - 1]);
    const actual = varyingOf(other.operations[at], other.operations[at - 1]);
    for (const [name, value] of expected) {
      compared++;
      const found = actual.get(name) ?? 0;
      if (found === value) equal++;
      else firstDifference ??= { operation: at, name, expected: value, actual: found };
    }
  });
  return { compared, equal, recorded: total(recorded), actual: total(other), firstDifference };
}

/** What an operation added to each count that varies. */
function varyingOf(operation: OperationRun | undefined, before: OperationRun | undefined): ReadonlyMap<string, number> {
  const counts = new Map([["flushes", operation?.flushes ?? 0]]);
  const old = new Map(
    statisticsOf(before?.stats ?? NO_STATS).map(({ owner, name, value }) => [`${owner}.${name}`, value]),
  );
  for (const { owner, name, value } of statisticsOf(operation?.stats ?? NO_STATS)) {
    const key = `${owner}.${name}`;
    if (VARYING.has(name)) counts.set(key, value - (old.get(key) ?? 0));
  }
  return counts;
}

/** The comparison of a case that races. What breaks in the set-up counts against the first operation, in the teardown against the last. */
function compareInvariants({ workload, recorded, other }: Comparison): Tally {
  const items = recorded.operations.length;
  const broken = new Set<number>();
  for (let at = other.operations.length; at < items; at++) broken.add(at);
  let first: { readonly breach: Breach; readonly run: WorkloadRun; readonly side: string } | null = null;
  for (const [run, side] of [
    [recorded, "recording"],
    [other, "model"],
  ] as const) {
    for (const breach of breachesOf(run, workload)) {
      broken.add(Math.min(Math.max(breach.section, 0), Math.max(items - 1, 0)));
      if (first === null || breach.section < first.breach.section) first = { breach, run, side };
    }
  }
  const matched = items - [...broken].filter((at) => at < items).length;
  const end = other.operations.length;
  if (first !== null && (first.breach.section < end || end >= items)) {
    return { items, matched, firstDivergence: breachDivergence(workload, first.run, first.breach, first.side) };
  }
  if (end >= items) return { items, matched, firstDivergence: null };
  const request = workload.requests[end] ?? null;
  const what = { task: "", reason: "missing", expected: "the operation", actual: null, context: [] } as const;
  return { items, matched, firstDivergence: { operation: end, request, index: 0, ...what } };
}

function breachDivergence(workload: Workload, run: WorkloadRun, breach: Breach, side: string): Divergence {
  const { section, index, line, detail } = breach;
  const isOperation = section >= 0 && section < run.operations.length;
  const events = isOperation
    ? (run.operations[section] as OperationRun).events
    : section < 0
      ? run.setup
      : run.teardown;
  const prose = INVARIANTS.find((invariant) => invariant.name === breach.invariant)?.prose ?? "";
  return {
    operation: isOperation ? section : null,
    request: isOperation ? (workload.requests[section] ?? null) : section < 0 ? "setup" : "teardown",
    index,
    task: line?.task ?? "",
    reason: "invariant",
    expected: `${breach.invariant}: ${prose}`,
    actual: `${side}: ${line === null ? "" : `${textOf(line)}: `}${detail}`,
    context: events.slice(Math.max(index - CONTEXT_LINES, 0), index).map(lineOf),
  };
}
