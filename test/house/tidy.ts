/** Rules for every file of the repository, each a function from a file to what is wrong with it. */
import { commandLine, type Handlers } from "../../src/cli/command-line.ts";

const LINES_MAX = 600;

/** A source file with more lines has a second noun in it. */
export function sizeFaults(path: string, text: string): string[] {
  const lines = text.split("\n").length - 1;
  return lines > LINES_MAX ? [`${path}: ${lines} lines, more than ${LINES_MAX}; look for the second noun in it`] : [];
}

/** Paths of somebody's machine: they are true nowhere else. */
const MACHINE_PATHS = /(?<![\w./-])(?:\/(?:home|Users|root|work|tmp|mnt|opt)\/[\w.-]+|[A-Z]:\\\w)/;

export function machinePathFaults(path: string, text: string): string[] {
  return faultsByLine(path, text, (line) => {
    const found = MACHINE_PATHS.exec(line);
    return found === null ? null : `${found[0]} is a path of one machine`;
  });
}

/** What is to be done belongs to an issue, which the line names: a number or a link. */
export function todoFaults(path: string, text: string): string[] {
  return faultsByLine(path, text, (line) =>
    /\b(?:TODO|FIXME|XXX)\b/.test(line) && !/#\d+|https?:/.test(line) ? "a TODO without an issue" : null,
  );
}

function faultsByLine(path: string, text: string, faultOf: (line: string) => string | null): string[] {
  return text.split("\n").flatMap((line, i) => {
    const fault = faultOf(line);
    return fault === null ? [] : [`${path}:${i + 1}: ${fault}`];
  });
}

// --- documents -------------------------------------------------------------------------------------------------------

/** Targets of relative links in Markdown, outside of code. */
export function relativeLinks(markdown: string): string[] {
  const prose = markdown.replace(/```[\s\S]*?```|`[^`\n]*`/g, "");
  const found = [...prose.matchAll(/\]\(<?([^)\s>]+)>?(?:\s+"[^"]*")?\)|^\[[^\]]+\]:\s*(\S+)/gm)];
  return found
    .map((match) => match[1] ?? match[2] ?? "")
    .filter((target) => !/^[a-z][a-z0-9+.-]*:|^#/i.test(target))
    .map((target) => decodeURIComponent(target.replace(/#.*$/, "")));
}

/** Command lines that begin with `racewalk`, in code blocks and in code between text, as words. */
export function documentedCommands(markdown: string): string[][] {
  const blocks = [...markdown.matchAll(/^```[^\n]*\n([\s\S]*?)^```/gm)].map((match) => match[1] ?? "");
  const indented = [...markdown.matchAll(/^(?: {4}|\t)(.*)$/gm)].map((match) => match[1] ?? "");
  const inline = [...markdown.replace(/^```[\s\S]*?^```/gm, "").matchAll(/`([^`\n]+)`/g)].map(
    (match) => match[1] ?? "",
  );
  const lines = [...blocks, ...indented, ...inline].flatMap((text) => text.replace(/\\\n\s*/g, " ").split("\n"));
  return lines.flatMap((line) => {
    const [, command] = /^\s*(?:\$ )?(?:npx |\.\/)?(racewalk(?: .*)?)$/.exec(line) ?? [];
    // Synopses have placeholders, which are no commands.
    if (command === undefined || /[[\]]|\w\|\w|\.\.\./.test(command) || !command.includes(" ")) return [];
    return [shellWords(command).slice(1)];
  });
}

/** Words of a simple command, up to a comment, a pipe or a redirection. */
function shellWords(line: string): string[] {
  const words: string[] = [];
  for (const match of line.matchAll(/(#.*|[|<>;&].*)|((?:"[^"]*"|'[^']*'|[^\s"'])+)/g)) {
    if (match[2] === undefined) break;
    words.push(match[2].replace(/"([^"]*)"|'([^']*)'/g, (_, a, b) => a ?? b));
  }
  return words;
}

/** @returns what the command line says against the words, null when they parse */
export async function parseFault(words: readonly string[]): Promise<string | null> {
  const nothing = async (): Promise<void> => undefined;
  // Whatever the command, it does nothing.
  const handlers = new Proxy({}, { get: () => nothing }) as Handlers;
  const command = commandLine(handlers, () => undefined);
  try {
    await command.parseAsync([...words], { from: "user" });
  } catch (error) {
    const { code, message } = error as { readonly code?: string; readonly message: string };
    return code === "commander.helpDisplayed" || code === "commander.version" ? null : message;
  }
  return null;
}
