/** The list of modules in docs/floors.md, made from the sources. */

const FLOORS = ["cli", "report", "studies", "conform", "oracle", "kvm", "kernel", "machine", "engine"];

/**
 * @param paths the sources
 * @param read gives a file's text by its path
 */
export function moduleList(paths: readonly string[], read: (path: string) => string): string {
  const sources = [...paths].sort();
  const sections = FLOORS.map((floor) => {
    const own = sources.filter((path) => path.startsWith(`src/${floor}/`));
    const lines = own.map(
      (path) => `- \`${path.slice(`src/${floor}/`.length)}\`: ${firstSentence(read(path)).replaceAll("<", "\\<")}`,
    );
    return [`### src/${floor}`, "", ...lines].join("\n");
  });
  return `${sections.join("\n\n")}\n`;
}

/** The first sentence of the comment that a module begins with, without code marks; empty when there is none. */
export function firstSentence(source: string): string {
  const comment = /^(?:#!.*\n)?\/\*\*([\s\S]*?)\*\//.exec(source)?.[1] ?? "";
  const [paragraph = ""] = comment
    .replace(/^[ \t]*\* ?/gm, "")
    .trim()
    .split(/\n\s*\n/);
  const text = paragraph.replace(/\s+/g, " ").replaceAll("`", "");
  return /^.*?[.?!](?= [A-Z]|$)/.exec(text)?.[0] ?? text;
}
