/**
 * One measurement of the TDP MMU, in a process of its own: `kvm-child.ts faults|touches|zap SIZE RUNS`, as generators, or of what straight/build.ts has
 * written. Prints the runs as JSON.
 */
import { faults, type Speed, touches, zap } from "./kvm-scene.ts";

const [what = "", size = "0", runs = "1"] = process.argv.slice(2);
const MEASUREMENTS: Readonly<Record<string, (size: number, runs: number) => Speed[]>> = { faults, touches, zap };
const results = (MEASUREMENTS[what] as (typeof MEASUREMENTS)[string])(Number(size), Number(runs));
process.stdout.write(JSON.stringify({ results, megabytes: process.resourceUsage().maxRSS / 1024 }));
