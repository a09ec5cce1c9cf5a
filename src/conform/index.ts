/**
 * Conformance: reading recordings of real Linux KVM, and comparing what a model does with them.
 *
 *     const recording = loadRecording("traces/tdp-touch-4k");
 *     const { workload, initial } = recording;
 *     for (const each of recording.kernels) {
 *       const run = runWorkload({ workload, initial, kernel: each.kernel, recording: each });
 *       const result = compareWithRecording(recording, each, run);
 *       if (result.firstDivergence !== null) console.log(formatDivergence(result));
 *     }
 */
export { type CaseResult, compareRuns, compareWithRecording, type Divergence } from "./compare.ts";
export { formatDivergence } from "./divergence-text.ts";
export { parseTrace } from "./ftrace.ts";
export { type ModelRun, runWorkload } from "./model.ts";
export {
  type RandomOptions,
  randomMmu,
  randomWorkload,
} from "./random-diff.ts";
export type { WorkloadDocument } from "./random-workload.ts";
export { findCases, loadRecording } from "./recording.ts";
export type { EventLine, Stats } from "./run.ts";
export { newCounters } from "./statistics.ts";
export { tdpLeaves } from "./tdp-leaves.ts";
export { parseWorkload, readWorkload, type Workload } from "./workload.ts";
export {
  type BodySetup,
  type DeviceAccess,
  type DirtyRingEntry,
  type Errno,
  type MakeBody,
  preFaultAlarm,
  type WorkloadBody,
} from "./workload-body.ts";
