/** Shadow page faults per second (shadow-scene.ts): the MMU of src/kvm as straight lines (straight/build.ts), and as the generators that the checker runs. */
import { spawnSync } from "node:child_process";
import { median, type Row, rowOf, rowsAgainst } from "./row.ts";
import type { ShadowFaultKind, ShadowFaultRates } from "./shadow-scene.ts";
import { COMPILER, type How, scriptOf } from "./tdp.ts";

const MARK = "mark";
/** What the MMU is to reach, in faults per second; nobody else has a figure. */
const FAULTS_MARK = 500_000;

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
  const engine = measure("faults", "engine", ENGINE_ROUNDS);
  return [
    ...rows,
    rowOf("shadow faults, first touch, as generators", median(engine.firstTouch), "faults/s"),
    rowOf("shadow faults after a zap, as generators", median(engine.afterZap), "faults/s"),
  ];
}

/** Rounds until the compiler is done. */
const WARM_UP = 6;
/** Generators take their time. */
const ENGINE_ROUNDS = 3;

/** In a process of its own. */
function measure(kind: ShadowFaultKind, how: How, rounds: number): ShadowFaultRates {
  const args = [...COMPILER, scriptOf("bench/speed/shadow-child.ts", how), kind, String(WARM_UP), String(rounds)];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`shadow faults: ${stderr}`);
  return JSON.parse(stdout) as ShadowFaultRates;
}
