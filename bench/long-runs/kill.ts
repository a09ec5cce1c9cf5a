/**
 * SIGKILL at random moments, again and again, and then to the end: the result has to be that of a run that nobody disturbed.
 *
 *     node bench/long-runs/kill.ts [KILLS] [SEED]
 *
 * Runs large.ts. Each process has another number of workers. The first line that differs is printed.
 */
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Random } from "../../src/engine/index.ts";

const MAIN = fileURLToPath(new URL("../../src/cli/main.ts", import.meta.url));
const STUDY = fileURLToPath(new URL("large.ts", import.meta.url));

interface Ended {
  readonly status: number | null;
  readonly stdout: string;
  readonly seconds: number;
}

/** @param killAfter milliseconds; null lets it run to its end */
async function racewalk(options: readonly string[], killAfter: number | null): Promise<Ended> {
  const start = performance.now();
  const child = spawn(process.execPath, [MAIN, "check", STUDY, "--json", ...options], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const timer = killAfter === null ? undefined : setTimeout(() => child.kill("SIGKILL"), killAfter);
  let stdout = "";
  for await (const part of child.stdout) stdout += String(part);
  const status = child.exitCode ?? (await new Promise<number | null>((resolve) => child.once("exit", resolve)));
  clearTimeout(timer);
  return { status, stdout, seconds: (performance.now() - start) / 1000 };
}

/** The result without what depends on the machine. */
function essence(json: string): string {
  const document = JSON.parse(json) as { cells: Record<string, unknown>[]; [key: string]: unknown };
  const cells = document.cells.map((cell) => ({ ...cell, seconds: 0 }));
  return JSON.stringify({ ...document, cells, workers: 0, peakRssBytes: 0 }, null, 1);
}

async function main(): Promise<number> {
  const [kills = "10", seed = "1"] = process.argv.slice(2);
  const random = new Random(Number(seed));
  const folder = mkdtempSync(join(tmpdir(), "racewalk-kill-"));
  const checkpoint = join(folder, "checkpoint.json");
  try {
    const undisturbed = await racewalk(["--workers", "1"], null);
    console.log(`undisturbed: ${undisturbed.seconds.toFixed(1)} s`);
    let killed = 0;
    for (let i = 0; i < Number(kills); i++) {
      const after = 300 + random.below(2_000);
      const { status } = await racewalk(["--checkpoint", checkpoint, "--workers", String(1 + (i % 3))], after);
      if (status === null) killed++;
      console.log(`${i + 1}: ${status === null ? `killed after ${after} ms` : "had ended before"}`);
    }
    const last = await racewalk(["--checkpoint", checkpoint], null);
    console.log(`the rest: ${last.seconds.toFixed(1)} s`);
    const [want, got] = [essence(undisturbed.stdout).split("\n"), essence(last.stdout).split("\n")];
    const differs = want.findIndex((line, i) => line !== got[i]);
    if (differs >= 0) console.log(`differs: ${want[differs]} | ${got[differs]}`);
    const same = differs < 0 && want.length === got.length && undisturbed.status === last.status;
    console.log(same ? `the same result after ${killed} kills` : "another result");
    return same ? 0 : 1;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

process.exitCode = await main();
