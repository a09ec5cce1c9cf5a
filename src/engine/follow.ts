/** Following a schedule: the steps of a list, one after the other, and then no more. */
import type { Execution, Scheduler } from "./execution.ts";
import type { Step } from "./schedule.ts";

export class Follower implements Scheduler {
  execution: Execution | null = null;
  /** Is told the lane of each step before it is taken. */
  onPick: (lane: number) => void = () => undefined;
  /** The step, counted from 1, that could not be taken where the schedule has it; 0 when all could. */
  refused = 0;
  steps: readonly Step[];
  /** What this world calls a lane of the schedule; -1 when there is no such lane yet. */
  laneHere: (lane: number) => number = (lane) => lane;

  constructor(steps: readonly Step[]) {
    this.steps = steps;
  }

  pick(): number {
    const execution = this.execution as Execution;
    const step = this.steps[execution.events.length];
    if (step === undefined || this.refused > 0) return -1;
    const lane = this.laneHere(step.lane);
    if (lane < 0 || !execution.isEnabled(lane)) {
      this.refused = execution.events.length + 1;
      return -1;
    }
    this.onPick(lane);
    return lane;
  }

  choose(): number {
    return this.steps[(this.execution as Execution).events.length]?.choice ?? 0;
  }
}
