/**
 * What the measurements have in common: a VM whose threads run under the simulator's clock, with what serves them.
 *
 * Beside the named threads there are `irq0` ... for the CPUs of vCPUs and others that take interrupts, and `rcu`, which invokes callbacks.
 */

import type { TraceEvent } from "../engine/index.ts";
import {
  type CostTable,
  type GaugePoint,
  type Metrics,
  makeWorld,
  percentileOf,
  program,
  Simulator,
  type Steps,
  type Stretch,
  type Task,
  type World,
} from "../engine/index.ts";
import { kthread, rcuThread } from "../kernel/index.ts";
import { kvmCosts } from "../kvm/costs.ts";
import type { Kvm } from "../kvm/kvm.ts";
import type { Vm } from "../kvm/vm.ts";
import { interruptHandler } from "../machine/index.ts";

/** What a measured world has at least. */
export interface MeasuredScene {
  readonly world: World;
  readonly kvm: Kvm;
  /** Null where there is no VM, only KVM. */
  readonly vm: Vm | null;
}

export interface MeasuredRun<S extends MeasuredScene> {
  readonly name: string;
  readonly setup: (world: World) => S;
  /** Kernel threads, by name, in the order of their CPUs. */
  readonly threads: Readonly<Record<string, (scene: S) => Steps<unknown>>>;
  /** CPUs that take interrupts: those of the first so many threads. */
  readonly interrupted: number;
  /** RCU's callbacks are invoked. */
  readonly rcu: boolean;
  readonly memory?: { readonly staticBytes: number; readonly arenaBytes: number };
  /** Costs beside the table's, and instead of them. */
  readonly costs: CostTable;
  /** Nanoseconds after which everything stops. */
  readonly until?: number;
  /** Sees the tracepoints; nobody does when left out. */
  readonly onEvent?: (event: TraceEvent) => void;
  /** Called when the world is set up and nothing has run. */
  readonly before?: (scene: S, simulator: Simulator) => void;
}

/** Runs a measured VM to its end. */
export function simulate<S extends MeasuredScene>(run: MeasuredRun<S>): { metrics: Metrics; scene: S } {
  const tasks: Record<string, (scene: S) => Steps<unknown>> = {};
  for (const [name, body] of Object.entries(run.threads)) tasks[name] = (scene) => kthread(scene.world, body(scene));
  const served = Object.keys(tasks).length;
  if (run.rcu) tasks["rcu"] = ({ kvm }) => rcuThread(kvm.kernel.rcu);
  for (let cpu = 0; cpu < run.interrupted; cpu++) {
    tasks[`irq${cpu}`] = ({ vm, world }) => interruptHandler((vm as Vm).interrupts, cpu, world.tasks[cpu] as Task);
  }
  const { world, state: scene } = makeWorld(
    program<S>({
      name: run.name,
      setup: run.setup,
      tasks,
      daemons: Object.keys(tasks).slice(served),
      ...(run.memory === undefined ? {} : { memory: run.memory }),
    }),
  );
  world.onEvent = run.onEvent ?? (() => undefined);
  const costs = { ...kvmCosts(), nanosecond: 1, microsecond: 1_000, ...run.costs };
  const simulator = new Simulator(world, { costs, ...(run.until === undefined ? {} : { until: run.until }) });
  run.before?.(scene, simulator);
  return { metrics: simulator.run(), scene };
}

// --- reading metrics -------------------------------------------------------------------------------------------------

/** The length below which a share of the stretches lies; null when there are none. */
export function percentileNs(stretch: Stretch | undefined, share: number): number | null {
  return stretch === undefined ? null : percentileOf(stretch, share);
}

export function longestNs(stretch: Stretch | undefined): number | null {
  return stretch === undefined || stretch.count === 0 ? null : stretch.longest;
}

/** How a gauge went; nothing when it was never touched. */
export function historyOf({ gauges }: Metrics, name: string): readonly GaugePoint[] {
  return gauges.get(name)?.history() ?? [];
}

/** How often something happened that the cost table has. */
export function timesSpent({ spent }: Metrics, name: string): number {
  return spent.get(name) ?? 0;
}

/** How often something happened in a second of virtual time. */
export function perSecond(count: number, { end }: Metrics): number | null {
  return end === 0 ? null : (count / end) * 1e9;
}
