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
export {
  type CaseResult,
  type Comparison,
  compareRuns,
  compareWithRecording,
  type Divergence,
  type FlushReport,
} from "./compare.ts";
export { formatDivergence } from "./divergence-text.ts";
export { type LostEvents, parseTrace, readTrace, type Trace, type TraceLine } from "./ftrace.ts";
export { type HostLayout, layoutOf, type MemoryPlace, type Piece, piecesOf, type SlotMarker } from "./host-layout.ts";
export {
  type Backing,
  type FaultDecision,
  type FaultQuery,
  HostPlan,
  type NotifierCall,
  type PlanStep,
} from "./host-plan.ts";
export { type InitialState, readInitialState, type TableEntries } from "./initial-state.ts";
export { type Breach, breachesOf, INVARIANTS, type Invariant } from "./invariants.ts";
export { type ModelInput, type ModelRun, runWorkload } from "./model.ts";
export {
  type GuestOperation,
  type HostOperation,
  membersOf,
  type Operation,
  type ParallelOperation,
  type SingleOperation,
} from "./operation.ts";
export {
  findCases,
  type KernelRecording,
  loadRecording,
  type Machine,
  type OperationRecord,
  type Recording,
  type ResolvedMember,
  runOf,
} from "./recording.ts";
export { type EventLine, FLUSH_PROBE, type OperationRun, type Stats, type WorkloadRun } from "./run.ts";
export {
  CONTROL_SLOT,
  type GuestMap,
  type GuestPaging,
  type GuestRoot,
  type KernelParams,
  type Memory,
  parseWorkload,
  readWorkload,
  type Workload,
} from "./workload.ts";
