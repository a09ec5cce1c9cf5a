/**
 * The commands, their options and what is said when they are misused.
 *
 * Exit status: 0 holds, 1 does not (see EXIT_STATUS), 2 unusable input or usage with one line on standard error, 70 a bug in racewalk.
 */
import { Command, CommanderError, Option } from "commander";
import { EngineBug, UsageError } from "../engine/index.ts";
import { shellWord } from "../report/text.ts";
import { type BenchCommandOptions, benchCommand } from "./bench.ts";
import { type CheckCommandOptions, checkCommand } from "./check.ts";
import { type ConformCommandOptions, conformCommand } from "./conform.ts";
import { type DiffCommandOptions, diffCommand } from "./diff.ts";
import { type KernelBuildOptions, kernelBuildCommand } from "./kernel.ts";
import { type LitmusCommandOptions, litmusCommand } from "./litmus.ts";
import { type MeasureCommandOptions, measureCommand } from "./measure.ts";
import { type ReplayCommandOptions, replayCommand } from "./replay.ts";
import { type RunCommandOptions, runCommand } from "./run.ts";
import { studiesCommand } from "./studies.ts";
import type { Terminal } from "./terminal.ts";
import { collect, duration, oneOf, wholeNumber } from "./values.ts";
import { racewalkVersion } from "./version.ts";

const UNUSABLE = 2;
/** EX_SOFTWARE of sysexits.h. */
const BUG = 70;

const CHECK_HELP = `
Exit status: 0 when every verdict is the expected one, expected failures
included; a cell without an expected verdict must not fail. 1 when one
differs or is unknown (the budget was over, ^C). A sample (random, pct) or a
bounded search (--preemptions, --task-steps) that finds nothing gives
"unknown", says what it did not cover, and does not contradict an expected
"holds". 2 for unusable input or usage: one line says what is wrong.

Verdicts, counts and races are the same for any number of workers, and for
a run that went on from its checkpoint. docs/long-runs.md has the limits.

A study file is TypeScript, anywhere on disk:
    import { cell, program, study } from "racewalk";`;

const REPLAY_HELP = `
Take --variant and --schedule from the report of "racewalk check".
Exit status: 0 when nothing fails in the execution, 1 when something does,
2 for unusable input or usage: one line says what is wrong.`;

const LITMUS_HELP = `
Exit status: 0 when verdicts, numbers of executions and final states are the
expected ones (a test that expects nothing cannot differ), 1 when one is not,
2 for unusable input or usage: one line says what is wrong.`;

const DIFF_HELP = `
Compared are the trace events, the statistics after each operation, what the
operations returned, and the entries of the MMU's tables at the end; frames
may be others. Lines marked - are the kernel's, lines marked + racewalk's.
Exit status: 0 when all agree, 1 when one does not, 2 for unusable input or
usage: one line says what is wrong.`;

/** What each command does; tests put their own in. */
const BENCH_HELP = `
Executions or states per second of user CPU time, of one thread: the median
of several runs. Marks of GenMC and Nidhugg are published ones; SPIN is run
when it is installed, with gcc. docs/performance.md says how to read them.`;

export interface Handlers {
  studies(options: { readonly json?: true }): Promise<void>;
  check(study: string, options: CheckCommandOptions): Promise<void>;
  replay(study: string, options: ReplayCommandOptions): Promise<void>;
  run(workload: string, options: RunCommandOptions): Promise<void>;
  conform(cases: readonly string[], options: ConformCommandOptions): Promise<void>;
  diff(workloads: readonly string[], options: DiffCommandOptions): Promise<void>;
  kernelBuild(options: KernelBuildOptions): Promise<void>;
  measure(study: string, options: MeasureCommandOptions): Promise<void>;
  litmus(paths: readonly string[], options: LitmusCommandOptions): Promise<void>;
  bench(names: readonly string[], options: BenchCommandOptions): Promise<void>;
}

/** Runs one command line. @returns the exit status */
export async function runCommandLine(argv: readonly string[], terminal: Terminal): Promise<number> {
  let status = 0;
  const keep = async (promise: Promise<number>): Promise<void> => {
    status = await promise;
  };
  const command = commandLine(
    {
      studies: (options) => keep(studiesCommand(options, terminal)),
      check: (study, options) => keep(checkCommand(study, options, terminal)),
      replay: (study, options) => keep(replayCommand(study, options, terminal)),
      run: (workload, options) => keep(runCommand(workload, options, terminal)),
      conform: (cases, options) => keep(conformCommand(cases, options, terminal)),
      diff: (workloads, options) => keep(diffCommand(workloads, options, terminal)),
      kernelBuild: (options) => keep(kernelBuildCommand(options, terminal)),
      measure: (study, options) => keep(measureCommand(study, options, terminal)),
      litmus: (paths, options) => keep(litmusCommand(paths, options, terminal)),
      bench: (names, options) => keep(benchCommand(names, options, terminal)),
    },
    (text) => terminal.result(text),
  );
  try {
    await command.parseAsync([...argv], { from: "user" });
  } catch (error) {
    terminal.progress(null);
    return explain(error, argv, terminal);
  }
  return status;
}

/** @param writeHelp where --help and --version are printed */
export function commandLine(handlers: Handlers, writeHelp: (text: string) => void): Command {
  const racewalk = new Command("racewalk");
  racewalk
    .description("Linux KVM's x86 MMU, executable: walk every race of a design.")
    .version(racewalkVersion())
    .exitOverride()
    .configureOutput({ writeOut: writeHelp, writeErr: () => undefined, getOutHelpWidth: () => 72 })
    .helpCommand(false);
  racewalk
    .command("studies")
    .description("list what can be checked")
    .option("--json", "one JSON document on standard output")
    .action((options: { readonly json?: true }) => handlers.studies(options));
  addCheck(racewalk, handlers);
  addReplay(racewalk, handlers);
  addRun(racewalk, handlers);
  addConform(racewalk, handlers);
  addDiff(racewalk, handlers);
  addKernel(racewalk, handlers);
  addMeasure(racewalk, handlers);
  addLitmus(racewalk, handlers);
  addBench(racewalk, handlers);
  return racewalk;
}

function addCheck(racewalk: Command, handlers: Handlers): void {
  racewalk
    .command("check")
    .description("run each variant of a study and compare with the expected verdicts")
    .argument("<study>", "the id of a study, or the path of a study file (.ts)")
    .addOption(new Option("--variant <name>", "only this variant; may be repeated").argParser(collect))
    .addOption(
      new Option("--model <model>", "sc or tso, instead of each cell's own").argParser(oneOf(["sc", "tso"] as const)),
    )
    .addOption(
      new Option("--strategy <strategy>", "dpor, random, pct or graph, instead of each cell's own").argParser(
        oneOf(["dpor", "random", "pct", "graph"] as const),
      ),
    )
    .addOption(new Option("--seed <n>", "for random and pct: where to start").argParser(wholeNumber(0)))
    .addOption(new Option("--runs <n>", "for random and pct: how many executions a cell").argParser(wholeNumber(1)))
    .addOption(
      new Option("--depth <d>", "for pct: ordering constraints that a failure may take; 3 when left out").argParser(
        wholeNumber(1),
      ),
    )
    .addOption(
      new Option("--preemptions <n>", "for dpor: leave out what needs more preemptions than n").argParser(
        wholeNumber(0),
      ),
    )
    .addOption(
      new Option("--task-steps <n>", "stop each task after n steps: bounds loops (not for graph)").argParser(
        wholeNumber(1),
      ),
    )
    .addOption(new Option("--budget <time>", "stop the whole check after 500ms, 30s, 2m").argParser(duration))
    .addOption(new Option("--workers <n>", "threads; all cores when left out").argParser(wholeNumber(1)))
    .option("--on <body>", "kernel:DIR runs the study on that kernel's own source (docs/kernel-source.md)")
    .option("--headers <dir>", "with --on: where the kernel's configuration is; found when left out")
    .option("--patch <file>", "with --on: the same on a copy with this patch applied, beside it")
    .option("--checkpoint <file>", "keep the state of the run there, and go on from it when it exists")
    .option("--all-steps", "show every step in the diagrams")
    .option("--html <file>", "also write a report: one HTML file with the races to step through")
    .option("--measure", "with --html: figures of the study's measurement, too; takes up to a minute")
    .option("--json", "one JSON document on standard output")
    .addHelpText("after", CHECK_HELP)
    .action((study: string, options: CheckCommandOptions) => handlers.check(study, options));
}

function addReplay(racewalk: Command, handlers: Handlers): void {
  racewalk
    .command("replay")
    .description("run one execution again, step by step")
    .argument("<study>", "the id of a study, or the path of a study file (.ts)")
    .requiredOption("--variant <name>", "the variant")
    .requiredOption("--schedule <schedule>", "which execution, as in use:sc/a3b2")
    .option("--on <body>", "kernel:DIR, as it was given to check")
    .option("--headers <dir>", "with --on, as it was given to check")
    .option("--patch <file>", "with --on, as it was given to check")
    .option("--json", "one JSON document on standard output")
    .addHelpText("after", REPLAY_HELP)
    .action((study: string, options: ReplayCommandOptions) => handlers.replay(study, options));
}

function addRun(racewalk: Command, handlers: Handlers): void {
  racewalk
    .command("run")
    .description("run a workload on the modelled MMU and print the kernel's trace events")
    .argument("<workload>", "a workload file (.workload.json)")
    .addOption(
      new Option("--mmu <mmu>", "tdp or shadow, instead of the workload's own").argParser(
        oneOf(["tdp", "shadow"] as const),
      ),
    )
    .addOption(
      new Option("--set <name=value>", "kernel=6.12, or a parameter of kvm as tdp_mmu=N; may be repeated").argParser(
        collect,
      ),
    )
    .option("--json", "one JSON document on standard output")
    .action((workload: string, options: RunCommandOptions) => handlers.run(workload, options));
}

function addConform(racewalk: Command, handlers: Handlers): void {
  racewalk
    .command("conform")
    .description("run recorded workloads on the model and compare with what real KVM did")
    .argument("<case...>", "the folder of a case, or a folder of cases")
    .option("--kernel <version>", "v6.12 or v7.2 only; every kernel recorded when left out")
    .option("--on <body>", "kernel:DIR runs them on that kernel's own source (docs/kernel-source.md)")
    .option("--headers <dir>", "with --on: where the kernel's configuration is; found when left out")
    .option("--patch <file>", "with --on: on a copy with this patch applied")
    .option("--json", "one JSON document on standard output")
    .action((cases: string[], options: ConformCommandOptions) => handlers.conform(cases, options));
}

function addDiff(racewalk: Command, handlers: Handlers): void {
  racewalk
    .command("diff")
    .description("hold racewalk's MMU against a kernel's own source, workload by workload")
    .argument("[workload...]", "workload files (.workload.json)")
    .requiredOption("--on <body>", "kernel:DIR, the kernel's source tree (docs/kernel-source.md)")
    .option("--headers <dir>", "where the kernel's configuration is; found when left out")
    .option("--patch <file>", "hold against a copy with this patch applied")
    .addOption(new Option("--random <n>", "instead of files: n random workloads").argParser(wholeNumber(1)))
    .addOption(new Option("--seed <n>", "for --random: where to start; 1 when left out").argParser(wholeNumber(0)))
    .option("--mmu <mmu>", "for --random: tdp, direct or shadow; any of them when left out")
    .addOption(
      new Option("--set <name=value>", "paging=npt, paging=ept or paging=ept-no-ad; may be repeated").argParser(
        collect,
      ),
    )
    .option("--keep <file>", "for --random: where the first workload that diverges goes, with few operations")
    .option("--json", "one JSON document on standard output")
    .addHelpText("after", DIFF_HELP)
    .action((workloads: string[], options: DiffCommandOptions) => handlers.diff(workloads, options));
}

function addMeasure(racewalk: Command, handlers: Handlers): void {
  racewalk
    .command("measure")
    .description("measure a study's designs in virtual time")
    .argument("<study>", "the id of a study that is measured")
    .addOption(new Option("--variant <name>", "only this variant; may be repeated").argParser(collect))
    .addOption(new Option("--set <name=value>", "a parameter; may be repeated").argParser(collect))
    .addOption(
      new Option("--sweep <name=a,b,c>", "a parameter at each of these values; may be repeated").argParser(collect),
    )
    .addOption(
      new Option("--cost <name=ns>", "what something costs, in nanoseconds; may be repeated").argParser(collect),
    )
    .addOption(new Option("--metric <name>", "only this one, or plot it; may be repeated").argParser(collect))
    .option("--plot", "plots as well: over what is swept, or over time")
    .option("--svg <file>", "write the plots to a file")
    .option("--png <file>", "the same as an image of pixels")
    .option("--json", "one JSON document on standard output")
    .action((study: string, options: MeasureCommandOptions) => handlers.measure(study, options));
}

function addLitmus(racewalk: Command, handlers: Handlers): void {
  racewalk
    .command("litmus")
    .description("run litmus tests under SC and x86-TSO")
    .argument("<file...>", "files of litmus tests (.json), or folders of them")
    .addOption(new Option("--model <model>", "sc or tso; both when left out").argParser(oneOf(["sc", "tso"] as const)))
    .option("--json", "one JSON document on standard output")
    .addHelpText("after", LITMUS_HELP)
    .action((paths: string[], options: LitmusCommandOptions) => handlers.litmus(paths, options));
}

function addKernel(racewalk: Command, handlers: Handlers): void {
  racewalk
    .command("kernel")
    .description("Linux's own source under the checker")
    .command("build")
    .description("compile KVM's MMU from a kernel tree; other commands then take --on kernel:DIR")
    .requiredOption("--source <dir>", "a kernel source tree, or Debian's linux-source-*.tar.xz")
    .option("--headers <dir>", "a configured tree or a linux-headers-*-amd64 folder; found when left out")
    .option("--config <file>", "the kernel's .config, instead of the one of the headers")
    .option("--json", "one JSON document on standard output")
    .action((options: KernelBuildOptions) => handlers.kernelBuild(options));
}

function addBench(racewalk: Command, handlers: Handlers): void {
  racewalk
    .command("bench")
    .description("measure racewalk's own speed, and hold it against other checkers")
    .argument("[name...]", "dpor, graph, workers, estimate, or a program: fib, ainc(7), graph ticket(3,2)")
    .option("--long", "whole explorations and large graphs")
    .option("--json", "one JSON document on standard output")
    .addHelpText("after", BENCH_HELP)
    .action((names: string[], options: BenchCommandOptions) => handlers.bench(names, options));
}

// --- what is said ----------------------------------------------------------------------------------------------------

/** Says what went wrong, in one line. @returns the exit status */
function explain(error: unknown, argv: readonly string[], terminal: Terminal): number {
  if (error instanceof CommanderError) {
    if (error.code === "commander.helpDisplayed" || error.code === "commander.version") return 0;
    terminal.say(`racewalk: ${oneLine(misuse(error, argv))}`);
    return UNUSABLE;
  }
  debug(error, terminal);
  const message = error instanceof Error ? error.message : String(error);
  if (error instanceof UsageError) {
    terminal.say(`racewalk: ${oneLine(message)}`);
    return UNUSABLE;
  }
  const what = error instanceof EngineBug || !(error instanceof Error) ? message : `${error.name}: ${message}`;
  const command = ["racewalk", ...argv].map(shellWord).join(" ");
  terminal.say(`racewalk: a bug in racewalk: ${oneLine(what)}; please report it with this command: ${command}`);
  return BUG;
}

function debug(error: unknown, terminal: Terminal): void {
  if (process.env["RACEWALK_DEBUG"] === "1" && error instanceof Error) terminal.say(error.stack ?? "");
}

/** What is wrong with the command line, and where to read how it should be. */
function misuse(error: CommanderError, argv: readonly string[]): string {
  const given = argv[0] ?? "";
  const commands = ["studies", "check", "replay", "run", "conform", "diff", "measure", "litmus", "bench", "kernel"];
  const isCommand = commands.includes(given);
  const help = isCommand ? `racewalk ${given} --help` : "racewalk --help";
  if (error.code === "commander.help") return `no command; see ${help}`;
  const text = error.message
    .replace(/^error: /, "")
    .replace(/^option '(?:-\w, )?(--[\w-]+)[^']*' argument '(.*)' is invalid\./s, '$1 "$2":')
    .replace(/\.$/, "");
  return `${isCommand ? `${given}: ` : ""}${text}; see ${help}`;
}

function oneLine(text: string): string {
  return text.replace(/\s*\n\s*/g, " ").trim();
}
