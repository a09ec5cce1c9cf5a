/**
 * Text that people paste into mail: plain, at most 72 columns.
 */

/** Columns of everything that is printed. */
export const COLUMNS = 72;

/**
 * Breaks a text into lines: at blanks; a word longer than a line after a slash or a comma, or else anywhere. Blanks are kept as they are
 * inside a line.
 * @param indent what lines after the first begin with
 * @param width columns of a line, `indent` included
 */
export function wrap(text: string, width: number = COLUMNS, indent = ""): string[] {
  const lines: string[] = [];
  let rest = text.replace(/\s*\n\s*/g, " ").trimEnd();
  let start = "";
  for (;;) {
    const room = Math.max(1, width - start.length);
    if (rest.length <= room) break;
    const cut = breakAt(rest, room);
    lines.push((start + rest.slice(0, cut)).trimEnd());
    rest = rest.slice(cut).trimStart();
    start = indent;
  }
  if (rest !== "" || lines.length === 0) lines.push(start + rest);
  return lines;
}

/** Where to break a text that is longer than `room`. */
function breakAt(text: string, room: number): number {
  const blank = text.lastIndexOf(" ", room);
  if (blank > 0 && text.slice(0, blank).trim() !== "") return blank;
  const soft = Math.max(
    text.lastIndexOf("/", room - 1),
    text.lastIndexOf(",", room - 1),
    text.lastIndexOf("-", room - 1),
  );
  return soft > 0 ? soft + 1 : room;
}

/** A word as a POSIX shell reads it back. */
export function shellWord(word: string): string {
  if (/^[\w./:=@,+-]+$/.test(word)) return word;
  if (!/["$`\\!]/.test(word)) return `"${word}"`;
  return `'${word.replaceAll("'", "'\\''")}'`;
}

/**
 * A command that can be pasted into a shell, on lines that end in a backslash where one is not enough. A word longer than a line goes on
 * at the beginning of the next one, where the shell joins it.
 * @param groups words that stay together when they fit: an option and its value
 */
export function shellCommand(groups: readonly (readonly string[])[], width: number = COLUMNS): string[] {
  const lines: string[] = [];
  let line = "";
  for (const group of groups) {
    const text = group.map(shellWord).join(" ");
    const longer = line === "" ? text : `${line} ${text}`;
    if (line === "" || longer.length <= width - 2) {
      line = longer;
      continue;
    }
    lines.push(`${line} \\`);
    line = `  ${text}`;
  }
  lines.push(line);
  // Between single quotes a backslash is only a backslash.
  return lines.flatMap((whole) => (/(^| )'/.test(whole) ? [whole] : splitLongLine(whole, width)));
}

function splitLongLine(line: string, width: number): string[] {
  const parts: string[] = [];
  let rest = line;
  while (rest.length > width) {
    // A backslash that belongs to the text must not meet the end of the line.
    let cut = width - 1;
    while (cut > 1 && rest[cut - 1] === "\\") cut--;
    parts.push(`${rest.slice(0, cut)}\\`);
    rest = rest.slice(cut);
  }
  parts.push(rest);
  return parts;
}

/** `1 cell`, `2 cells`. */
export function count(n: number, noun: string): string {
  return `${n} ${noun}${n === 1 ? "" : "s"}`;
}

/** What colours do; each is the identity where there are none. */
export interface Paint {
  bold(text: string): string;
  dim(text: string): string;
  red(text: string): string;
  green(text: string): string;
  yellow(text: string): string;
}
