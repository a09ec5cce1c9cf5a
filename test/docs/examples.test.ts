/** The examples: they run, print what the documents say, and stand in the documents as they are. */
import { execFileSync } from "node:child_process";
import { expect, test } from "vitest";
import { ROOT, read, repositoryFiles } from "../house/tree.ts";
import { blocksOf, type CodeBlock } from "./markdown.ts";

const examples = repositoryFiles().filter((path) => path.startsWith("examples/"));
const documents = repositoryFiles().filter((path) => path.endsWith(".md") && !path.startsWith("recordings/"));
const blocks = documents.flatMap((document) => blocksOf(read(document)).map((block) => ({ document, ...block })));
/** Complete programs begin like the files of examples/, and are copies of them. */
const programs = blocks.filter(({ language, text }) => language === "ts" && text.startsWith("/**\n"));

test("every example stands in a document, and every complete program of a document is an example", () => {
  const shown = new Set(programs.map(({ text }) => text));
  expect(examples.filter((path) => !shown.has(read(path)))).toEqual([]);
  const known = new Set(examples.map(read));
  expect(programs.filter(({ text }) => !known.has(text)).map(({ document }) => document)).toEqual([]);
});

const withOutput = programs.filter(({ following }) => following?.language === "text");

test.each(withOutput.map((program) => [exampleOf(program), program] as const))(
  "%s prints what stands below it",
  (path, program) => {
    expect(run(path)).toBe(program.following?.text);
  },
);

test("programs with output were found", () => {
  expect(withOutput.length).toBeGreaterThanOrEqual(3);
});

function exampleOf({ text }: CodeBlock): string {
  return examples.find((path) => read(path) === text) ?? "";
}

function run(path: string): string {
  const args = ["--import", `${ROOT}test/docs/own-racewalk.ts`, ROOT + path];
  return execFileSync(process.execPath, args, { encoding: "utf8" });
}
