/** Virtual time: tasks under a discrete-event clock. */
export type { Clock } from "./clock.ts";
export { type CostTable, ENGINE_COSTS } from "./cost-table.ts";
export type { GaugePoint } from "./gauge.ts";
export { type LockMetrics, type Metrics, percentileOf, type Stretch } from "./metrics.ts";
export { type SimulationOptions, Simulator, TIME_SLICE } from "./simulator.ts";
