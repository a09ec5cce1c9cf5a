/** `racewalk run`: runs a workload on the modelled MMU and prints the kernel's trace events. */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import {
  type EventLine,
  type ModelRun,
  readInitialState,
  readWorkload,
  runWorkload,
  type Workload,
} from "../conform/index.ts";
import { UsageError } from "../engine/index.ts";
import { writeJson } from "./json.ts";
import type { Terminal } from "./terminal.ts";

export interface RunCommandOptions {
  readonly mmu?: "tdp" | "shadow";
  readonly set?: readonly string[];
  readonly json?: true;
}

/** The kernel whose MMU runs when none is named. */
const KERNEL = "v7.2";

/** @returns 0 when the whole workload ran, 1 when the model left something out */
export async function runCommand(file: string, options: RunCommandOptions, terminal: Terminal): Promise<number> {
  const settings = settingsOf(options);
  const workload = withMmu(readWorkload(file), settings.mmu);
  const initialFile = join(dirname(file), `${workload.name}.initial.json`);
  if (!existsSync(initialFile)) {
    throw new UsageError(`${initialFile}: does not exist; put the guest's initial state beside the workload`);
  }
  const initial = readInitialState(initialFile);
  const run = runWorkload({ workload, initial, kernel: settings.kernel, recording: null });
  if (options.json) writeJson(document(run), terminal);
  else terminal.result(`${traceText(workload, run).join("\n")}\n`);
  for (const what of run.notModelled) terminal.say(`racewalk: ${file}: ${what}: not modelled, left out`);
  return run.notModelled.length > 0 ? 1 : 0;
}

function settingsOf({ mmu, set }: RunCommandOptions): { kernel: string; mmu: "tdp" | "shadow" | null } {
  let kernel = KERNEL;
  for (const each of set ?? []) {
    const [, name, value] = /^([^=]+)=(.*)$/.exec(each) ?? [];
    if (name !== "kernel" || value === undefined) {
      throw new UsageError(`--set ${each}: unknown; use --set kernel=6.12 or --set kernel=7.2`);
    }
    kernel = value.startsWith("v") ? value : `v${value}`;
  }
  return { kernel, mmu: mmu ?? null };
}

function withMmu(workload: Workload, mmu: "tdp" | "shadow" | null): Workload {
  if (mmu === null) return workload;
  return { ...workload, kernelParams: { ...workload.kernelParams, npt: mmu === "tdp" } };
}

function document(run: ModelRun): object {
  const events = [
    ...run.setup.map((line) => ({ op: -1, ...line })),
    ...run.operations.flatMap(({ events }, op) => events.map((line) => ({ op, ...line }))),
    ...run.teardown.map((line) => ({ op: run.operations.length, ...line })),
  ];
  const last = run.operations.at(-1)?.stats ?? { vm: {}, vcpu: [] };
  return {
    events,
    stats: { ...last, afterOperation: run.operations.map((operation) => operation.stats) },
    notModelled: run.notModelled,
  };
}

/** The text form of tracefs, with the counter clock: the order of events is all the time there is. */
function traceText(workload: Workload, run: ModelRun): string[] {
  let counter = 0;
  const line = ({ task, event, text }: EventLine): string => {
    counter++;
    const lane = /^vcpu(\d+)$/.exec(task)?.[1];
    const pid = lane === undefined ? 1 : 2 + Number(lane);
    const cpu = String(Number(lane ?? 0) % 2).padStart(3, "0");
    return `${`${task}-${pid}`.padStart(24)}    [${cpu}] ..... ${String(counter).padStart(12)}: ${event}: ${text}`;
  };
  const marker = (text: string): string => line({ task: "vmm", event: "tracing_mark_write", text });
  return [
    "# tracer: nop",
    marker("setup create_vm"),
    ...run.setup.map(line),
    marker("setup done"),
    ...run.operations.flatMap(({ events }, op) => [
      marker(`op ${op} begin ${JSON.stringify(workload.requests[op])}`),
      ...events.map(line),
      marker(`op ${op} end`),
    ]),
    marker("setup exit"),
    ...run.teardown.map(line),
  ];
}
