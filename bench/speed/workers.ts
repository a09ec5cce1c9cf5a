/** Two worker threads against one, on a cell that keeps them busy for seconds: the time that passes, start-up included. */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { median, type Row, rowOf } from "./row.ts";

const MAIN = fileURLToPath(new URL("../../src/cli/main.ts", import.meta.url));
const STUDY = fileURLToPath(new URL("../long-runs/large.ts", import.meta.url));

export function workerRows(runs: number): Row[] {
  const pairs = Array.from({ length: runs }, () => ({ one: seconds(1), two: seconds(2) }));
  const one = median(pairs.map((pair) => pair.one));
  return [
    rowOf("workers mp(7) sc, one", one, "s"),
    rowOf("workers mp(7) sc, two", median(pairs.map((pair) => pair.two)), "s"),
    rowOf("workers mp(7) sc, two against one", median(pairs.map((pair) => pair.one / pair.two)), "x"),
  ];
}

function seconds(workers: number): number {
  const args = ["check", STUDY, "--variant", "mp", "--workers", String(workers), "--json"];
  const { status, stdout, stderr } = spawnSync(process.execPath, [MAIN, ...args], {
    encoding: "utf8",
    env: { ...process.env, SIZE: "7" },
  });
  if (status !== 0) throw new Error(`a run with ${workers} workers failed: ${stderr}`);
  return (JSON.parse(stdout) as { readonly seconds: number }).seconds;
}
