/** Litmus tests: the smallest programs that tell memory models apart, run on the engine. */
export { litmusFiles, readLitmusFile } from "./read.ts";
export { type LitmusResult, runLitmusTest } from "./run.ts";
