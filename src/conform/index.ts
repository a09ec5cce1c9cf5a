/**
 * Conformance: reading recordings of real Linux KVM, and comparing what a model does with them.
 *
 *     const recording = loadRecording("traces/tdp-touch-4k");
 *     for (const kernel of recording.kernels) {
 *       const plan = new HostPlan(kernel, recording.workload);     // what the host decided: input for the model
 *       const run = myModel(recording, kernel, plan);              // a WorkloadRun
 *       const result = compareWithRecording(recording, kernel, run);
 *       if (result.firstDivergence !== null) console.log(formatDivergence(result));
 *     }
 *
 * Nothing here knows a model: this layer reads text, and needs no machine, kernel or MMU.
 */
export { type CaseResult, compareWithRecording } from "./compare.ts";
export { formatDivergence } from "./divergence-text.ts";
export { parseTrace } from "./ftrace.ts";
export { type ModelRun, runWorkload } from "./model.ts";
export { findCases, loadRecording } from "./recording.ts";
export type { EventLine } from "./run.ts";
export { readWorkload, type Workload } from "./workload.ts";
