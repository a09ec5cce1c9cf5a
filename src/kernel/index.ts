/** What Linux lends KVM: locks, RCU, waiting, the host's memory management and its notifiers. */
export { Current, current, type Lockable } from "./current.ts";
export { Kernel, kthread } from "./kernel.ts";
export {
  assertHeld,
  assertHeldRead,
  assertHeldWrite,
  Mutex,
  mutexLock,
  mutexUnlock,
  RwLock,
  readLock,
  readUnlock,
  SpinLock,
  spinLock,
  spinUnlock,
  writeLock,
  writeUnlock,
} from "./locks.ts";
export * from "./mm/mm.ts";
export { allowFrame, PageFrames, putPage, revokeFrame, tryGetPage } from "./mm/page.ts";
export {
  callRcu,
  Rcu,
  type RcuCallback,
  rcuDereference,
  rcuReadLock,
  rcuReadUnlock,
  rcuThread,
  Srcu,
  srcuReadLock,
  srcuReadUnlock,
  synchronizeRcu,
  synchronizeSrcu,
} from "./rcu.ts";
export { finishWait, prepareToWait, schedule, ThreadStates, WaitQueue, wakeUp } from "./wait-queue.ts";
