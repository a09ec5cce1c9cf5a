/** The page of headline figures says what measuring gives. Nothing here depends on the machine: time is virtual. */
import { writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { withParameters } from "../../src/studies/measurement.ts";
import { builtInMeasurement } from "../../src/studies/measurements.ts";
import { extrapolated } from "../../src/studies/root-zap-extrapolated.ts";
import { ROOT, read } from "../house/tree.ts";
import { commandOf, HEADLINES, type Headline } from "./headlines.ts";

const PAGE = "docs/findings/README.md";
const BEGIN = "<!-- headlines -->";
const END = "<!-- end -->";

async function figureOf({ study, variants, set, costs = {}, ours }: Headline): Promise<string> {
  const measurement = await builtInMeasurement(study);
  const parameters = withParameters(measurement, set);
  const runs = new Map(variants.map((name) => [name, measurement.run(name, parameters, costs).metrics]));
  return ours((variant, name) => {
    const value = runs.get(variant)?.[name];
    expect(value, `${variant} has no ${name}`).toBeTypeOf("number");
    return value ?? Number.NaN;
  });
}

function rowOf(headline: Headline, figure: string): string {
  const { study, what, theirs, why } = headline;
  const columns = [`[${study}](${study}.md)`, what, theirs, figure, why, `\`${commandOf(headline)}\``];
  return `| ${columns.join(" | ")} |`;
}

const rows = HEADLINES.map((headline) => ({ headline, name: commandOf(headline), recorded: headline.recorded ?? "" }));

describe("headline figures", () => {
  const found: string[] = [];

  test.each(rows)("$name", async ({ headline, recorded }) => {
    const figure = recorded === "" ? await figureOf(headline) : recorded;
    found.push(rowOf(headline, figure));
    if (process.env["UPDATE_DOCS"] === "1") return;
    expect(read(PAGE), "run UPDATE_DOCS=1 npx vitest run test/findings, and say in the findings why").toContain(
      rowOf(headline, figure),
    );
  });

  test("the page has no other", () => {
    const text = read(PAGE);
    const [begin, end] = [text.indexOf(BEGIN) + BEGIN.length, text.indexOf(END)];
    const head = "| study | what | the thread | ours | why | command |\n| --- | --- | --- | --- | --- | --- |";
    const table = `${head}\n${found.join("\n")}`;
    if (process.env["UPDATE_DOCS"] === "1")
      writeFileSync(`${ROOT}${PAGE}`, `${text.slice(0, begin)}\n\n${table}\n\n${text.slice(end)}`);
    else expect(text.slice(begin, end).trim()).toBe(table);
  });
});

test("what is recorded for 512 GiB lies on the line through 1 GiB and 2 GiB", async () => {
  const measurement = await builtInMeasurement("root-zap");
  const at = (set: Readonly<Record<string, number>>, costs: Readonly<Record<string, number>>) =>
    measurement.run("Z1", withParameters(measurement, set), costs).metrics;
  for (const { recorded = "", costs = {} } of HEADLINES.filter(({ recorded }) => recorded !== undefined)) {
    const [atOne, atTwo] = [at({ gib: 1 }, costs), at({ gib: 2 }, costs)];
    const runs = { atOne, atTwo, atTwoApart: at({ gib: 2, regions: 2 }, costs) };
    const line = extrapolated(runs, { onePass: true, gib: 512, regions: 1, letsInNs: 0 });
    const seconds = (line["stretch ns"] ?? 0) / 1e9;
    expect(Math.abs(Number.parseFloat(recorded) / seconds - 1)).toBeLessThan(0.005);
    expect(line["stalls"]).toBe(Number(recorded.split(", ")[1] ?? 0));
  }
});
