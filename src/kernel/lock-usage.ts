/**
 * How spinning locks are used in interrupts and out of them, over all executions of a world, as lockdep notes it.
 *
 * A lock that an interrupt handler takes must not be held by a thread that can be interrupted on the same CPU: the handler would spin for ever on
 * a lock whose holder it has pushed aside. Two readers do not exclude each other.
 */
import { Violation } from "../engine/index.ts";

interface Usage {
  /** Takers in interrupt context, and with interrupts enabled: by how they took it. */
  readonly inInterrupt: Map<"exclusive" | "shared", string>;
  readonly interruptible: Map<"exclusive" | "shared", string>;
}

export class LockUsage {
  private readonly locks = new Map<string, Usage>();

  /** @throws Violation when the lock is used both ways */
  note(lock: string, as: "exclusive" | "shared", where: "interrupt" | "interruptible", task: string): void {
    const usage = this.locks.get(lock) ?? { inInterrupt: new Map(), interruptible: new Map() };
    this.locks.set(lock, usage);
    const mine = where === "interrupt" ? usage.inInterrupt : usage.interruptible;
    const others = where === "interrupt" ? usage.interruptible : usage.inInterrupt;
    const other = others.get("exclusive") ?? (as === "exclusive" ? others.get("shared") : undefined);
    if (other === undefined) {
      if (!mine.has(as)) mine.set(as, task);
      return;
    }
    const [handler, thread] = where === "interrupt" ? [task, other] : [other, task];
    const message = `${lock} is taken by ${handler} in interrupt context, and by ${thread} with interrupts enabled`;
    throw new Violation("irq-unsafe-lock", message);
  }
}
