/**
 * How much faster are two workers than one?
 *
 *     node bench/long-runs/workers.ts [ROUNDS]
 *
 * The message passing cell of large.ts, with one and two workers in turn: the time from start to end without the time that a check of a tiny
 * cell takes (starting Node and importing racewalk), and the CPU time of all threads. Means something on an idle machine only; the CPU time
 * tells what sharing the work costs where it is not idle.
 */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

const MAIN = fileURLToPath(new URL("../../src/cli/main.ts", import.meta.url));
const STUDY = fileURLToPath(new URL("large.ts", import.meta.url));

function seconds(size: number, workers: number): { wall: number; cpu: number } {
  const start = performance.now();
  const { stdout, status } = spawnSync(
    process.execPath,
    [MAIN, "check", STUDY, "--variant", "mp", "--json", "--workers", String(workers)],
    { encoding: "utf8", env: { ...process.env, SIZE: String(size) } },
  );
  if (status !== 0) throw new Error("the check failed");
  const { cells } = JSON.parse(stdout) as { cells: { seconds: number }[] };
  return { wall: (performance.now() - start) / 1000, cpu: cells[0]?.seconds ?? 0 };
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
}

const rounds = Array.from({ length: Number(process.argv[2] ?? 3) }, () => {
  const idle = seconds(2, 1).wall;
  const [one, two] = [seconds(7, 1), seconds(7, 2)];
  return { one: one.wall - idle, two: two.wall - idle, shared: two.cpu / one.cpu };
});
const one = median(rounds.map((round) => round.one));
const two = median(rounds.map((round) => round.two));
const shared = median(rounds.map((round) => round.shared));
console.log(`one worker ${one.toFixed(1)} s, two workers ${two.toFixed(1)} s: ${(one / two).toFixed(2)} times as fast`);
console.log(`time in jobs, two workers against one: ${shared.toFixed(2)} (waiting for a core included)`);
