/**
 * Spinlocks, read/write spinlocks and mutexes.
 *
 * A lock is one word: 0 when free. Taking it waits until that is so and changes the word in the same step (a locked
 * instruction: a full barrier). Releasing a spinlock, a mutex or the write side is a store-release, which on x86 is a plain store and
 * waits in the store buffer like any other; releasing the read side is a locked decrement.
 *
 *     rwlock word:  bit 20: a writer     bits 0-19: number of readers
 *
 * Not modelled here: the queue of waiters. Any waiter may be next, which covers every queueing discipline; starvation by an unfair lock is
 * no finding about Linux's fair ones.
 */
import {
  acquire,
  acquireShared,
  Cell,
  type Operation,
  releaseShared,
  type Steps,
  store,
  Violation,
  type World,
} from "../engine/index.ts";
import { current, type Lockable } from "./current.ts";

const isFree = (value: number): boolean => value === 0;

/** `owner + 1` for each lane, made once: an acquisition allocates nothing. */
const TAKE: ((value: number) => number)[] = Array.from({ length: 2048 }, (_, lane) => () => lane + 1);

abstract class Lock implements Lockable {
  readonly name: string;
  readonly cell: Cell;

  /** @param name as in C, without the `&`: "kvm->mmu_lock" */
  constructor(world: World, name: string, cell: Cell | null = null) {
    this.name = name;
    this.cell = cell ?? new Cell<number>(world, world.allocate(8, name), 8, false);
  }

  get addr(): number {
    return this.cell.addr;
  }

  get world(): World {
    return this.cell.world;
  }
}

export class SpinLock extends Lock {
  readonly kind = "spinlock";
  readonly lockText = `spin_lock(&${this.name})`;
  readonly unlockText = `spin_unlock(&${this.name})`;
}

export function spinLock(lock: SpinLock): Operation<number> {
  const self = current(lock.world);
  self.acquire(lock, "exclusive", true);
  return acquire(lock.cell, isFree, TAKE[self.task.lane] as (value: number) => number, lock.lockText);
}

export function spinUnlock(lock: SpinLock): Operation<number> {
  current(lock.world).release(lock, "exclusive");
  return store(lock.cell, 0, lock.unlockText);
}

/** local_irq_disable() of the running thread's CPU, as far as its own locks are concerned. */
export function localIrqDisable(world: World): void {
  current(world).irqsDisabled = true;
}

export function localIrqEnable(world: World): void {
  current(world).irqsDisabled = false;
}

/** spin_lock_irq() */
export function spinLockIrq(lock: SpinLock): Operation<number> {
  localIrqDisable(lock.world);
  return spinLock(lock);
}

/** spin_unlock_irq() */
export function* spinUnlockIrq(lock: SpinLock): Steps<void> {
  yield* spinUnlock(lock);
  localIrqEnable(lock.world);
}

/** An interrupt handler's body: the locks that it takes are taken in interrupt context. */
export function* hardirq<T>(world: World, body: Steps<T>): Steps<T> {
  const self = current(world);
  self.inInterrupt = true;
  const value = yield* body;
  self.inInterrupt = false;
  return value;
}

export class Mutex extends Lock {
  readonly kind = "mutex";
}

export function mutexLock(lock: Mutex): Operation<number> {
  const self = current(lock.world);
  self.mightSleep(`mutex_lock(&${lock.name})`);
  self.acquire(lock, "exclusive", false);
  return acquire(lock.cell, isFree, TAKE[self.task.lane] as (value: number) => number, `mutex_lock(&${lock.name})`);
}

export function mutexUnlock(lock: Mutex): Operation<number> {
  current(lock.world).release(lock, "exclusive");
  return store(lock.cell, 0, `mutex_unlock(&${lock.name})`);
}

const WRITER = 1 << 20;
const hasNoWriter = (value: number): boolean => value < WRITER;
const addReader = (value: number): number => value + 1;
const dropReader = (value: number): number => value - 1;
const takeWrite = (): number => WRITER;

/** A rwlock_t; with `sleeping`, a rw_semaphore. */
export class RwLock extends Lock {
  readonly sleeping: boolean;
  /** What diagrams call what is done to it; made once. */
  readonly text: Readonly<Record<"readLock" | "readUnlock" | "writeLock" | "writeUnlock", string>>;

  constructor(world: World, name: string, sleeping = false, cell: Cell | null = null) {
    super(world, name, cell);
    this.sleeping = sleeping;
    this.text = {
      readLock: `${sleeping ? "down_read" : "read_lock"}(&${name})`,
      readUnlock: `${sleeping ? "up_read" : "read_unlock"}(&${name})`,
      writeLock: `${sleeping ? "down_write" : "write_lock"}(&${name})`,
      writeUnlock: `${sleeping ? "up_write" : "write_unlock"}(&${name})`,
    };
  }
}

export function readLock(lock: RwLock): Operation<number> {
  const self = current(lock.world);
  if (lock.sleeping) self.mightSleep(lock.text.readLock);
  self.acquire(lock, "shared", !lock.sleeping);
  return acquireShared(lock.cell, hasNoWriter, addReader, lock.text.readLock);
}

export function readUnlock(lock: RwLock): Operation<number> {
  current(lock.world).release(lock, "shared");
  return releaseShared(lock.cell, dropReader, lock.text.readUnlock);
}

export function writeLock(lock: RwLock): Operation<number> {
  const self = current(lock.world);
  if (lock.sleeping) self.mightSleep(lock.text.writeLock);
  self.acquire(lock, "exclusive", !lock.sleeping);
  return acquire(lock.cell, isFree, takeWrite, lock.text.writeLock);
}

export function writeUnlock(lock: RwLock): Operation<number> {
  current(lock.world).release(lock, "exclusive");
  return store(lock.cell, 0, lock.text.writeUnlock);
}

/** lockdep_assert_held(): @throws Violation when the running thread does not hold the lock (that way) */
export function assertHeld(lock: Lockable & { readonly world: World }, as?: "exclusive" | "shared"): void {
  const self = current(lock.world);
  if (self.holds(lock, as)) return;
  const how = as === undefined ? "" : as === "shared" ? " for read" : " for write";
  throw new Violation("lock-not-held", `${self.task.name} runs without holding ${lock.name}${how}`);
}

export function assertHeldWrite(lock: RwLock): void {
  assertHeld(lock, "exclusive");
}

export function assertHeldRead(lock: RwLock): void {
  assertHeld(lock, "shared");
}
