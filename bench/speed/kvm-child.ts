/** One measurement of the TDP MMU, in a process of its own: `kvm-child.ts faults|touches|zap SIZE RUNS straight|engine`. Prints the runs as JSON. */
import type { Speed } from "./kvm-scene.ts";

const [what = "", size = "0", runs = "1", how = ""] = process.argv.slice(2);
if (how === "straight") await import("./straight/hooks.ts");
const scene = (await import("./kvm-scene.ts")) as Record<string, (size: number, runs: number) => Speed[]>;
const results = (scene[what] as (size: number, runs: number) => Speed[])(Number(size), Number(runs));
process.stdout.write(JSON.stringify({ results, megabytes: process.resourceUsage().maxRSS / 1024 }));
