/**
 * `current`: what a kernel thread knows about itself.
 *
 * It follows from the thread's own course (locks taken, preemption and interrupts disabled, read-side sections open), so it lives
 * in the task and not in shared memory. From it come the checks that lockdep and might_sleep() make: a lock released by
 * somebody else, sleeping in atomic context, an inverted lock order, a lock still held at the end.
 */
import { assertThat, type Cell, type Task, UsageError, Violation, type World } from "../engine/index.ts";
import { LockFacts, type LockJudge } from "./lock-facts.ts";

/** How a held lock was taken. */
export type HeldAs = "exclusive" | "shared";

/** Anything that can be held: a lock, by identity. */
export interface Lockable {
  readonly name: string;
  readonly addr: number;
}

interface Held {
  readonly lock: Lockable;
  /** The lock's. */
  readonly addr: number;
  /** Held with others; else exclusively. */
  readonly shared: boolean;
  /** A spinning lock, held with preemption off. */
  readonly atomic: boolean;
  /** The operation that took it. */
  readonly at: number;
}

export class Current {
  readonly task: Task;
  /** The CPU that the thread runs on; each thread has one of its own, unless the scenario says otherwise. */
  readonly cpu: number;
  /** Locks and get_cpu() sections that keep preemption off. */
  preemptCount = 0;
  /** local_irq_disable() depth: 0 or 1. */
  irqsDisabled = false;
  /** The thread stands for an interrupt handler that is running. */
  inInterrupt = false;
  /** Open rcu_read_lock() sections. */
  rcuDepth = 0;
  /** The CPU, where a scenario has several threads share one (preempt.ts). */
  sharedCpu: Cell | null = null;
  private readonly held: Held[] = [];
  /** What is said of its use of locks when the execution is over. */
  readonly facts: LockFacts;

  constructor(task: Task, judge: LockJudge) {
    this.task = task;
    this.cpu = task.lane;
    this.facts = new LockFacts(task, judge);
  }

  /** Notes that a lock is about to be taken. */
  acquire(lock: Lockable, as: HeldAs, atomic: boolean): void {
    const { addr } = lock;
    const shared = as === "shared";
    for (let i = 0; i < this.held.length; i++) {
      const held = this.held[i] as Held;
      // It will wait for itself; the engine reports the deadlock. The order says nothing new.
      if (held.addr === addr && !(held.shared && shared)) return;
    }
    // Facts are for who compares executions: nobody does where one thread runs alone.
    if (!this.task.alone) this.noteFacts(lock, as, atomic);
    this.held.push({ lock, addr, shared, atomic, at: this.facts.next });
    if (atomic) this.preemptOff();
  }

  private noteFacts(lock: Lockable, as: HeldAs, atomic: boolean): void {
    const { facts } = this;
    for (const held of this.held) facts.order(held.lock.name, held.at, lock.name);
    if (atomic && (this.inInterrupt || !this.irqsDisabled)) {
      facts.use(lock.name, as, this.inInterrupt ? "interrupt" : "interruptible");
    }
  }

  /** Notes that a lock is about to be released. @throws Violation when it is not held that way */
  release(lock: Lockable, as: HeldAs): void {
    const { held: all } = this;
    const { addr } = lock;
    for (let at = all.length - 1; at >= 0; at--) {
      const held = all[at] as Held;
      if (held.addr !== addr || held.shared !== (as === "shared")) continue;
      // Nearly always the last one.
      if (at === all.length - 1) all.pop();
      else all.splice(at, 1);
      if (held.atomic) this.preemptOn();
      return;
    }
    throw new Violation("lock-imbalance", `${lock.name} is released by ${this.task.name}, which does not hold it`);
  }

  /** Preemption is off from here on. */
  preemptOff(): void {
    if (this.preemptCount++ === 0) this.task.world.clock?.enter("preempt-off");
  }

  /** One reason less for it to be off. */
  preemptOn(): void {
    if (--this.preemptCount === 0) this.task.world.clock?.leave("preempt-off");
  }

  holds(lock: Lockable, as?: HeldAs): boolean {
    const { addr } = lock;
    // Asked at every change of a page-table entry: a plain loop, and it is the innermost lock nearly always.
    for (let i = this.held.length - 1; i >= 0; i--) {
      const held = this.held[i] as Held;
      if (held.addr === addr && (as === undefined || held.shared === (as === "shared"))) return true;
    }
    return false;
  }

  get heldLocks(): readonly Lockable[] {
    return this.held.map((held) => held.lock);
  }

  /** might_sleep(): @throws Violation in atomic context */
  mightSleep(what: string): void {
    const why = this.atomicBecause();
    assertThat(why === null, `${what} may sleep, but ${this.task.name} ${why}`, "sleeping-in-atomic");
  }

  /** in_atomic(), or with interrupts off: it may not sleep. */
  get isAtomic(): boolean {
    return this.atomicBecause() !== null;
  }

  private atomicBecause(): string | null {
    const spinning = this.held.find((held) => held.atomic);
    if (spinning !== undefined) return `holds ${spinning.lock.name}`;
    if (this.inInterrupt) return "is in interrupt context";
    if (this.irqsDisabled) return "has interrupts disabled";
    if (this.rcuDepth > 0) return "is in an RCU read-side section";
    return this.preemptCount > 0 ? "has preemption disabled" : null;
  }

  /** The thread is left where it is, by a scenario that bounds its loops: what it holds stays held, and that is no mistake of its code. */
  abandon(): void {
    this.held.length = 0;
    this.preemptCount = 0;
    this.rcuDepth = 0;
    this.irqsDisabled = false;
  }

  /** Called when a thread ends. @throws Violation when it still holds something */
  checkExit(): void {
    this.whatIsLeft((property, message) => {
      throw new Violation(property, message);
    });
  }

  /** What a thread that has ended should have undone. */
  whatIsLeft(fail: (property: string, message: string) => void): void {
    const { name } = this.task;
    for (const { lock } of this.held) fail("lock-held-at-exit", `${name} ends and still holds ${lock.name}`);
    if (this.rcuDepth > 0) fail("rcu-imbalance", `${name} ends inside an RCU read-side section`);
    if (this.irqsDisabled) fail("irq-imbalance", `${name} ends with interrupts disabled`);
  }
}

/** The running thread's `current`. */
export function current(world: World): Current {
  const task = world.current;
  // Asked at every lock and every change of a page-table entry: instanceof would walk the object's prototypes.
  const isKernelThread = task !== null && (task.local as object | undefined)?.constructor === Current;
  if (isKernelThread) return task.local as Current;
  throw new UsageError("kernel code runs outside a kernel thread: call bootKernel(world) in the program's setup");
}
