/**
 * Shadow page faults per second (shadow-scene.ts): the MMU of src/kvm as straight lines (straight/hooks.ts), and as the generators that the checker runs.
 *
 *     node bench/speed/shadow-faults.ts faults|touches straight|engine WARM_UP ROUNDS        prints {@link ShadowFaultRates} as JSON
 */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { median, type Row, rowOf, rowsAgainst } from "./row.ts";
import type { ShadowFaultKind, ShadowFaultRates } from "./shadow-scene.ts";
import { COMPILER } from "./tdp.ts";

const MARK = "mark";
/** What the MMU is to reach, in faults per second; nobody else has a figure. */
const FAULTS_MARK = 500_000;

type How = "straight" | "engine";

export function shadowFaultRows(isLong: boolean): Row[] {
  const rounds = isLong ? 15 : 7;
  const faults = measure("faults", "straight", rounds);
  const touches = measure("touches", "straight", rounds);
  const rows = [
    ...rowsAgainst("shadow faults, first touch", median(faults.firstTouch), "faults/s", { [MARK]: FAULTS_MARK }),
    rowOf("shadow faults, first touch, with the guest's part", median(touches.firstTouch), "faults/s"),
    ...rowsAgainst("shadow faults after a zap, 8 pages each", median(faults.afterZap), "faults/s", {
      [MARK]: FAULTS_MARK,
    }),
    rowOf("shadow faults after a zap, with the guest's part", median(touches.afterZap), "faults/s"),
  ];
  if (!isLong) return rows;
  const engine = measure("faults", "engine", rounds);
  return [
    ...rows,
    rowOf("shadow faults, first touch, as generators", median(engine.firstTouch), "faults/s"),
    rowOf("shadow faults after a zap, as generators", median(engine.afterZap), "faults/s"),
  ];
}

/** Rounds until the compiler is done. */
const WARM_UP = 6;

/** In a process of its own. */
function measure(kind: ShadowFaultKind, how: How, rounds: number): ShadowFaultRates {
  const args = [...COMPILER, fileURLToPath(import.meta.url), kind, how, String(WARM_UP), String(rounds)];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`shadow faults: ${stderr}`);
  return JSON.parse(stdout) as ShadowFaultRates;
}

if (import.meta.main) {
  const [kind = "", how = "", warmUp = "0", rounds = "1"] = process.argv.slice(2);
  if (how === "straight") await import("./straight/hooks.ts");
  const { shadowFaultRates } = await import("./shadow-scene.ts");
  process.stdout.write(JSON.stringify(shadowFaultRates(kind as ShadowFaultKind, Number(warmUp), Number(rounds))));
}
