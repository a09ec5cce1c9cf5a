/**
 * Interrupts between CPUs.
 *
 * A CPU has a flag that masks interrupts and a word of pending ones, a bit for each sender. The sender sets its bit and may wait
 * until it is cleared. Clearing is done by the CPU's interrupt handler, a daemon task of its own that acts when something is pending and
 * interrupts are not masked; who masks them while it acts goes on when it has done, since it runs on the same CPU. A CPU in guest mode runs with interrupts masked on the host's side; a pending one makes it leave the
 * guest at the next instruction boundary (it looks at {@link isInterrupted}), and is handled when the host unmasks.
 *
 * An interrupt drains the store buffer of the CPU that it hits (SDM, "Store Buffer"), so what that CPU stored before is seen by
 * the sender when its wait is over.
 */
import {
  awaitUntil,
  type Cell,
  cells,
  exchange,
  fence,
  fetchOr,
  load,
  type Operation,
  type Steps,
  startLoop,
  storeNow,
  type Task,
  type World,
} from "../engine/index.ts";

interface InterruptTexts {
  readonly noneHandled: string;
  readonly allTaken: string;
}

const isZero = (value: number): boolean => value === 0;

export class Interrupts {
  readonly world: World;
  readonly cpus: number;
  private readonly masked: readonly Cell[];
  private readonly pending: readonly Cell[];
  private readonly handling: readonly Cell[];
  /** What diagrams say of the CPUs' waits; made once. */
  private readonly texts: readonly InterruptTexts[];

  /** @param cpus how many CPUs there are; thread n runs on CPU n */
  constructor(world: World, cpus: number) {
    this.world = world;
    this.cpus = cpus;
    world.watchesBuffers = true;
    this.texts = Array.from({ length: cpus }, (_, cpu) => ({
      noneHandled: `CPU ${cpu}: no interrupt is handled`,
      allTaken: `CPU ${cpu} has taken its IPIs`,
    }));
    this.masked = cells(world, "irqs_off", cpus);
    this.pending = cells(world, "ipi_pending", cpus);
    this.handling = cells(world, "in_irq", cpus);
  }

  textsOf(cpu: number): InterruptTexts {
    return this.texts[cpu] as InterruptTexts;
  }

  maskedOf(cpu: number): Cell {
    return this.masked[cpu] as Cell;
  }

  pendingOf(cpu: number): Cell {
    return this.pending[cpu] as Cell;
  }

  /** 1 while the CPU's handler acts. */
  handlingOf(cpu: number): Cell {
    return this.handling[cpu] as Cell;
  }
}

/**
 * local_irq_disable() of the CPU. Orders nothing, and nobody but the CPU's own handler looks at it. A handler that has begun ends first: otherwise it would
 * take an interrupt that was sent later, to a CPU that is in the guest by then, and the sender would take the guest for stopped.
 */
export function* maskInterrupts(interrupts: Interrupts, cpu: number): Steps<void> {
  interrupts.world.clock?.enter("irqs-off");
  yield* storeNow(interrupts.maskedOf(cpu), 1, "local_irq_disable()");
  yield* awaitUntil(interrupts.handlingOf(cpu), isZero, interrupts.textsOf(cpu).noneHandled);
}

/** local_irq_enable(): an interrupt that is pending is taken before the CPU goes on. */
export function* unmaskInterrupts(interrupts: Interrupts, cpu: number): Steps<void> {
  yield* storeNow(interrupts.maskedOf(cpu), 0, "local_irq_enable()");
  interrupts.world.clock?.leave("irqs-off");
  yield* awaitUntil(interrupts.pendingOf(cpu), isZero, interrupts.textsOf(cpu).allTaken);
}

/** True when an interrupt waits: the guest is left before its next instruction. */
export function* isInterrupted(interrupts: Interrupts, cpu: number): Steps<boolean> {
  return (yield* load(interrupts.pendingOf(cpu))) !== 0;
}

/** Sends an interrupt, and does not wait. */
export function interrupt(interrupts: Interrupts, from: number, cpu: number): Operation<number> {
  interrupts.world.clock?.spend("send an IPI");
  return fetchOr(interrupts.pendingOf(cpu), 1 << from);
}

/** Sends an interrupt from `from` to each CPU of `targets`, and waits until all have handled it. */
export function* interruptAndWait(interrupts: Interrupts, from: number, targets: readonly number[]): Steps<void> {
  // From the 33rd CPU on two share a bit, and may wait for each other's interrupt too: the handler takes all at once, so that none is missed.
  const bit = 1 << from;
  for (const cpu of targets) {
    interrupts.world.clock?.spend("send an IPI");
    yield* fetchOr(interrupts.pendingOf(cpu), bit);
  }
  for (const cpu of targets) {
    yield* awaitUntil(
      interrupts.pendingOf(cpu),
      (pending) => (pending & bit) === 0,
      `wait for CPU ${cpu} to take the IPI`,
    );
  }
}

/** The interrupt handler of a CPU; a daemon. `thread` is the task that runs on the CPU. */
export function* interruptHandler(interrupts: Interrupts, cpu: number, thread: Task): Steps<void> {
  const again = startLoop(interrupts.world);
  for (;;) {
    again();
    yield* awaitUntil(interrupts.pendingOf(cpu), (pending) => pending !== 0, `CPU ${cpu}: wait for an IPI`);
    yield* awaitUntil(
      interrupts.maskedOf(cpu),
      (masked) => masked === 0,
      `CPU ${cpu}: wait until interrupts are enabled`,
    );
    yield* storeNow(interrupts.handlingOf(cpu), 1);
    if ((yield* load(interrupts.maskedOf(cpu))) === 0) {
      yield* fence(interrupts.world, thread);
      interrupts.world.clock?.spend("take an IPI");
      yield* exchange(interrupts.pendingOf(cpu), 0, `CPU ${cpu} takes the IPI`);
    }
    yield* storeNow(interrupts.handlingOf(cpu), 0);
  }
}
