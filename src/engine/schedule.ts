/**
 * Schedules as short strings.
 *
 *     sc/a3b2a        task a makes 3 steps, b 2, a 1, under SC
 *     tso/aab=1A      the step of b chooses 1; A is task a's store buffer draining one store
 *
 * Tasks are a, b, c ... in the order of the program; those beyond z are written (26), (27) ... and their buffers (26)!.
 */
import { UsageError } from "./assert.ts";
import type { MemoryModel } from "./execution.ts";

export interface Step {
  /** A task's lane, or that of a store buffer (lane of the task plus `tasksMax`). */
  readonly lane: number;
  /** The outcome, when the step is a choice. */
  readonly choice: number;
}

export interface Schedule {
  readonly model: MemoryModel;
  readonly steps: readonly Step[];
}

export function formatSchedule(schedule: Schedule, tasksMax: number): string {
  let text = `${schedule.model}/`;
  const { steps } = schedule;
  for (let i = 0; i < steps.length; ) {
    const { lane, choice } = steps[i] as Step;
    let run = 1;
    while (choice === 0 && steps[i + run]?.lane === lane && steps[i + run]?.choice === 0) run++;
    text += laneCode(lane, tasksMax) + (run > 1 ? String(run) : "") + (choice > 0 ? `=${choice}` : "");
    i += run;
  }
  return text;
}

/** @throws UsageError when the text is no schedule */
export function parseSchedule(text: string, tasksMax: number): Schedule {
  const [, model, body] = /^(sc|tso)\/(.*)$/.exec(text) ?? [];
  if (model === undefined || body === undefined) {
    throw new UsageError(`schedule "${text}": must begin with sc/ or tso/; copy it from the report`);
  }
  const steps: Step[] = [];
  const token = /([a-z])|([A-Z])|\((\d+)\)(!?)/y;
  let at = 0;
  while (at < body.length) {
    token.lastIndex = at;
    const match = token.exec(body);
    if (match === null)
      throw new UsageError(`schedule "${text}": cannot read it from "${body.slice(at)}" on; copy it from the report`);
    at = token.lastIndex;
    const tail = /^(\d*)(?:=(\d+))?/.exec(body.slice(at)) as RegExpExecArray;
    at += tail[0].length;
    const lane = parseLane(match, tasksMax);
    const run = tail[1] === "" ? 1 : Number(tail[1]);
    const choice = tail[2] === undefined ? 0 : Number(tail[2]);
    for (let i = 0; i < run; i++) steps.push({ lane, choice });
  }
  return { model: model as MemoryModel, steps };
}

function laneCode(lane: number, tasksMax: number): string {
  const task = lane % tasksMax;
  const isBuffer = lane >= tasksMax;
  if (task >= 26) return `(${task})${isBuffer ? "!" : ""}`;
  return String.fromCharCode((isBuffer ? 65 : 97) + task);
}

function parseLane(match: RegExpExecArray, tasksMax: number): number {
  const [, lower, upper, number, bang] = match;
  if (lower !== undefined) return checkTask(lower.charCodeAt(0) - 97, tasksMax);
  if (upper !== undefined) return checkTask(upper.charCodeAt(0) - 65, tasksMax) + tasksMax;
  return checkTask(Number(number), tasksMax) + (bang === "!" ? tasksMax : 0);
}

function checkTask(task: number, tasksMax: number): number {
  if (task < tasksMax) return task;
  throw new UsageError(`schedule: names task ${task + 1} of ${tasksMax}; copy it from the report of this program`);
}
