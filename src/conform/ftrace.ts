/**
 * The text of tracefs' `trace` file, with its default options (reference/tracepoints.md, section 1).
 *
 *     #                                _-----=> irqs-off/BH-disabled
 *                vcpu0-4144    [000] ...1.        50698: kvm_mmu_spte_requested: gfn 40010 pfn 23162 level 1
 *     |          |     |        |    |            |      |                       |
 *     right-     comm  pid      CPU  flags        clock  event                   text, kept exactly as printed
 *     aligned
 *
 * The recordings use the clock `counter`: a number that grows by one with each event anywhere. It orders lines over all CPUs and is
 * not a time. A clock that prints seconds and microseconds is read as well.
 *
 * A gap in a trace (a ring buffer that overflowed) makes every comparison after it meaningless, so gaps are part of the result: the
 * lines `CPU:n [LOST k EVENTS]`, and a header whose two entry counts differ.
 */
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { usageError } from "./json-input.ts";

/** One event of a trace. */
export interface TraceLine {
  /** Line of the file, counted from 1. */
  readonly line: number;
  /** The thread's name, without the pid. */
  readonly task: string;
  readonly pid: number;
  readonly cpu: number;
  /** Five characters: irqs, need-resched, context, preemption depth, migrate-disable depth. */
  readonly flags: string;
  /** What the trace clock said: a counter, or seconds. */
  readonly counter: number;
  readonly event: string;
  /** What follows `event: `, exactly as the kernel printed it. */
  readonly text: string;
}

/** Events that are missing. */
export interface LostEvents {
  /** Line of the file where the gap is. */
  readonly line: number;
  /** Null: the whole buffer. */
  readonly cpu: number | null;
  /** Null: unknown. */
  readonly count: number | null;
}

export interface Trace {
  readonly file: string;
  readonly lines: readonly TraceLine[];
  readonly lost: readonly LostEvents[];
}

const EVENT = /^\s*(.+?)-(\d+)\s+\[(\d+)\]\s+(\S+)\s+(\d+(?:\.\d+)?): ([\w/.-]+):(?: (.*))?$/;
const LOST = /^\s*CPU:(\d+) \[LOST (?:(\d+) )?EVENTS\]\s*$/;
const ENTRIES = /^# entries-in-buffer\/entries-written: (\d+)\/(\d+)/;

/**
 * Reads a trace, packed by gzip when the name ends in `.gz`.
 *
 * @throws UsageError, one line `FILE:LINE: ...`, when it cannot be read or a line is neither an event nor a comment
 */
export function readTrace(file: string): Trace {
  return parseTrace(file, readPacked(file));
}

function readPacked(file: string): string {
  try {
    const bytes = readFileSync(file);
    return (file.endsWith(".gz") ? gunzipSync(bytes) : bytes).toString("utf8");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    throw usageError(
      file,
      "",
      `cannot be read (${code}); give a trace file, or one packed by gzip whose name ends in .gz`,
    );
  }
}

/** The same for text that was read already; `file` is used in messages. */
export function parseTrace(file: string, content: string): Trace {
  const lines: TraceLine[] = [];
  const lost: LostEvents[] = [];
  content.split("\n").forEach((whole, at) => {
    const line = at + 1;
    const source = whole.endsWith("\r") ? whole.slice(0, -1) : whole;
    const event = EVENT.exec(source);
    if (event !== null) lines.push(eventOf(line, event));
    else if (!isComment(line, source, lost)) {
      throw usageError(
        `${file}:${line}`,
        "",
        `not a line of a trace: "${source.slice(0, 60)}"; give the text as tracefs printed it`,
      );
    }
  });
  if (lines.length === 0) throw usageError(file, "", "holds no events; record it again");
  return { file, lines, lost };
}

function eventOf(line: number, match: RegExpExecArray): TraceLine {
  const [, task, pid, cpu, flags, clock, event, text] = match as unknown as readonly string[];
  return {
    line,
    task: task as string,
    pid: Number(pid),
    cpu: Number(cpu),
    flags: flags as string,
    counter: Number(clock),
    event: event as string,
    text: text ?? "",
  };
}

/** True for a line that holds no event; notes a gap in `lost`. */
function isComment(line: number, source: string, lost: LostEvents[]): boolean {
  const gap = LOST.exec(source);
  if (gap !== null) {
    lost.push({ line, cpu: Number(gap[1]), count: gap[2] === undefined ? null : Number(gap[2]) });
    return true;
  }
  const entries = ENTRIES.exec(source);
  const missing = entries === null ? 0 : Number(entries[2]) - Number(entries[1]);
  if (missing !== 0) lost.push({ line, cpu: null, count: missing });
  // "##### CPU n buffer started ####" begins with # as well.
  return source.trim() === "" || source.startsWith("#");
}
