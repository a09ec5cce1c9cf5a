/**
 * A replayed execution as text and as data: every step with its CPU, what it does, and the line of source that asked for it.
 */
import { relative } from "node:path";
import type { ReplayStep, SourcePlace } from "../engine/index.ts";
import type { Reproduction } from "../studies/reproduce.ts";
import type { Study } from "../studies/study.ts";
import { COLUMNS, count, type Paint, wrap } from "./text.ts";

export interface ReplayReport {
  readonly study: Study;
  readonly reproduction: Reproduction;
  /** Paths are printed relative to this folder. */
  readonly folder: string;
}

/** The document that `racewalk replay --json` prints. */
export function replayJson({ study, reproduction, folder }: ReplayReport): object {
  const { cell, schedule, replay, cycleFrom, failures } = reproduction;
  return {
    study: study.id,
    variant: cell.variant,
    scenario: cell.scenario,
    model: schedule.model,
    cycleFrom,
    steps: replay.steps.map((step) => stepJson(step, folder)),
    waiting: replay.waiting.map((step) => stepJson(step, folder)),
    failures,
  };
}

function stepJson(step: ReplayStep, folder: string): object {
  const stack = step.stack.map((place) => ({ ...place, file: relative(folder, place.file) }));
  const [inner] = stack;
  const { task, cpu, operation, name, value, text, drain, shared } = step;
  return {
    ...{ step: step.index + 1, task, cpu, operation, address: name, value, text, drain, shared },
    function: inner?.function ?? null,
    file: inner?.file ?? null,
    line: inner?.line ?? null,
    stack,
  };
}

/** @returns lines joined by newlines, with one at the end */
export function replayText({ study, reproduction, folder }: ReplayReport, paint: Paint): string {
  const { cell, schedule, replay, cycleFrom, failures } = reproduction;
  const { variant, scenario } = cell;
  const title = `${study.id} ${variant}: ${study.variants[variant] ?? ""}`;
  const steps = count(schedule.steps.length, "step");
  const lines = [
    ...wrap(title, COLUMNS, "  ").map((line) => paint.bold(line)),
    ...wrap(`scenario ${scenario} under ${schedule.model}, ${steps}`, COLUMNS, "  "),
    "",
  ];
  for (const step of replay.steps) {
    if (step.index === cycleFrom) lines.push("from here on, for ever:");
    lines.push(...stepLines(step, folder, paint));
  }
  for (const step of replay.waiting) lines.push(...stepLines(step, folder, paint));
  lines.push("");
  for (const { property, message, step } of failures) {
    const at = step === null ? "at the end" : `at step ${step}`;
    lines.push(...wrap(`${property}, ${at}: ${message}`, COLUMNS, "  ").map((line) => paint.red(line)));
  }
  lines.push(failures.length === 0 ? "Nothing fails in this execution." : `${count(failures.length, "failure")}.`);
  return `${lines.join("\n")}\n`;
}

/** Two lines: what happens, and where it was asked for. */
function stepLines(step: ReplayStep, folder: string, paint: Paint): string[] {
  const isStep = step.operation !== "Plain" && !step.text.endsWith("...for ever");
  const number = isStep ? String(step.index + 1) : "";
  const head = `${number.padStart(4)} CPU${step.cpu} ${step.task}  `;
  const indent = " ".repeat(7);
  const [first, ...rest] = wrap(head + step.text + operationText(step), COLUMNS, `${indent}  `);
  const [inner] = step.stack;
  const where = inner === undefined ? [] : wrap(indent + placeText(inner, folder), COLUMNS, `${indent}  `);
  return [first ?? "", ...rest, ...where.map((line) => paint.dim(line))];
}

/** The operation and its value, as far as the text does not say them. */
function operationText({ operation, name, value, text, drain }: ReplayStep): string {
  if (operation === "Plain" || drain) return "";
  const about = name === "" ? "" : ` ${name}`;
  const result = value === "" || name === "" ? "" : `: ${value}`;
  const says = text.includes(name) && (value === "" || text.includes(value)) && name !== "";
  return says ? `  [${operation}]` : `  [${operation}${about}${result}]`;
}

function placeText(place: SourcePlace, folder: string): string {
  return `${place.function}() ${relative(folder, place.file)}:${place.line}`;
}
