/** `racewalk check` as a process: killed and resumed, and what it refuses. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, test } from "vitest";

const MAIN = fileURLToPath(new URL("main.ts", import.meta.url));
const LARGE = fileURLToPath(new URL("../../bench/long-runs/large.ts", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "racewalk-check-"));
afterAll(() => rmSync(folder, { recursive: true }));

const environment = (size: number): NodeJS.ProcessEnv => ({ ...process.env, SIZE: String(size) });

function racewalk(args: readonly string[], size = 3): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [MAIN, "check", LARGE, ...args], { encoding: "utf8", env: environment(size) });
}

interface Document {
  readonly ok: boolean;
  readonly workers: number;
  readonly peakRssBytes: number;
  readonly cells: readonly Readonly<Record<string, unknown>>[];
}

/** Executions that a checkpoint knows of. */
function executionsIn(path: string): number {
  if (!existsSync(path)) return 0;
  const { cells } = JSON.parse(readFileSync(path, "utf8")) as { cells: { totals: { executions: number } }[] };
  return cells.reduce((sum, { totals }) => sum + totals.executions, 0);
}

/** Starts a run and kills it as soon as its checkpoint has got on. */
async function killed(path: string): Promise<void> {
  const before = executionsIn(path);
  const child: ChildProcess = spawn(process.execPath, [MAIN, "check", LARGE, "--checkpoint", path], {
    stdio: "ignore",
    env: environment(7),
  });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  while (executionsIn(path) <= before && child.exitCode === null) await new Promise((go) => setTimeout(go, 20));
  child.kill("SIGKILL");
  await ended;
  expect(child.signalCode).toBe("SIGKILL");
}

test("a run that is killed goes on from its checkpoint, with the result of one that nobody disturbed", async () => {
  const path = join(folder, "large.json");
  await killed(path);
  const { status, stdout, stderr } = racewalk(["--json", "--checkpoint", path], 7);
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  const { cells } = JSON.parse(stdout) as Document;
  expect(cells.map(({ executions }) => executions)).toEqual([616_227, 8_953, 49_104]);
  expect(cells.map(({ replay }) => replay)).toEqual([null, null, "main:tso/b10aAa2Aa2Aa2Aa2AaB5"]);
  // What is done is not done again.
  expect(JSON.parse(racewalk(["--json", "--checkpoint", path], 7).stdout)).toMatchObject({ cells });
});

test("a checkpoint of something else is refused, and left as it is", () => {
  const path = join(folder, "other.json");
  expect(racewalk(["--checkpoint", path]).status).toBe(0);
  const text = readFileSync(path, "utf8");
  const other = racewalk(["--checkpoint", path, "--preemptions", "1"]);
  expect(other.status).toBe(2);
  expect(other.stderr).toMatch(/^racewalk: .*other\.json: the checkpoint was written with other options[^\n]*\n$/);
  expect(other.stdout).toBe("");
  expect(readFileSync(path, "utf8")).toBe(text);
  writeFileSync(path, "{}");
  expect(racewalk(["--checkpoint", path])).toMatchObject({ status: 2, stdout: "" });
  expect(readFileSync(path, "utf8")).toBe("{}");
});

test("a sample states what it means, as text and as JSON", () => {
  const args = ["--strategy", "pct", "--depth", "2", "--runs", "500", "--model", "sc"];
  const { status, stdout } = racewalk(args);
  expect(status).toBe(0);
  expect(stdout.replace(/\s+/g, " ")).toMatch(
    /nothing failed in 500 executions by pct; a failure of depth 2 would show in each with a probability of at least 0\.042 \(1\/\(2\*12\^1\)\), and be missed by all with 5\.\d+e-10 at most/,
  );
  const { cells, peakRssBytes } = JSON.parse(racewalk([...args, "--json"]).stdout) as Document;
  expect(cells[0]).toMatchObject({
    strategy: "pct",
    detection: { depth: 2, lanes: 2, steps: 12, probability: 1 / 24 },
  });
  expect(peakRssBytes).toBeGreaterThan(2 ** 20);
});

test("a budget that is over gives the partial result and an estimate", () => {
  const { status, stdout, stderr } = racewalk(["--variant", "mp", "--budget", "3s", "--workers", "1"], 9);
  expect(status).toBe(1);
  expect(stderr).toMatch(/the budget is over; the result is incomplete\n$/);
  expect(stdout.replace(/\s+/g, " ")).toMatch(/mp main sc: about [\d.e-]+% of an estimated \d+ million runs \(/);
});

test.each([
  [["--depth", "0"], /--depth "0"/],
  [["--preemptions", "x"], /--preemptions "x"/],
  [["--task-steps", "0"], /--task-steps "0"/],
  [["--strategy", "best"], /--strategy "best"/],
])("what is no value is refused: %j", (args, message) => {
  const { status, stderr } = racewalk(args);
  expect(status).toBe(2);
  expect(stderr).toMatch(message);
});
