/**
 * A check as one HTML file: no network, fit to mail, readable on a phone and on paper.
 *
 * The question, the table of verdicts, and for each variant that fails its shortest race: as the diagram, and as steps to walk through
 * (web/stepper.ts). Without scripts, and in print, the diagrams remain.
 */
import { existsSync, readFileSync } from "node:fs";
import { stripTypeScriptTypes } from "node:module";
import { relative } from "node:path";
import type { Execution, ReplayStep } from "../engine/index.ts";
import { headingOf } from "../kvm/kernel-map.ts";
import type { CellReport } from "../studies/cells.ts";
import type { Measurement } from "../studies/measurement.ts";
import { type Reproduction, reproduce } from "../studies/reproduce.ts";
import { Viewer, type Views } from "../studies/views.ts";
import { type CheckReport, shortestRaces } from "./check-text.ts";
import { STYLE } from "./html-style.ts";
import type { MeasuredFigure } from "./measured-figures.ts";
import { shellWord } from "./text.ts";
import { bareName } from "./units.ts";

/** What a measurement of the study found. */
export interface MeasuredPart {
  readonly measurement: Measurement;
  readonly figures: readonly MeasuredFigure[];
}

/**
 * @param folder paths are written relative to it
 * @param measured null: nothing was measured for the report
 */
export function checkHtml(report: CheckReport, folder: string, measured: MeasuredPart | null = null): string {
  const { study, cells, name, seconds } = report;
  const races = shortestRaces(report).map((cell, at) => raceOf(report, cell, `race-${at}`, folder));
  const complete = cells.every((cell) => cell.complete);
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${text(study.id)}: ${text(study.title)}</title>
<style>${STYLE}</style>
</head>
<body>
<header>
<p class="id">${text(study.id)}</p>
<h1>${text(study.title)}</h1>
<p class="source">${text(study.source)}</p>
</header>
<main>
<section>
<h2>Verdicts</h2>
<p>${cells.length} cells, ${complete ? "each explored completely" : "not all explored completely"}, in ${seconds.toFixed(1)} s.
Again: <code>racewalk check ${text(shellWord(name))}</code></p>
<div class="scroll">${verdictTable(cells)}</div>
</section>
<section>
<h2>Variants</h2>
<dl>${Object.entries(study.variants)
    .filter(([variant]) => cells.some((cell) => cell.variant === variant))
    .map(([variant, what]) => `<dt>${text(variant)}</dt><dd>${text(what)}</dd>`)
    .join("\n")}</dl>
</section>
${measured === null ? "" : measuredSection(measured)}
${races.map((race) => race.html).join("\n")}
</main>
<footer><p>racewalk. Nothing here was fetched from anywhere.</p></footer>
<script type="application/json" id="races">${script(races.map((race) => race.data))}</script>
<script>${stepper()}</script>
</body>
</html>
`;
}

function verdictTable(cells: readonly CellReport[]): string {
  const rows = cells.map((cell) => {
    const { variant, scenario, property, model, verdict, ok, strategy } = cell;
    const explored = strategy === "graph" ? `${cell.states} states` : `${cell.executions} executions`;
    const columns = [variant, scenario, property, model, verdict, explored, cell.because];
    const kind = ok ? verdict : "surprise";
    return `<tr class="${kind}">${columns.map((column) => `<td>${text(column)}</td>`).join("")}</tr>`;
  });
  const heads = ["variant", "scenario", "property", "model", "verdict", "explored", "because"];
  return `<table class="verdicts"><thead><tr>${heads.map((head) => `<th>${head}</th>`).join("")}</tr></thead>
<tbody>${rows.join("\n")}</tbody></table>`;
}

/** The figures, each with the command that draws it again; what the metrics mean stands below. */
function measuredSection({ measurement, figures }: MeasuredPart): string {
  const { question, metrics, variants, series = {} } = measurement;
  const list = (terms: Readonly<Record<string, string>>): string =>
    Object.entries(terms)
      .map(([term, meaning]) => `<dt>${text(bareName(term))}</dt><dd>${text(meaning)}</dd>`)
      .join("\n");
  const drawn = figures.map(
    ({ what, command, svg }) => `<figure class="figure">
<figcaption>${text(what[0]?.toUpperCase() ?? "")}${text(what.slice(1))}. Again: <code class="command">${text(command)}</code></figcaption>
${svg}</figure>`,
  );
  return `<section class="measured">
<h2>Measured in virtual time</h2>
<p>${text(question)} The same MMU under a discrete-event clock; what operations cost is in a table (docs/measuring.md).</p>
${drawn.join("\n")}
<details><summary>What is measured, of which designs</summary>
<dl>${list(variants)}</dl>
<dl>${list({ ...metrics, ...series })}</dl>
</details>
</section>`;
}

/** A race's section, and its data for the stepper. */
function raceOf(report: CheckReport, cell: CellReport, id: string, folder: string): { html: string; data: object } {
  const { study, name, flags = [] } = report;
  const { variant, scenario, property, model, replay } = cell;
  const command = `racewalk replay ${[name, ...flags].map(shellWord).join(" ")} --variant ${shellWord(variant)} --schedule ${shellWord(replay ?? "")}`;
  const html = `<section class="race">
<h2>${text(variant)}: ${text(property)} fails</h2>
<p>${text(study.variants[variant] ?? "")}; scenario ${text(scenario)} under ${model}. ${text(cell.because)}</p>
<div class="stepper" id="${id}" tabindex="0"></div>
<details open><summary>As text</summary><pre class="diagram">${text(cell.diagram ?? "")}</pre></details>
<p><code class="command">${text(command)}</code></p>
</section>`;
  return {
    html,
    data: raceData(reproduce(study, variant, replay ?? "", observe), id, `${property}: ${cell.message ?? ""}`, folder),
  };
}

/** What is seen of the world between two steps. */
const observe = (state: unknown): ((execution: Execution) => Views) => {
  const viewer = new Viewer(state);
  return (execution) => viewer.views(execution);
};

function raceData(reproduction: Reproduction<Views>, id: string, verdict: string, folder: string): object {
  const { replay, schedule, cycleFrom } = reproduction;
  const { world } = replay.execution;
  const steps = [...replay.steps, ...replay.waiting];
  return {
    id,
    model: schedule.model,
    tasks: world.tasks.map((task) => task.name),
    steps: steps.map((step) => stepData(step, folder)),
    views: viewChanges(steps, replay.observed),
    cycleFrom,
    verdict,
  };
}

/** From heading and row to what stands there from now on; null: no longer anything. */
type ViewChange = Readonly<Record<string, Readonly<Record<string, string | null>>>>;

/** What there is to see at first, and for each step what has changed. */
function viewChanges(steps: readonly ReplayStep[], observed: readonly Views[]): { first: Views; after: ViewChange[] } {
  const first = observed[0] ?? {};
  let before = first;
  const after = steps.map((step) => {
    // A plain access is no step of the schedule: what it did is seen after the step before. Nor is a wait at the end.
    const now = step.operation === "Plain" ? before : (observed[step.index + 1] ?? before);
    const change = changeBetween(before, now);
    before = now;
    return change;
  });
  return { first, after };
}

function changeBetween(before: Views, now: Views): ViewChange {
  const change: Record<string, Record<string, string | null>> = {};
  for (const heading of new Set([...Object.keys(before), ...Object.keys(now)])) {
    const [old, rows] = [before[heading] ?? {}, now[heading] ?? {}];
    for (const row of new Set([...Object.keys(old), ...Object.keys(rows)])) {
      if (old[row] === rows[row]) continue;
      change[heading] = { ...change[heading], [row]: rows[row] ?? null };
    }
  }
  return change;
}

function stepData(step: ReplayStep, folder: string): object {
  const { cpu, operation, name, value, memory, drain, shared } = step;
  const [inner] = step.stack;
  return {
    ...{ cpu, operation, name, value, memory, drain, shared },
    text: step.text === "-" ? `${name}: ${value}` : step.text,
    heading: step.stack.map(headingOf).find((heading) => heading !== null) ?? null,
    place: inner === undefined ? null : `${inner.function}() ${relative(folder, inner.file)}:${inner.line}`,
  };
}

/** The stepper's code: compiled in an installation, stripped of its types in a clone that runs its sources. */
function stepper(): string {
  const compiled = new URL("../web/stepper.js", import.meta.url);
  if (existsSync(compiled)) return readFileSync(compiled, "utf8");
  return stripTypeScriptTypes(readFileSync(new URL("../../web/stepper.ts", import.meta.url), "utf8"));
}

function text(value: string): string {
  return value.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}

/** Data inside a script element must not end it. */
function script(data: unknown): string {
  return JSON.stringify(data).replaceAll("<", "\\u003c");
}
