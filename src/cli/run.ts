/** `racewalk run`: runs a workload on the modelled MMU and prints the kernel's trace events. */
import { type EventLine, type ModelRun, readWorkload, runWorkload, type Workload } from "../conform/index.ts";
import { UsageError } from "../engine/index.ts";
import type { KvmVariants } from "../kvm/variants.ts";
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
  const read = readWorkload(file);
  const workload: Workload = { ...read, kernelParams: { ...read.kernelParams, ...settings.params } };
  const run = attributed(file, () =>
    runWorkload({ workload, initial: null, kernel: settings.kernel, recording: null, variants: settings.variants }),
  );
  if (options.json) writeJson(document(run), terminal);
  else terminal.result(`${traceText(workload, run).join("\n")}\n`);
  for (const what of run.notModelled) terminal.say(`racewalk: ${file}: ${what}: not modelled, left out`);
  return run.notModelled.length > 0 ? 1 : 0;
}

/** A workload that the model refuses is named. */
function attributed<T>(file: string, run: () => T): T {
  try {
    return run();
  } catch (error) {
    if (!(error instanceof UsageError) || error.message.startsWith(`${file}:`)) throw error;
    throw new UsageError(`${file}: ${error.message}`);
  }
}

// --- settings --------------------------------------------------------------------------------------------------------

type Params = Partial<Pick<Workload["kernelParams"], "npt" | "tdpMmu" | "eagerPageSplit" | "nxHugePages">>;

/** Module parameters of kvm and kvm_amd that can be set. */
const PARAMETERS: Readonly<Record<string, keyof Params>> = {
  npt: "npt",
  tdp_mmu: "tdpMmu",
  eager_page_split: "eagerPageSplit",
  nx_huge_pages: "nxHugePages",
};

const SETTINGS = `kernel=6.12, kernel=7.2, tdp_levels=4, tdp_levels=5, or ${Object.keys(PARAMETERS).join(", ")} =Y or =N`;

interface Settings {
  readonly kernel: string;
  readonly params: Params;
  readonly variants: Partial<KvmVariants>;
}

function settingsOf({ mmu, set }: RunCommandOptions): Settings {
  let kernel = KERNEL;
  let variants: Partial<KvmVariants> = {};
  const params: { -readonly [Name in keyof Params]: Params[Name] } = {};
  if (mmu !== undefined) params.npt = mmu === "tdp";
  for (const each of set ?? []) {
    const [, name = "", value = ""] = /^(?:kvm\.|kvm_amd\.)?([^=]+)=(.+)$/.exec(each) ?? [];
    const parameter = PARAMETERS[name];
    if (name === "kernel" && /^v?(?:6\.12|7\.2)$/.test(value)) kernel = value.startsWith("v") ? value : `v${value}`;
    else if (name === "tdp_levels" && /^[45]$/.test(value)) variants = { maxTdpLevel: value === "5" ? 5 : 4 };
    else if (parameter !== undefined && /^[yn01]$/i.test(value)) params[parameter] = /^[y1]$/i.test(value);
    else throw new UsageError(`--set ${each}: no such setting; use ${SETTINGS}`);
  }
  return { kernel, params, variants };
}

// --- output ----------------------------------------------------------------------------------------------------------

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
    results: run.operations.map((operation) => operation.results ?? []),
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
