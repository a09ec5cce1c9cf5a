/**
 * The TDP MMU alone on one thread: faults, and the zap of a whole root, held against the marks that the project has set itself.
 *
 * The MMU is that of src/kvm, run as straight lines (straight/build.ts). Seconds are user CPU time of what is measured, set-up left out.
 */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { Speed } from "./kvm-scene.ts";
import { median, type Row, rowOf, rowsAgainst } from "./row.ts";
import { straightScript } from "./straight/build.ts";

const MARK = "mark";
const FAULTS_MARK = 1_000_000;
const ZAP_MARK = 20_000_000;
const ENTRY_BYTES = 8;
const HUGE_GIB = 512;
/** The compiler is done after the first or the second. */
const RUNS = 7;

/** The walk of a zap is one loop over many small functions: the compiler is to make one of them, however large. */
export const COMPILER = [
  "--max-inlined-bytecode-size=2000",
  "--max-inlined-bytecode-size-cumulative=10000",
  "--max-inlined-bytecode-size-absolute=30000",
  "--max-inlined-bytecode-size-small=100",
  "--min-inlining-frequency=0",
  "--max-optimized-bytecode-size=200000",
  // The straight form is loaded by a hook that takes types away, which Node has not declared finished.
  "--disable-warning=ExperimentalWarning",
];

const ROOT = fileURLToPath(new URL("../../", import.meta.url));

/** Generators, as the source is written, or straight lines. */
export type How = "straight" | "engine";

/** The file to run for a script of this tree. */
export function scriptOf(script: string, how: How): string {
  return how === "straight" ? straightScript(ROOT, script) : `${ROOT}${script}`;
}

/** What is done once for a table, 512 entries, stays a call: its objects would take the room that escape analysis has for those of each entry. */
const ZAP_COMPILER = ["--min-inlining-frequency=0.003"];

interface Measured {
  readonly results: readonly Speed[];
  /** Largest resident set of the process. */
  readonly megabytes: number;
}

type What = "faults" | "touches" | "zap";

function measure(what: What, size: number, runs: number, how: How): Measured {
  const child = scriptOf("bench/speed/kvm-child.ts", how);
  const compiler = what === "zap" ? [...COMPILER, ...ZAP_COMPILER] : COMPILER;
  const args = [...compiler, child, what, String(size), String(runs)];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`tdp ${what}: ${stderr}`);
  return JSON.parse(stdout) as Measured;
}

/** The first run is the compiler's. */
function rateOf({ results }: Measured): number {
  return median((results.length > 1 ? results.slice(1) : results).map(({ done, seconds }) => done / seconds));
}

export function tdpRows(isLong: boolean, add: (rows: readonly Row[]) => void): void {
  const faults = measure("faults", isLong ? 400_000 : 200_000, RUNS, "straight");
  add(rowsAgainst("tdp faults", rateOf(faults), "faults/s", { [MARK]: FAULTS_MARK }));
  const touches = measure("touches", isLong ? 200_000 : 50_000, RUNS, "straight");
  add([rowOf("tdp faults, with the guest's part", rateOf(touches), "faults/s")]);
  const zap = measure("zap", isLong ? 64 : 16, RUNS, "straight");
  add(rowsAgainst("tdp zap, 4K", rateOf(zap), "SPTEs/s", { [MARK]: ZAP_MARK }));
  const [{ tableBytes, done }] = zap.results as [Speed];
  add(rowsAgainst("tdp zap, tables", tableBytes / done, "bytes/SPTE", { [MARK]: ENTRY_BYTES }));
  if (isLong) addLong(add);
}

/** Generators, for comparison; and a guest of half a terabyte. */
function addLong(add: (rows: readonly Row[]) => void): void {
  add([
    rowOf("tdp faults, as generators", rateOf(measure("faults", 100_000, 3, "engine")), "faults/s"),
    rowOf("tdp zap, as generators", rateOf(measure("zap", 8, 3, "engine")), "SPTEs/s"),
  ]);
  const huge = measure("zap", HUGE_GIB, 1, "straight");
  const name = `tdp zap, ${HUGE_GIB} GiB of 4K`;
  add([
    ...rowsAgainst(name, rateOf(huge), "SPTEs/s", { [MARK]: ZAP_MARK }),
    rowOf(`${name}, SPTEs`, huge.results[0]?.done ?? 0, "SPTEs"),
    rowOf(`${name}, populate`, huge.results[0]?.setUpSeconds ?? 0, "s"),
    rowOf(`${name}, zap`, huge.results[0]?.seconds ?? 0, "s"),
    rowOf(`${name}, memory`, huge.megabytes, "MB"),
  ]);
}
