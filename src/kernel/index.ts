/** What Linux lends KVM: locks, RCU, waiting, the host's memory management and its notifiers. */
export { Current, current, type Lockable } from "./current.ts";
export { Kernel, kthread } from "./kernel.ts";
export { isListEmpty, listAdd, listAddTail, listDel, listEntries, listEntriesReverse, listInit } from "./list.ts";
export {
  assertHeld,
  assertHeldRead,
  assertHeldWrite,
  hardirq,
  localIrqDisable,
  localIrqEnable,
  Mutex,
  mutexLock,
  mutexUnlock,
  RwLock,
  readLock,
  readUnlock,
  SpinLock,
  spinLock,
  spinLockIrq,
  spinUnlock,
  spinUnlockIrq,
  writeLock,
  writeUnlock,
} from "./locks.ts";
export { madviseCollapse } from "./mm/collapse.ts";
export { pteText } from "./mm/entry.ts";
export { MemFile, punchHole } from "./mm/file.ts";
export { type Child, exitChild, fork } from "./mm/fork.ts";
export { followOrFault, getUserPage, getUserPageFast, hostMappingLevel, type UserPage } from "./mm/gup.ts";
export { KsmScan, makeMerged, mergeInto, unmergeAll, writeProtectPage } from "./mm/ksm.ts";
export {
  ADVICE_FLAGS,
  type FlagAdvice,
  madviseCold,
  madviseFlags,
  madviseFree,
  madvisePageout,
  madvisePopulate,
} from "./mm/madvise.ts";
export { migratePage } from "./mm/migrate.ts";
export { type HostPolicy, Mm, type MmOptions } from "./mm/mm.ts";
export { mprotect } from "./mm/mprotect.ts";
export { mremap } from "./mm/mremap.ts";
export {
  MMU_NOTIFY_CLEAR,
  MMU_NOTIFY_PROTECTION_PAGE,
  MMU_NOTIFY_PROTECTION_VMA,
  MMU_NOTIFY_UNMAP,
  type MmuNotifierOps,
  type NotifierRange,
  notifyEnd,
  notifyStart,
  notifyStartNonblock,
} from "./mm/notifier.ts";
export { allowFrame, PageFrames, putPage, revokeFrame, tryGetPage } from "./mm/page.ts";
export { followPfn, insertPfn, unmapPfn } from "./mm/pfnmap.ts";
export {
  compareExchangeAt,
  exchangeUser,
  getUser,
  getUserWords,
  putUser,
  tryCmpxchgUser,
  type UserAccessSize,
} from "./mm/user-access.ts";
export {
  PROT_EXEC,
  PROT_NONE,
  PROT_READ,
  PROT_WRITE,
  VM_HUGEPAGE,
  VM_HUGETLB_1G,
  VM_HUGETLB_2M,
  VM_NOHUGEPAGE,
  VM_PFNMAP,
  VM_SHARED,
  vmaAt,
} from "./mm/vma.ts";
export { EINVAL, invalidateRange, madviseDontneed, mmapFixed, munmap, oomReapRange, zapRange } from "./mm/zap.ts";
export { mayBePreempted, preemptDisable, preemptEnable, preemptionPoint, runOn } from "./preempt.ts";
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
export { stallWarnings } from "./rcu-softirq.ts";
export { type CacheOptions, KmemCache, kmemCacheAlloc, kmemCacheFree } from "./slab.ts";
export { finishWait, prepareToWait, schedule, ThreadStates, WaitQueue, wakeUp } from "./wait-queue.ts";
