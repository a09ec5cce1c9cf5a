/** Reading Markdown, as far as the tests of the documents need it. */

export interface CodeBlock {
  readonly language: string;
  /** Ends with a newline. */
  readonly text: string;
  /** The next code block, when nothing but blank lines is between. */
  readonly following: CodeBlock | null;
}

/** The fenced code blocks of a document, in order. */
export function blocksOf(markdown: string): CodeBlock[] {
  const found = [...markdown.matchAll(/^```(\w*)\n([\s\S]*?)^```$/gm)];
  const blocks: CodeBlock[] = [];
  for (const [i, match] of [...found.entries()].reverse()) {
    const end = match.index + match[0].length;
    const next = found[i + 1];
    const isNext = next !== undefined && markdown.slice(end, next.index).trim() === "";
    const following = isNext ? (blocks[0] ?? null) : null;
    blocks.unshift({ language: match[1] ?? "", text: match[2] ?? "", following });
  }
  return blocks;
}

/** The rows of the first table below the heading, each a list of cells without code marks. */
export function tableBelow(markdown: string, heading: string): string[][] {
  const lines = markdown.split("\n");
  const start = lines.findIndex((line) => /^#+ /.test(line) && line.replace(/^#+ /, "") === heading);
  const table: string[][] = [];
  for (const line of lines.slice(start + 1)) {
    if (line.startsWith("#") || (table.length > 0 && !line.startsWith("|"))) break;
    if (line.startsWith("|"))
      table.push(
        line
          .slice(1, -1)
          .split("|")
          .map((cell) => cell.trim().replace(/^`(.*)`$/, "$1")),
      );
  }
  return table.slice(2);
}
