/**
 * Shadow page faults per second (shadow-scene.ts): the MMU of src/kvm as straight lines (straight/hooks.ts), and as the generators that the checker runs.
 *
 *     node bench/speed/shadow-faults.ts straight|engine        prints {@link ShadowFaultRates} as JSON
 */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { median, type Row, rowOf, rowsAgainst } from "./row.ts";
import type { ShadowFaultRates } from "./shadow-scene.ts";
import { COMPILER } from "./tdp.ts";

const MARK = "mark";
/** What the MMU is to reach, in faults per second; nobody else has a figure. */
const FAULTS_MARK = 500_000;

type How = "straight" | "engine";

export function shadowFaultRows(isLong: boolean): Row[] {
  const { firstTouch, afterZap } = measure("straight");
  const rows = [
    ...rowsAgainst("shadow faults, first touch", median(firstTouch), "faults/s", { [MARK]: FAULTS_MARK }),
    ...rowsAgainst("shadow faults after a zap, 8 pages each", median(afterZap), "faults/s", { [MARK]: FAULTS_MARK }),
  ];
  if (!isLong) return rows;
  const engine = measure("engine");
  return [...rows, rowOf("shadow faults, as generators", median(engine.firstTouch), "faults/s")];
}

/** In a process of its own. */
function measure(how: How): ShadowFaultRates {
  const { status, stdout, stderr } = spawnSync(process.execPath, [...COMPILER, fileURLToPath(import.meta.url), how], {
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(`shadow faults: ${stderr}`);
  return JSON.parse(stdout) as ShadowFaultRates;
}

if (import.meta.main) {
  if (process.argv[2] === "straight") await import("./straight/hooks.ts");
  const { shadowFaultRates } = await import("./shadow-scene.ts");
  process.stdout.write(JSON.stringify(shadowFaultRates()));
}
