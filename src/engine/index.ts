/**
 * The checker alone: no KVM in it.
 *
 *     import { check, type Program } from "racewalk/engine";
 */
export { assert, EngineBug, UsageError, Violation } from "./assert.ts";
export {
  arrayOf,
  Cell,
  cell,
  cells,
  entryCell,
  type FieldType,
  ptr,
  Struct,
  u32,
  u53,
  u64Field,
  type View,
} from "./cell.ts";
export {
  type CheckFailure,
  type CheckOptions,
  type CheckResult,
  check,
  type Detection,
  methodOf,
  type Progress,
  resultOf,
  type Verdict,
} from "./check.ts";
export { deepCall } from "./deep-call.ts";
export { type DiagramOptions, diagram, type HeadingOf } from "./diagram.ts";
export { Execution, type Failure, type MemoryModel, type Scheduler } from "./execution.ts";
export { type Estimate, Estimator, type Glance, glance } from "./explore/estimate.ts";
export type { Fact, FactJudge, Judgement } from "./facts.ts";
export type { Finding } from "./failures.ts";
export { chain, copyHash, type Hash, setHash } from "./hash.ts";
export { type AccessSize, PAGE_SIZE } from "./heap.ts";
export {
  addTotals,
  firstJobs,
  type Job,
  type JobResult,
  JobRunner,
  type Method,
  NO_TOTALS,
  type Strategy,
  type Totals,
} from "./job.ts";
export { type Operation, OpKind, PLACE, type Ready, type Steps, type Update } from "./operation.ts";
export {
  acquire,
  acquireShared,
  awaitUntil,
  choose,
  compareExchange,
  compareExchangeEntry,
  exchange,
  exchangeEntry,
  fence,
  fetchAdd,
  fetchAnd,
  fetchOr,
  join,
  load,
  loadEntry,
  note,
  progress,
  releaseShared,
  retire,
  revive,
  spawn,
  startLoop,
  store,
  storeEntry,
  storeNow,
} from "./ops.ts";
export { assertThat, makeWorld, type Program, program, type Results } from "./program.ts";
export { Random } from "./random.ts";
export { kernelName, type Observer, QUIET, type Replay, type ReplayStep, replay, type SourcePlace } from "./replay.ts";
export { formatSchedule, parseSchedule, type Schedule, type Step } from "./schedule.ts";
export { runSequentially } from "./sequential.ts";
export {
  type Clock,
  type CostTable,
  ENGINE_COSTS,
  type GaugePoint,
  type LockMetrics,
  type Metrics,
  percentileOf,
  type SimulationOptions,
  Simulator,
  type Stretch,
  TIME_SLICE,
} from "./simulate/index.ts";
export type { BodyFactory, Task, TaskBody } from "./task.ts";
export * from "./u64.ts";
export { type TraceEvent, type TraceRecord, World, type WorldOptions } from "./world.ts";
