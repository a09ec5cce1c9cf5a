/**
 * SPIN on the Promela texts of bench/spin: every state once, exactly stored, without its partial-order reduction.
 *
 * Dead variables are kept and statements are not merged, so that a state means the same as in racewalk.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { GraphBenchmark } from "./graphs.ts";
import { median } from "./row.ts";

export interface SpinFigures {
  readonly states: number;
  /** States per second of user CPU time. */
  readonly rate: number;
  readonly megabytes: number;
}

/** True when SPIN and the compiler that it needs are there. */
export function hasSpin(): boolean {
  return ["spin", "gcc"].every((tool) => spawnSync(tool, ["--version"]).error === undefined);
}

/** @throws Error when SPIN finds something to complain about */
export function runSpin(benchmark: GraphBenchmark, sizes: readonly number[], runs: number): SpinFigures {
  const text = fileURLToPath(new URL(`../spin/${benchmark.name}.pml`, import.meta.url));
  const folder = mkdtempSync(join(tmpdir(), "racewalk-spin-"));
  const run = (command: string, args: readonly string[]): string => {
    const { status, stdout, stderr } = spawnSync(command, args, { cwd: folder, encoding: "utf8" });
    if (status !== 0) throw new Error(`${command} ${args.join(" ")}: ${stdout}${stderr}`);
    return stdout;
  };
  try {
    const defines = benchmark.parameters.map((name, i) => `-D${name}=${sizes[i] ?? 1}`);
    run("spin", [...defines, "-o1", "-o2", "-o3", "-a", text]);
    run("gcc", ["-O2", "-w", "-DSAFETY", "-DNOREDUCE", "-o", "pan", "pan.c"]);
    const outputs = Array.from({ length: runs }, () => run("sh", ["-c", "./pan -m10000000 -w24; times"]));
    const figures = outputs.map(read);
    const [first] = figures;
    if (first === undefined) throw new Error("no run of SPIN");
    return { ...first, rate: median(figures.map(({ rate }) => rate)) };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function read(output: string): SpinFigures {
  const find = (pattern: RegExp): RegExpExecArray => {
    const found = pattern.exec(output);
    if (found === null) throw new Error(`SPIN says: ${output}`);
    return found;
  };
  find(/errors: 0\b/);
  const states = Number(find(/([\d.e+]+) states, stored/)[1]);
  const megabytes = Number(find(/([\d.]+)\s+total actual memory usage/)[1]);
  // The shell's children: their user time comes first on the second line.
  const [, minutes, seconds] = find(/(\d+)m([\d.]+)s \d+m[\d.]+s\s*$/);
  return { states, rate: states / (Number(minutes) * 60 + Number(seconds)), megabytes };
}
