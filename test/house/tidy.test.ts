import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";
import { documentedCommands, machinePathFaults, parseFault, relativeLinks, sizeFaults, todoFaults } from "./tidy.ts";
import { ROOT, read, repositoryFiles } from "./tree.ts";

const files = repositoryFiles();
/** What people wrote; recordings are data. */
const written = files.filter(
  (path) =>
    !path.startsWith("recordings/") &&
    path !== "package-lock.json" &&
    /\.(?:[cm]?[jt]s|json|md|sh)$|(?:^|\/)[^.]+$/.test(path),
);
/** These files show what the rules look for. */
const ownExamples = (path: string): boolean => path.startsWith("test/house/tidy");
const documents = files.filter((path) => path.endsWith(".md") && !path.startsWith("recordings/"));

test("no source file has more than 600 lines", () => {
  const sources = files.filter((path) => /^src\/.*\.ts$/.test(path));
  expect(sources.flatMap((path) => sizeFaults(path, read(path)))).toEqual([]);
});

test("no file names a path of somebody's machine", () => {
  const faults = written.filter((path) => !ownExamples(path)).flatMap((path) => machinePathFaults(path, read(path)));
  expect(faults).toEqual([]);
});

test("every TODO names an issue", () => {
  const faults = written.filter((path) => !ownExamples(path)).flatMap((path) => todoFaults(path, read(path)));
  expect(faults).toEqual([]);
});

test("relative links in documents lead somewhere", () => {
  const broken = documents.flatMap((path) =>
    relativeLinks(read(path))
      .filter((target) => !existsSync(join(ROOT, dirname(path), target)))
      .map((target) => `${path}: ${target}`),
  );
  expect(broken).toEqual([]);
});

test("every racewalk command in the documents parses", async () => {
  const faults: string[] = [];
  for (const path of documents) {
    for (const words of documentedCommands(read(path))) {
      const fault = await parseFault(words);
      if (fault !== null) faults.push(`${path}: racewalk ${words.join(" ")}: ${fault}`);
    }
  }
  expect(faults).toEqual([]);
});

// Each rule finds what it is there for.

test("the rules can fail", async () => {
  expect(sizeFaults("a.ts", "x\n".repeat(601))).toHaveLength(1);
  expect(sizeFaults("a.ts", "x\n".repeat(600))).toEqual([]);
  for (const text of ["see /home/me/linux", 'open("/work/main/x")', "(/tmp/x)", "C:\\Users"]) {
    expect(machinePathFaults("a.ts", text)).toHaveLength(1);
  }
  for (const text of ["https://lore.kernel.org/work/x", "../work/x", "/dev/kvm", "src/home/x"]) {
    expect(machinePathFaults("a.ts", text)).toEqual([]);
  }
  expect(todoFaults("a.ts", "// TODO: later")).toHaveLength(1);
  expect(todoFaults("a.ts", "// TODO(#12): later")).toEqual([]);
  expect(relativeLinks("[a](docs/a.md) [b](https://x.org) [c](#c) [d](e.md#f) `[no](no.md)`")).toEqual([
    "docs/a.md",
    "e.md",
  ]);
});

test("commands are found in code and in text, and parsed", async () => {
  const markdown = [
    "Run `racewalk check gpc-refresh`, or `racewalk check STUDY|FILE.ts`.",
    "```sh",
    '$ ./racewalk replay gpc-refresh --variant "D3\'" \\',
    "  --schedule use:sc/a3   # again",
    "racewalk studies | head",
    "```",
    "",
    "    npx racewalk chekc gpc-refresh",
  ].join("\n");
  const commands = documentedCommands(markdown);
  expect(commands).toEqual([
    ["replay", "gpc-refresh", "--variant", "D3'", "--schedule", "use:sc/a3"],
    ["studies"],
    ["chekc", "gpc-refresh"],
    ["check", "gpc-refresh"],
  ]);
  expect(await Promise.all(commands.map(parseFault))).toEqual([null, null, expect.stringContaining("chekc"), null]);
});
