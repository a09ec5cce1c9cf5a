/**
 * A recorded case: a workload, and what real KVM did with it (traces/README.md).
 *
 *     <case>/<case>.workload.json   <case>/<case>.initial.json
 *     <case>/<kernel>/<case>.trace.txt[.gz]  <case>.stats.json  meta.json        for each kernel it was recorded on
 *     index.json                    beside the case directories, when there are several
 *
 * The trace is cut at the VMM's markers:
 *
 *     setup create_vm ... setup done | op 0 begin {...} ... op 0 end | (between) | op 1 begin ... op N end | setup exit ... teardown
 *
 * What comes between an operation's end and the next one's begin is its aftermath (a timer, an RCU callback) and is kept apart.
 *
 * `race`: the case's events differ from run to run, so only invariants can be compared. The index says so; for a case without an index it
 * is inferred: a case is a race when an operation of it is parallel. That is exactly the rule that the index follows.
 */
import { existsSync, readdirSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { z } from "zod";
import type { U64 } from "../engine/index.ts";
import { type LostEvents, readTrace, type Trace, type TraceLine } from "./ftrace.ts";
import { type HostLayout, layoutOf, parseSlotMarker, type SlotMarker } from "./host-layout.ts";
import { type InitialState, readInitialState } from "./initial-state.ts";
import { parse, readAmount, readJson, readU64, usageError } from "./json-input.ts";
import { type EventLine, FLUSH_PROBE, type Stats, type WorkloadRun } from "./run.ts";
import { readWorkload, type Workload } from "./workload.ts";

/** What the VMM worked out for a member of an operation, from the marker. */
export interface ResolvedMember {
  /** Guest-physical address of the (first) page-table entry that is stored to. */
  readonly pteAddress: number | null;
  /** The value stored to it, or loaded into CR3. */
  readonly value: U64 | null;
}

export interface OperationRecord {
  readonly index: number;
  /** One for each member of a parallel operation; one otherwise. */
  readonly resolved: readonly ResolvedMember[];
  readonly lines: readonly TraceLine[];
  /** Between this operation's end and the next begin. */
  readonly after: readonly TraceLine[];
  readonly stats: Stats;
  /** What each member returned, as recorded. */
  readonly result: readonly Readonly<Record<string, unknown>>[];
}

/** The machine that a trace was recorded on. */
export interface Machine {
  readonly physicalAddressBits: number | null;
  readonly virtualAddressBits: number | null;
  /** Module parameters as they were after the run, `kvm.tdp_mmu` and so on. */
  readonly moduleParams: Readonly<Record<string, string>>;
}

export interface KernelRecording {
  /** `v6.12`, `v7.2`. */
  readonly kernel: string;
  readonly file: string;
  readonly lost: readonly LostEvents[];
  readonly setup: readonly TraceLine[];
  /** Statistics before the first operation. */
  readonly statsBefore: Stats;
  readonly operations: readonly OperationRecord[];
  readonly teardown: readonly TraceLine[];
  readonly slots: readonly SlotMarker[];
  readonly layout: HostLayout;
  readonly machine: Machine;
}

export interface Recording {
  readonly name: string;
  readonly directory: string;
  readonly workload: Workload;
  readonly initial: InitialState;
  readonly race: boolean;
  readonly kernels: readonly KernelRecording[];
}

/**
 * The case directories under a path: itself, or its subdirectories that are cases, in order of name.
 *
 * @throws UsageError when there is none
 */
export function findCases(path: string): readonly string[] {
  if (!existsSync(path)) throw usageError(path, "", "does not exist; name the directory of a case");
  if (!statSync(path).isDirectory()) throw usageError(path, "", "is not a directory; name the directory of a case");
  if (workloadFiles(path).length > 0) return [path];
  const found = readdirSync(path)
    .sort()
    .map((name) => join(path, name))
    .filter((each) => statSync(each).isDirectory() && workloadFiles(each).length > 0);
  if (found.length > 0) return found;
  throw usageError(path, "", "holds no case (no *.workload.json in it or below); name the directory of a case");
}

const WORKLOAD_SUFFIX = ".workload.json";

function workloadFiles(directory: string): readonly string[] {
  return readdirSync(directory).filter((name) => name.endsWith(WORKLOAD_SUFFIX));
}

/**
 * Loads a case.
 *
 * @param kernel load only what this kernel recorded
 * @throws UsageError, one line, for the first file that cannot be used
 */
export function loadRecording(directory: string, kernel?: string): Recording {
  const [only, second] = findCases(directory).length === 1 ? workloadFiles(directory) : [];
  if (only === undefined || second !== undefined) {
    throw usageError(directory, "", "must hold one *.workload.json; name the directory of one case");
  }
  const name = only.slice(0, -WORKLOAD_SUFFIX.length);
  const workload = readWorkload(join(directory, only));
  const kernels = readdirSync(directory)
    .sort()
    .filter((each) => (kernel === undefined || each === kernel) && traceFile(join(directory, each), name) !== null);
  if (kernels.length === 0) {
    const what = kernel === undefined ? "holds no trace" : `holds no trace of ${kernel}`;
    throw usageError(directory, "", `${what}; expected KERNEL/${name}.trace.txt`);
  }
  return {
    name,
    directory,
    workload,
    initial: readInitialState(join(directory, `${name}.initial.json`)),
    race: raceFromIndex(directory, name) ?? workload.ops.some((operation) => operation.kind === "par"),
    kernels: kernels.map((each) => loadKernel(join(directory, each), each, name, workload)),
  };
}

function traceFile(directory: string, name: string): string | null {
  const plain = join(directory, `${name}.trace.txt`);
  return [plain, `${plain}.gz`].find((file) => existsSync(file)) ?? null;
}

const indexList = z.array(z.looseObject({ name: z.string(), race: z.boolean() }), {
  error: "expected a list of cases; write [ ... ]",
});

/** What the index beside the case says; null without an index or an entry. */
function raceFromIndex(directory: string, name: string): boolean | null {
  const file = join(dirname(resolve(directory)), "index.json");
  if (!existsSync(file)) return null;
  return parse(file, indexList, readJson(file)).find((entry) => entry.name === name)?.race ?? null;
}

const statistics = z.record(z.string(), z.number());
const statsList = z.array(
  z.looseObject({
    op: z.number(),
    vm: statistics,
    vcpu: z.array(statistics),
    result: z.array(z.record(z.string(), z.unknown())).default([]),
  }),
  { error: "expected a list of statistics; write [ ... ]" },
);

function loadKernel(directory: string, kernel: string, name: string, workload: Workload): KernelRecording {
  const trace = readTrace(traceFile(directory, name) as string);
  const sections = cut(trace, workload.ops.length);
  const statsFile = join(directory, `${name}.stats.json`);
  const stats = parse(statsFile, statsList, readJson(statsFile));
  stats.forEach((entry, at) => {
    if (entry.op !== at - 1)
      throw usageError(statsFile, `[${at}].op`, `is ${entry.op}, expected ${at - 1}; record the case again`);
  });
  if (stats.length !== workload.ops.length + 1) {
    const what = `has ${stats.length} entries for ${workload.ops.length} operations; record the case again`;
    throw usageError(statsFile, "", what);
  }
  const operations = sections.operations.map((section, index): OperationRecord => {
    const { vm, vcpu, result } = stats[index + 1] as (typeof stats)[number];
    return { index, ...section, stats: { vm, vcpu }, result };
  });
  const { vm, vcpu } = stats[0] as (typeof stats)[number];
  return {
    kernel,
    file: trace.file,
    lost: trace.lost,
    setup: sections.setup,
    statsBefore: { vm, vcpu },
    operations,
    teardown: sections.teardown,
    slots: slotMarkers(sections.setup),
    layout: layoutOf(sections.setup, workload),
    machine: readMachine(join(directory, "meta.json")),
  };
}

const metaObject = z.looseObject({
  cpu: z.array(z.string()).default([]),
  module_params: z.record(z.string(), z.string()).default({}),
});

function readMachine(file: string): Machine {
  if (!existsSync(file)) return { physicalAddressBits: null, virtualAddressBits: null, moduleParams: {} };
  const meta = parse(file, metaObject, readJson(file));
  const sizes = /(\d+) bits physical, (\d+) bits virtual/.exec(meta.cpu.join("\n"));
  return {
    physicalAddressBits: sizes === null ? null : Number(sizes[1]),
    virtualAddressBits: sizes === null ? null : Number(sizes[2]),
    moduleParams: meta.module_params,
  };
}

interface Section {
  readonly resolved: readonly ResolvedMember[];
  readonly lines: TraceLine[];
  readonly after: TraceLine[];
}

interface Sections {
  readonly setup: readonly TraceLine[];
  readonly operations: readonly Section[];
  readonly teardown: readonly TraceLine[];
}

/** Cuts a trace at its markers. The markers of operations themselves are left out; those of the set-up stay. */
function cut(trace: Trace, operationsCount: number): Sections {
  const setup: TraceLine[] = [];
  const teardown: TraceLine[] = [];
  const operations: Section[] = [];
  let into = setup;
  let open = false;
  for (const line of trace.lines) {
    const marker = line.event === "tracing_mark_write" ? /^(?:op (\d+) (begin|end)|setup exit)/.exec(line.text) : null;
    if (marker === null) {
      into.push(line);
      continue;
    }
    const place = `${trace.file}:${line.line}`;
    const isBegin = marker[2] === "begin";
    const expected = open ? operations.length - 1 : operations.length;
    const isInOrder = marker[1] === undefined ? !open : isBegin !== open && Number(marker[1]) === expected;
    if (!isInOrder)
      throw usageError(place, "", `marker out of order: "${line.text.slice(0, 40)}"; record the case again`);
    open = isBegin;
    if (marker[1] === undefined) into = teardown;
    else if (isBegin) {
      const section: Section = { resolved: resolvedMembers(line.text), lines: [], after: [] };
      operations.push(section);
      into = section.lines;
    } else into = (operations.at(-1) as Section).after;
  }
  if (open || operations.length !== operationsCount) {
    const what = `has ${operations.length - (open ? 1 : 0)} complete operations, the workload ${operationsCount}; record the case again`;
    throw usageError(trace.file, "", what);
  }
  return { setup, operations, teardown };
}

/** None when the marker was too long for the kernel's buffer and is cut off: then nothing is known. */
function resolvedMembers(text: string): readonly ResolvedMember[] {
  let operation: { par?: unknown };
  try {
    operation = JSON.parse(text.slice(text.indexOf("{"))) as { par?: unknown };
  } catch {
    return [];
  }
  const members = Array.isArray(operation.par) ? (operation.par as unknown[]) : [operation];
  return members.map((member) => {
    const { _pte_addr, _value } = member as { _pte_addr?: unknown; _value?: unknown };
    return { pteAddress: readAmount(_pte_addr) ?? null, value: readU64(_value) ?? null };
  });
}

function slotMarkers(setup: readonly TraceLine[]): readonly SlotMarker[] {
  return setup.flatMap((line) => {
    const slot = parseSlotMarker(line);
    return slot === null ? [] : [{ ...slot, counter: line.counter }];
  });
}

/** The recording as an execution that can be compared with another. */
export function runOf(recording: KernelRecording): WorkloadRun {
  const events = (lines: readonly TraceLine[]): EventLine[] =>
    lines.map(({ task, event, text }) => ({ task, event, text }));
  return {
    setup: events(recording.setup),
    operations: recording.operations.map((operation) => ({
      events: events([...operation.lines, ...operation.after]),
      stats: operation.stats,
      flushes: [...operation.lines, ...operation.after].filter((line) => line.event === FLUSH_PROBE).length,
    })),
    teardown: events(recording.teardown),
    layout: recording.layout,
  };
}
