/**
 * Two worker threads against one, on the message passing cell of bench/long-runs/large.ts.
 *
 * What counts here is the time that passes, without what a check of a tiny cell takes (starting Node and importing racewalk). On a machine that
 * has other work it says little; what sharing costs is then told by the time that the jobs took, all threads together.
 */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { median, type Row, rowOf } from "./row.ts";

const MAIN = fileURLToPath(new URL("../../src/cli/main.ts", import.meta.url));
const STUDY = fileURLToPath(new URL("../long-runs/large.ts", import.meta.url));

const TINY = 2;

interface Taken {
  /** Seconds from start to end, and those of all jobs together. */
  readonly wall: number;
  readonly jobs: number;
}

/** @param size how often a message is passed */
export function workerRows(size: number, rounds: number): Row[] {
  const times = Array.from({ length: rounds }, () => {
    const start = timeOf(TINY, 1).wall;
    const [one, two] = [timeOf(size, 1), timeOf(size, 2)];
    return { one: one.wall - start, two: two.wall - start, shared: two.jobs / one.jobs };
  });
  const what = `workers mp(${size}) sc`;
  return [
    rowOf(`${what}, one`, median(times.map(({ one }) => one)), "s"),
    rowOf(`${what}, two`, median(times.map(({ two }) => two)), "s"),
    rowOf(`${what}, two against one`, median(times.map(({ one, two }) => one / two)), "x"),
    rowOf(`${what}, time in jobs`, median(times.map(({ shared }) => shared)), "x"),
  ];
}

function timeOf(size: number, workers: number): Taken {
  const args = ["check", STUDY, "--variant", "mp", "--workers", String(workers), "--json"];
  const start = performance.now();
  const { status, stdout, stderr } = spawnSync(process.execPath, [MAIN, ...args], {
    encoding: "utf8",
    env: { ...process.env, SIZE: String(size) },
  });
  const wall = (performance.now() - start) / 1000;
  if (status !== 0) throw new Error(`a run with ${workers} workers failed: ${stderr}`);
  const { cells } = JSON.parse(stdout) as { readonly cells: readonly { readonly seconds: number }[] };
  return { wall, jobs: cells.reduce((sum, { seconds }) => sum + seconds, 0) };
}
