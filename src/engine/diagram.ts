/**
 * The race diagram: a column for each CPU, time downwards, as commit messages draw it.
 *
 *      CPU 0 (refresh)                   CPU 1 (munmap)
 *      ----                              ----
 *      kvm_gpc_refresh():
 *       READ(mmu_invalidate_seq) = 4
 *                                        invalidate_range_start():
 *
 * Plain ASCII, at most 72 columns. Steps that no other task can notice are left out.
 */
import { type DiagramLine, foldLoops, foldRepeats } from "./diagram-loops.ts";
import type { Replay, ReplayStep, SourcePlace } from "./replay.ts";
import { modelledPlaces } from "./sides.ts";

const WIDTH = 72;
const GAP = 2;

/** What to write above the steps that a function makes; null for one that says nothing to the reader. */
export type HeadingOf = (place: SourcePlace) => string | null;

export interface DiagramOptions {
  /** Show every step, not only those that another task can notice. */
  readonly all?: boolean;
  /** From this step on, the schedule repeats for ever. */
  readonly cycleFrom?: number;
  /** Headings; left out, every function is named. A step is under the innermost function that has one. */
  readonly headingOf?: HeadingOf;
}

export function diagram(replay: Replay, verdictLine: string, options: DiagramOptions = {}): string {
  const all = [...replay.steps, ...replay.waiting];
  const cpus = [...new Set(all.map((step) => step.cpu))].sort((a, b) => a - b);
  if (cpus.length === 0) return wrap(verdictLine, WIDTH).join("\n");
  const width = Math.floor((WIDTH - 1 - GAP * (cpus.length - 1)) / cpus.length);
  const { tasks } = replay.execution.world;
  const lines: string[] = [];
  const leftOf = (cpu: number): number => 1 + cpus.indexOf(cpu) * (width + GAP);
  const roomOf = (cpu: number): number => (cpu === cpus.at(-1) ? WIDTH - leftOf(cpu) : width);
  const put = (cpu: number, text: string): void => {
    for (const [k, part] of wrap(text, roomOf(cpu)).entries()) {
      lines.push(`${" ".repeat(leftOf(cpu))}${k === 0 ? "" : "  "}${part}`.trimEnd());
    }
  };
  const heads = cpus.map((cpu) => `CPU ${cpu} (${tasks[cpu]?.name ?? "?"})`.slice(0, width).padEnd(width));
  lines.push(` ${heads.join(" ".repeat(GAP))}`.trimEnd());
  lines.push(` ${cpus.map(() => "----".padEnd(width)).join(" ".repeat(GAP))}`.trimEnd());
  const inFunction = new Map<number, string>();
  for (const { cpu, heading, text, startsCycle } of foldRepeats(foldLoops(linesOf(all, replay, options)))) {
    if (startsCycle) lines.push(banner("from here on, for ever:"));
    if (heading !== "" && inFunction.get(cpu) !== heading) {
      inFunction.set(cpu, heading);
      // A heading that just fits does without its colon.
      put(cpu, heading.length === roomOf(cpu) ? heading : `${heading}:`);
    }
    put(cpu, ` ${text}`);
  }
  const marked = wrap(`<-- ${verdictLine}`, WIDTH - 3);
  lines.push(...marked.map((part, k) => ` ${k === 0 ? "" : "    "}${part}`));
  return lines.join("\n");
}

/** The steps that are shown. A cycle that begins with one that is not begins with the next that is. */
function linesOf(steps: readonly ReplayStep[], replay: Replay, options: DiagramOptions): DiagramLine[] {
  const lines: DiagramLine[] = [];
  let startsCycle = false;
  for (const step of steps) {
    if (step.index === options.cycleFrom) startsCycle = true;
    if (!isShown(step, replay, options)) continue;
    const heading = headingFor(step, options.headingOf);
    lines.push({ cpu: step.cpu, heading, text: `${lineInC(step)}${step.text}`, startsCycle });
    startsCycle = false;
  }
  return lines;
}

function isShown(step: ReplayStep, replay: Replay, options: DiagramOptions): boolean {
  if (options.all) return true;
  if (step.drain && !step.late) return false;
  if (step.shared || step.operation === "Note" || step.operation === "Choose") return true;
  return step.index === replay.steps.length - 1;
}

/** For steps of C code: the line in the file that its heading names. */
function lineInC({ stack }: ReplayStep): string {
  const place = stack.find(({ file }) => !file.endsWith(".h"));
  return place?.file.endsWith(".c") && place.line > 0 ? `${place.line}: ` : "";
}

/** The modelled function that made the step, not the primitive (a lock, a barrier) that it used. */
function headingFor(step: ReplayStep, headingOf: HeadingOf | undefined): string {
  const places = modelledPlaces(step.stack);
  for (const place of places) {
    const heading = headingOf?.(place) ?? null;
    if (heading !== null) return heading;
  }
  // No function of the stack has one: a user's own program.
  const own = (places[0] ?? step.stack[0])?.function ?? "";
  return own === "" ? "" : `${own}()`;
}

function banner(text: string): string {
  const side = Math.max(0, Math.floor((WIDTH - 4 - text.length) / 2));
  return ` ${"-".repeat(side)} ${text} ${"-".repeat(side)}`;
}

/** Breaks at blanks where it can, else between the parts of a name. */
function wrap(text: string, width: number): string[] {
  const parts: string[] = [];
  let rest = text;
  for (let room = width; rest.length > room; room = width - 2) {
    const cut = breakAt(rest, room);
    parts.push(rest.slice(0, cut));
    rest = rest.slice(cut).trimStart();
  }
  parts.push(rest);
  return parts;
}

function breakAt(text: string, room: number): number {
  const blank = text.lastIndexOf(" ", room);
  if (blank > room / 2) return blank;
  const inName = Math.max(...["_", ">", "(", "."].map((mark) => text.lastIndexOf(mark, room - 1) + 1));
  return inName > room / 2 ? inName : room;
}
