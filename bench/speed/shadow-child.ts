/**
 * One measurement of shadow faults, in a process of its own: `shadow-child.ts faults|touches WARM_UP ROUNDS`, as generators, or of what
 * straight/build.ts has written. Prints {@link ShadowFaultRates} as JSON.
 */
import { type ShadowFaultKind, shadowFaultRates } from "./shadow-scene.ts";

const [kind = "", warmUp = "0", rounds = "1"] = process.argv.slice(2);
process.stdout.write(JSON.stringify(shadowFaultRates(kind as ShadowFaultKind, Number(warmUp), Number(rounds))));
