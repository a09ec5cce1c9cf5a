/** What the documents say of the study gpc-refresh is what the study says, and what comes out of it. */
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import study from "../../src/studies/gpc-refresh.ts";
import { reproduce } from "../../src/studies/reproduce.ts";
import { documentedCommands } from "../house/tidy.ts";
import { ROOT, read } from "../house/tree.ts";
import { documents } from "./documents.ts";
import { tableBelow } from "./markdown.ts";

const page = read("docs/studies/gpc-refresh.md");

test("the table of results is the study's cells", () => {
  const rows = tableBelow(page, "The results").map((row) => row.slice(0, 5).join(" "));
  const cells = study.cells.map((cell) =>
    [cell.variant, cell.scenario, cell.property, cell.model, cell.expected].join(" "),
  );
  expect(rows).toEqual(cells);
});

test("the table of scenarios names those of the study", () => {
  const rows = tableBelow(page, "The scenarios").map(([name]) => name ?? "");
  expect(new Set(rows)).toEqual(new Set(study.cells.map((cell) => cell.scenario)));
});

test("every variant is explained", () => {
  for (const variant of Object.keys(study.variants)) expect(page).toContain(`**${variant}`);
});

const replays = documents().flatMap((path) =>
  documentedCommands(read(path)).filter((words) => words[0] === "replay" && words[1] === study.id),
);

test.each(replays.map((words) => [words.join(" "), words] as const))("%s fails as the document says", (_, words) => {
  const option = (name: string): string => words[words.indexOf(name) + 1] ?? "";
  const { failures, cell } = reproduce(study, option("--variant"), option("--schedule"));
  expect(failures.map(({ property }) => property)).toContain(cell.property);
});

test("replay commands were found", () => {
  expect(replays.length).toBeGreaterThanOrEqual(2);
});

test("the race in the README is the one that the study gives", () => {
  const readme = read("README.md");
  const wanted = raceIn(run(["check", "gpc-refresh", "--variant", "D0h", "--model", "sc"]));
  const shown = raceIn(readme);
  expect(wanted).toContain(" CPU 0 (refresh)");
  if (process.env["UPDATE_DOCS"] === "1")
    writeFileSync(
      `${ROOT}README.md`,
      readme.replace(shown, () => wanted),
    );
  else expect(shown, "run npm run docs").toBe(wanted);
});

test("counts that are shown are those of the study", () => {
  const printed = run(["check", "gpc-refresh", "--variant", "D0", "--variant", "D0h", "--model", "sc"]);
  const explored = (text: string, row: string): string =>
    new RegExp(`^${row.replaceAll(" ", " +")} +(\\d+) runs`, "m").exec(text)?.[1] ?? "";
  for (const row of ["D0 use isolation sc holds", "D0h use isolation sc fails"]) {
    expect(explored(printed, row)).not.toBe("");
    expect(explored(read("README.md"), row), row).toBe(explored(printed, row));
  }
  const steps = /makes no progress: the last (\d+) steps/.exec(printed)?.[1];
  expect(page).toContain(`a lasso of ${steps} steps`);
});

/** From the title of D0h's race to the command that reproduces it. */
function raceIn(text: string): string {
  return /^D0h: [\s\S]*?^racewalk replay (?:.*\\\n)*.*$/m.exec(text)?.[0] ?? "";
}

function run(args: readonly string[]): string {
  return execFileSync(process.execPath, [`${ROOT}src/cli/main.ts`, ...args], { encoding: "utf8" });
}

test("the README's tally is the study's", () => {
  const fails = study.cells.filter(({ expected }) => expected === "fails").length;
  expect(read("README.md")).toContain(
    `${study.cells.length} cells: ${study.cells.length - fails} hold, ${fails} fail. Every verdict is as expected.`,
  );
});
