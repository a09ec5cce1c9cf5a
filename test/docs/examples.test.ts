/**
 * The examples: they run, print what the documents say, and stand in the documents as they are.
 *
 * UPDATE_DOCS=1 writes what they are and print into the documents.
 */
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { basename } from "node:path";
import { describe, expect, test } from "vitest";
import { ROOT, read, repositoryFiles } from "../house/tree.ts";
import { documents } from "./documents.ts";
import { blocksOf, type CodeBlock } from "./markdown.ts";

const UPDATE = process.env["UPDATE_DOCS"] === "1";

const examples = repositoryFiles().filter((path) => path.startsWith("examples/"));

interface Shown extends CodeBlock {
  readonly document: string;
  /** The file of examples/ that the program is a copy of: it says so in its first lines. */
  readonly example: string;
}

/** The complete programs of the documents; they begin with a comment that names the file. */
const programs: readonly Shown[] = documents().flatMap((document) =>
  blocksOf(read(document))
    .filter(({ language, text }) => language === "ts" && text.startsWith("/**\n"))
    .map((block) => ({ ...block, document, example: /\bexamples\/[\w-]+\.ts/.exec(block.text)?.[0] ?? "" })),
);

test("every example stands in a document", () => {
  const shown = new Set(programs.map(({ example }) => example));
  expect(examples.filter((path) => !shown.has(path))).toEqual([]);
});

describe.each(programs.map((program) => [`${program.example} in ${program.document}`, program] as const))(
  "%s",
  (_, shown) => {
    const { document, example, text, following } = shown;

    test("is a copy", () => {
      expect(examples).toContain(example);
      if (UPDATE) replaceIn(document, text, read(example));
      else expect(text).toBe(read(example));
    });

    test("gives what it states", () => {
      if (isStudy(example)) {
        const { ok, cells } = JSON.parse(checked(example)) as { ok: boolean; cells: { complete: boolean }[] };
        expect(ok).toBe(true);
        expect(cells.every(({ complete }) => complete)).toBe(true);
        return;
      }
      const output = node(["--import", `${ROOT}test/docs/own-racewalk.ts`, ROOT + example]);
      expect(following?.language, "what it prints stands below it").toBe("text");
      if (UPDATE) replaceIn(document, following?.text ?? "", output);
      else expect(following?.text).toBe(output);
    });
  },
);

function isStudy(example: string): boolean {
  return read(example).includes("export default study(");
}

function checked(example: string): string {
  return node([`${ROOT}src/cli/main.ts`, "check", ROOT + example, "--json"]);
}

function node(args: readonly string[]): string {
  return execFileSync(process.execPath, args, { encoding: "utf8" });
}

function replaceIn(document: string, old: string, text: string): void {
  writeFileSync(
    ROOT + document,
    read(document).replace(old, () => text),
  );
}

test("the test that writing-a-study.md shows is one that runs", () => {
  const own = read("test/docs/my-first-study.test.ts").replace("../../examples/", "./");
  const shown = blocksOf(read("docs/writing-a-study.md")).map(({ text }) => text);
  expect(shown).toContain(own);
});

test("an example is named after what it shows", () => {
  for (const path of examples) expect(basename(path)).toMatch(/^[a-z0-9-]+\.ts$/);
});
