/** The tables of docs/kernel-map.md: reading them, and making them anew from the data and the sources. */
import { KERNEL_MAP, KERNEL_MAP_OF_FILE, kernelText } from "../../src/kvm/kernel-map.ts";

/** The documents, and the part of the sources that each is about. */
export const MAPS: readonly (readonly [document: string, part: string])[] = [
  ["docs/kernel-map.md", "src/kvm/"],
  ["docs/kernel-map-shadow.md", "src/kvm/shadow/"],
  ["docs/kernel-map-linux.md", "src/kernel/"],
];

/** The part that a file belongs to: the smallest folder that has a document. */
export function partOf(file: string): string | undefined {
  const parts = MAPS.map(([, part]) => part).filter((part) => file.startsWith(part));
  return parts.sort((a, b) => b.length - a.length)[0];
}

/** What the tables are made from. */
export interface Sources {
  /** Modules of src/kvm, src/kernel and src/machine. */
  readonly paths: readonly string[];
  readonly read: (path: string) => string;
}

const NAMES_HEAD = `/** Made by "npm run docs": functions whose comment begins with the name of the kernel function that they stand for. */
export const KERNEL_NAMES: Readonly<Record<string, string>> = {
`;

/** What src/kvm/kernel-names.ts should be. */
export function kernelNamesSource({ paths, read }: Sources): string {
  const names = new Map<string, string>();
  for (const path of [...paths].sort()) {
    for (const [, comment = "", name = ""] of read(path).matchAll(DOCUMENTED)) {
      const kernel = /^\s*(?:\*\s*)?`?(FNAME\(\w+\)|_*[a-z]\w+(?=\(\)))/.exec(comment)?.[1];
      if (kernel !== undefined) names.set(name, kernel);
    }
  }
  const lines = [...names].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, kernel]) => `  ${name}: "${kernel}",\n`);
  return `${NAMES_HEAD}${lines.join("")}};\n`;
}

/** A comment, and the function below it. */
const DOCUMENTED = /\/\*\*((?:(?!\*\/)[\s\S])*)\*\/\n(?:export )?function\*? (\w+)/g;

/** A kernel function, and what stands for it in one file. */
export interface Row {
  readonly file: string;
  readonly kernel: string;
  readonly ours: readonly string[];
  readonly leftOut: string;
}

/** The rows of a document: of tables below headings that name a source file. */
export function rowsOf(markdown: string): Row[] {
  let file = "";
  const rows: Row[] = [];
  for (const line of markdown.split("\n")) {
    file = SECTION.exec(line)?.[1] ?? file;
    const [, kernel, ours, leftOut] = /^\| `(FNAME\(\w+\)|\w+(?=\(\)))(?:\(\))?` \| ([^|]+) \|(.*)\|$/.exec(line) ?? [];
    if (kernel === undefined || ours === undefined) continue;
    const names = [...ours.matchAll(/`(\w+)(?:\(\))?`/g)].map((match) => match[1] ?? "");
    rows.push({ file, kernel, ours: names, leftOut: (leftOut ?? "").trim() });
  }
  return rows;
}

const SECTION = /^### (src\/\S+\.ts)/;

/** The rows as they should be, in the order of the data; what is left out is taken from the rows that there are. */
export function wantedRows(old: readonly Row[], sources: Sources): Row[] {
  const rows = new Map<string, { file: string; kernel: string; ours: string[]; leftOut: string }>();
  for (const [ours, kernel, file] of pairs(sources).sort(([, , a], [, , b]) => (a < b ? -1 : a > b ? 1 : 0))) {
    const key = `${file} ${kernel}`;
    const known =
      old.find((row) => row.kernel === kernel && row.file === file) ?? old.find((row) => row.kernel === kernel);
    const row = rows.get(key) ?? { file, kernel, ours: [], leftOut: known?.leftOut ?? "" };
    row.ours.push(ours);
    rows.set(key, row);
  }
  return [...rows.values()];
}

/** Every function of the data, the kernel's name of it, and each file that declares it. */
function pairs(sources: Sources): [string, string, string][] {
  const moduleOf = (path: string): string => /([\w-]+)\.ts$/.exec(path)?.[1] ?? "";
  const all = Object.entries(KERNEL_MAP).flatMap(([ours, kernel]) =>
    homesOf(ours, sources)
      .filter((path) => KERNEL_MAP_OF_FILE[moduleOf(path)]?.[ours] === undefined)
      .map((path): [string, string, string] => [ours, kernel, path]),
  );
  const excepted = Object.entries(KERNEL_MAP_OF_FILE).flatMap(([module, map]) =>
    Object.entries(map).flatMap(([ours, kernel]) =>
      homesOf(ours, sources)
        .filter((path) => moduleOf(path) === module)
        .map((path): [string, string, string] => [ours, kernel, path]),
    ),
  );
  return [...all, ...excepted];
}

/** The files that declare a function or a class of the name; those that have a method of it, when none does. */
export function homesOf(name: string, { paths, read }: Sources): string[] {
  const declares = new RegExp(`^(?:export )?(?:function\\*?|class) ${name}\\b`, "m");
  const hasMethod = new RegExp(`^ {2,}\\*${name}\\(`, "m");
  const declared = paths.filter((path) => declares.test(read(path)));
  return declared.length > 0 ? declared : paths.filter((path) => hasMethod.test(read(path)));
}

/**
 * The document with its tables made anew. Sections of files without rows go; those of new files come after their folder's.
 * @param part the folder that the document is about
 */
export function mended(markdown: string, sources: Sources, part: string): string {
  const rows = wantedRows(rowsOf(markdown), sources).filter(({ file }) => partOf(file) === part);
  const files = new Set(rows.map(({ file }) => file));
  const sections = markdown.split(/(?=^#{2,3} )/m);
  const done = new Set<string>();
  const kept = sections.flatMap((section) => {
    const file = SECTION.exec(section)?.[1];
    if (file === undefined) return [section];
    done.add(file);
    return files.has(file) ? [`${section.split("\n")[0] ?? ""}\n\n${tableOf(rows, file)}\n`] : [];
  });
  for (const file of [...files].filter((path) => !done.has(path))) {
    const folder = file.slice(0, file.lastIndexOf("/"));
    const last = kept.findLastIndex((section) => SECTION.exec(section)?.[1]?.startsWith(`${folder}/`));
    kept.splice(last < 0 ? kept.length : last + 1, 0, `### ${file}\n\n${tableOf(rows, file)}\n`);
  }
  return kept.join("");
}

function tableOf(rows: readonly Row[], file: string): string {
  const lines = rows
    .filter((row) => row.file === file)
    .map(({ kernel, ours, leftOut }) => {
      const names = ours.map((name) => (/^[A-Z]/.test(name) ? `\`${name}\`` : `\`${name}()\``)).join(", ");
      return `| \`${kernelText(kernel)}\` | ${names} |${leftOut === "" ? "" : ` ${leftOut}`} |`;
    });
  return ["| kernel | ours | left out |", "| --- | --- | --- |", ...lines, ""].join("\n");
}
