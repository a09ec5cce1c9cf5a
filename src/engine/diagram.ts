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
import type { Replay, ReplayStep } from "./replay.ts";

const WIDTH = 72;
const GAP = 2;

export interface DiagramOptions {
  /** Show every step, not only those that another task can notice. */
  readonly all?: boolean;
  /** From this step on, the schedule repeats for ever. */
  readonly cycleFrom?: number;
  /** The functions to name, as the kernel spells them; all when left out. Helpers of the model itself say nothing to a reader. */
  readonly functions?: ReadonlySet<string>;
}

export function diagram(replay: Replay, verdictLine: string, options: DiagramOptions = {}): string {
  const all = [...replay.steps, ...replay.waiting];
  const cpus = [...new Set(all.map((step) => step.cpu))].sort((a, b) => a - b);
  if (cpus.length === 0) return verdictLine;
  const width = Math.floor((WIDTH - 1 - GAP * (cpus.length - 1)) / cpus.length);
  const { tasks } = replay.execution.world;
  const lines: string[] = [];
  const put = (cpu: number, text: string): void => {
    const column = cpus.indexOf(cpu);
    for (const [k, part] of wrap(
      text,
      column === cpus.length - 1 ? WIDTH - 1 - column * (width + GAP) : width,
    ).entries()) {
      lines.push(`${" ".repeat(1 + column * (width + GAP))}${k === 0 ? "" : "  "}${part}`.trimEnd());
    }
  };
  const heads = cpus.map((cpu) => `CPU ${cpu} (${tasks[cpu]?.name ?? "?"})`.slice(0, width).padEnd(width));
  lines.push(` ${heads.join(" ".repeat(GAP))}`.trimEnd());
  lines.push(` ${cpus.map(() => "----".padEnd(width)).join(" ".repeat(GAP))}`.trimEnd());
  const inFunction = new Map<number, string>();
  for (const step of all) {
    if (step.index === options.cycleFrom) lines.push(banner("from here on, for ever:"));
    if (!isShown(step, replay, options)) continue;
    const where = functionOf(step, options.functions);
    if (where !== "" && inFunction.get(step.cpu) !== where) {
      inFunction.set(step.cpu, where);
      put(step.cpu, `${where}():`);
    }
    put(step.cpu, ` ${step.text}`);
  }
  const marked = wrap(`<-- ${verdictLine}`, WIDTH - 2);
  lines.push(...marked.map((part, k) => ` ${k === 0 ? "" : "    "}${part}`));
  return lines.join("\n");
}

function isShown(step: ReplayStep, replay: Replay, options: DiagramOptions): boolean {
  if (options.all) return true;
  if (step.drain && !step.late) return false;
  if (step.shared || step.operation === "Note" || step.operation === "Choose") return true;
  return step.index === replay.steps.length - 1;
}

/** The modelled function that made the step, not the primitive (a lock, a barrier) that it used. */
function functionOf(step: ReplayStep, functions: ReadonlySet<string> | undefined): string {
  const places = step.stack.filter((frame) => !PRIMITIVES.test(frame.file));
  const known =
    functions === undefined ? places[0] : (places.find((frame) => functions.has(frame.function)) ?? places.at(-1));
  return (known ?? step.stack[0])?.function ?? "";
}

/** Files whose functions are what modelled code is made of, not the code itself. */
const PRIMITIVES = /[\\/](locks|rcu|wait-queue|interrupts)\.[jt]s$/;

function banner(text: string): string {
  const side = Math.max(0, Math.floor((WIDTH - 4 - text.length) / 2));
  return ` ${"-".repeat(side)} ${text} ${"-".repeat(side)}`;
}

/** Breaks at blanks where it can. */
function wrap(text: string, width: number): string[] {
  const parts: string[] = [];
  let rest = text;
  while (rest.length > width) {
    const room = parts.length === 0 ? width : width - 2;
    const at = rest.lastIndexOf(" ", room);
    const cut = at > room / 2 ? at : room;
    parts.push(rest.slice(0, cut));
    rest = rest.slice(cut).trimStart();
  }
  parts.push(rest);
  return parts;
}
