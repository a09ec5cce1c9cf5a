/**
 * Loops in a diagram: the same thing done to one entry of an array after the other is one line, and lines that come again and again are there once.
 *
 *     spte(l1 gfn 0 [1]) == 0x8000000000000000
 *     spte(l1 gfn 0 [2]) == 0x8000000000000000      ->      spte(l1 gfn 0 [1] to [511]) == 0x8000000000000000
 *     ...
 */

/** One line of a diagram. */
export interface DiagramLine {
  readonly cpu: number;
  readonly heading: string;
  readonly text: string;
  /** From here on the schedule repeats for ever. */
  readonly startsCycle: boolean;
}

/** Lines of a loop that are fewer stay as they are. */
const SHORTEST = 3;

export function foldLoops(lines: readonly DiagramLine[]): DiagramLine[] {
  const folded: DiagramLine[] = [];
  for (let at = 0; at < lines.length; ) {
    const first = lines[at] as DiagramLine;
    const length = loopFrom(lines, at);
    const last = lines[at + length - 1] as DiagramLine;
    const [head, tail] = [indexIn(first.text), indexIn(last.text)];
    if (length < SHORTEST || head === null || tail === null) {
      folded.push(first);
      at++;
      continue;
    }
    folded.push({ ...first, text: `${head.before}[${head.index}] to [${tail.index}]${head.after}` });
    at += length;
  }
  return folded;
}

/** How many lines from `at` on are one loop. */
function loopFrom(lines: readonly DiagramLine[], at: number): number {
  const first = lines[at] as DiagramLine;
  const head = indexIn(first.text);
  let length = 1;
  for (; head !== null; length++) {
    const line = lines[at + length];
    if (line === undefined || line.startsCycle || line.cpu !== first.cpu || line.heading !== first.heading) break;
    const next = indexIn(line.text);
    if (next === null || next.before !== head.before || next.after !== head.after) break;
    if (next.index !== head.index + length) break;
  }
  return length;
}

/** The last decimal index in a text, and what stands around it. */
function indexIn(text: string): { readonly before: string; readonly index: number; readonly after: string } | null {
  const [, before, index, after] = /^(.*)\[(\d+)\]([^[]*)$/.exec(text) ?? [];
  if (before === undefined || index === undefined || after === undefined) return null;
  return { before, index: Number(index), after };
}

/** Lines that come so often or more, one block of them after the other, are written once. */
const OFTEN = 4;
/** Lines of a block. */
const LONGEST = 40;

/** Says of lines that come again and again how often they do. */
export function foldRepeats(lines: readonly DiagramLine[]): DiagramLine[] {
  const folded: DiagramLine[] = [];
  for (let at = 0; at < lines.length; ) {
    const { length, times } = repeatFrom(lines, at);
    folded.push(...lines.slice(at, at + length));
    if (times >= OFTEN) {
      const { cpu, heading } = lines[at + length - 1] as DiagramLine;
      const what = length === 1 ? "the same" : `the last ${length} lines`;
      folded.push({ cpu, heading, text: `(${what} ${times - 1} times more)`, startsCycle: false });
    }
    at += times >= OFTEN ? length * times : length;
  }
  return folded;
}

/** The shortest block from `at` on that comes often; else one line, once. */
function repeatFrom(lines: readonly DiagramLine[], at: number): { readonly length: number; readonly times: number } {
  for (let length = 1; length <= LONGEST && at + OFTEN * length <= lines.length; length++) {
    let same = 0;
    while (isSame(lines[at + same], lines[at + same + length])) same++;
    const times = 1 + Math.floor(same / length);
    if (times >= OFTEN) return { length, times };
  }
  return { length: 1, times: 1 };
}

/** Whether a line says what one before it has said. */
function isSame(before: DiagramLine | undefined, line: DiagramLine | undefined): boolean {
  if (before === undefined || line === undefined || line.startsCycle) return false;
  return before.cpu === line.cpu && before.heading === line.heading && before.text === line.text;
}
