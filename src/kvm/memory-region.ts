/**
 * KVM_SET_USER_MEMORY_REGION: memslots are created, deleted, moved, and given other flags.
 *
 *     kvm_set_memory_region               what is asked for: create, delete, move, flags only
 *       kvm_set_memslot
 *         delete, move: kvm_invalidate_memslot
 *                         a copy marked INVALID takes the slot's place        swap
 *                         kvm_arch_flush_shadow_memslot()                     the MMU drops what it has of the slot
 *         kvm_prepare_memory_region
 *         the new slot, or none, takes its place                              swap
 *         kvm_commit_memory_region                                            dirty logging starts or ends
 *
 *     a swap (slots_lock, slots_arch_lock):
 *         the inactive set gets the change, and the generation of the active one | UPDATE_IN_PROGRESS
 *         under mn_invalidate_lock: wait until no invalidation is between start and end; publish
 *         drop slots_arch_lock; synchronize_srcu()
 *         kvm_arch_memslots_updated(); generation = old + 2
 *         the other set gets the change too
 *
 * The wait and the publication are one critical section: an invalidation must see the same slots at its start and at its end. The invalid copy
 * is there so that a fault which finds it tries again: between the zap and the second swap nothing of the slot may be mapped any more.
 * Stands for kvm_main.c of 6.12 and 7.2, without guest_memfd and without a second address space.
 */
import { load, retire, type Steps, store } from "../engine/index.ts";
import {
  assertHeld,
  finishWait,
  mutexLock,
  mutexUnlock,
  prepareToWait,
  schedule,
  spinLock,
  spinUnlock,
  synchronizeSrcu,
} from "../kernel/index.ts";
import type { Gfn } from "../machine/index.ts";
import type { Kvm } from "./kvm.ts";
import {
  copyOfSlot,
  KVM_MEM_READONLY,
  KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS,
  KVM_MEMSLOT_INVALID,
  type KvmMemorySlot,
  type Memslots,
  newSlot,
  type SlotDescription,
} from "./memslots.ts";

/** enum kvm_mr_change */
export type MemoryRegionChange = "create" | "delete" | "move" | "flags-only";

/** A memslot update, as its hooks see it. */
export interface MemslotUpdate {
  readonly old: KvmMemorySlot | null;
  /** Null when the slot goes away. */
  readonly new: KvmMemorySlot | null;
  readonly change: MemoryRegionChange;
}

/** What the ioctl returns, negated; 0 when it succeeds. */
export type Errno = 0 | 17 | 22;
const EEXIST = 17;
const EINVAL = 22;

/** The generation steps by the number of address spaces; x86 has two, one of them for SMM. */
const GENERATION_STEP = 2;

/** kvm_set_memory_region(): KVM_SET_USER_MEMORY_REGION. `npages` 0 deletes the slot. */
export function* kvmSetMemoryRegion(kvm: Kvm, region: SlotDescription): Steps<Errno> {
  yield* mutexLock(kvm.memslots.slotsLock);
  const result = yield* setMemoryRegionLocked(kvm, region);
  yield* mutexUnlock(kvm.memslots.slotsLock);
  return result;
}

/** __kvm_set_memory_region(), with slots_lock held. */
function* setMemoryRegionLocked(kvm: Kvm, region: SlotDescription): Steps<Errno> {
  const { memslots, world } = kvm;
  const old = memslots.byId(region.id);
  if (region.npages === 0) {
    if (old === null) return EINVAL;
    yield* kvmSetMemslot(kvm, { old, new: null, change: "delete" });
    return 0;
  }
  let change: MemoryRegionChange = "create";
  if (old !== null) {
    const samePlace = old.userspace_addr.value === region.userspaceAddr && old.npages.value === region.npages;
    if (!samePlace || ((old.flags.value ^ region.flags) & KVM_MEM_READONLY) !== 0) return EINVAL;
    if (old.base_gfn.value !== region.baseGfn) change = "move";
    else if (old.flags.value !== region.flags) change = "flags-only";
    else return 0;
  }
  const moves = change === "create" || change === "move";
  if (moves && overlaps(memslots, region)) return EEXIST;
  // kvm_arch_prepare_memory_region(): a slot in a new place has large pages of its own; one that stays keeps them.
  const made = moves || old === null ? newSlot(world, region) : copyOfSlot(world, old, region.flags);
  yield* kvmSetMemslot(kvm, { old, new: made, change });
  return 0;
}

/** kvm_check_memslot_overlap() */
function overlaps(memslots: Memslots, region: SlotDescription): boolean {
  const start: number = region.baseGfn;
  const end: Gfn = (start + region.npages) as Gfn;
  return memslots.slotsOf(memslots.setAt(memslots.active.value)).some((slot) => {
    const base = slot.base_gfn.value;
    return slot.id.value !== region.id && start < base + slot.npages.value && end > base;
  });
}

/** kvm_set_memslot() */
function* kvmSetMemslot(kvm: Kvm, update: MemslotUpdate): Steps<void> {
  const { memslots, arch } = kvm;
  const { old } = update;
  yield* mutexLock(memslots.slotsArchLock);
  let current = old;
  if (old !== null && (update.change === "delete" || update.change === "move")) {
    current = yield* kvmInvalidateMemslot(kvm, old);
    yield* mutexLock(memslots.slotsArchLock);
  }
  // kvm_prepare_memory_region()
  if (arch !== null) arch.prepareMemoryRegion(update);
  yield* kvmSwapActiveMemslots(kvm, current, update.new);
  if (current !== old && current !== null) yield* freeSlot(kvm, current);
  yield* kvmCommitMemoryRegion(kvm, update);
}

/** kvm_invalidate_memslot(): returns the invalid copy. Takes slots_arch_lock away. */
function* kvmInvalidateMemslot(kvm: Kvm, old: KvmMemorySlot): Steps<KvmMemorySlot> {
  const invalid = copyOfSlot(kvm.world, old, old.flags.value | KVM_MEMSLOT_INVALID);
  yield* kvmSwapActiveMemslots(kvm, old, invalid);
  // Nobody finds the slot any more except as invalid; what is mapped of it goes now.
  if (kvm.arch !== null) yield* kvm.arch.flushShadowMemslot(old);
  return invalid;
}

/** kvm_commit_memory_region() */
function* kvmCommitMemoryRegion(kvm: Kvm, update: MemslotUpdate): Steps<void> {
  if (kvm.arch !== null) yield* kvm.arch.commitMemoryRegion(update);
  if (update.old !== null) yield* freeSlot(kvm, update.old);
}

/** kfree(slot): every section that may have found it has ended. */
function* freeSlot(kvm: Kvm, slot: KvmMemorySlot): Steps<void> {
  yield* retire(kvm.world, slot.addr, "freed");
}

/** kvm_replace_memslot(): what a set holds after the change. */
function replaced(addrs: readonly number[], old: KvmMemorySlot | null, made: KvmMemorySlot | null): number[] {
  const rest = old === null ? [...addrs] : addrs.filter((addr) => addr !== old.addr);
  return made === null ? rest : [...rest, made.addr];
}

/** kvm_swap_active_memslots(), kvm_activate_memslot(); drops slots_arch_lock. */
function* kvmSwapActiveMemslots(kvm: Kvm, old: KvmMemorySlot | null, made: KvmMemorySlot | null): Steps<void> {
  const { memslots } = kvm;
  assertHeld(memslots.slotsLock);
  assertHeld(memslots.slotsArchLock);
  const active = memslots.setAt(memslots.active.value);
  const inactive = memslots.inactiveSet(active.addr);
  const current = memslots.slotsOf(active).map((slot) => slot.addr);
  const addrs = replaced(current, old, made);
  const generation = active.generation.value;
  memslots.fill(inactive, addrs);
  const updated = generation + GENERATION_STEP;
  const marked = generation + KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS;
  yield* store(inactive.generation, kvm.lacks("mmio-cached-under-new-generation") ? updated : marked);
  if (kvm.lacks("memslot-swap-unbalances-notifier")) {
    yield* spinLock(memslots.mnInvalidateLock);
  } else {
    yield* waitForInvalidations(memslots);
  }
  yield* store(memslots.active, inactive.addr, "rcu_assign_pointer(kvm->memslots)");
  yield* spinUnlock(memslots.mnInvalidateLock);
  yield* mutexUnlock(memslots.slotsArchLock);
  yield* synchronizeSrcu(memslots.srcu);
  if (kvm.arch !== null) yield* kvm.arch.memslotsUpdated(updated);
  // Only now may MMIO entries be made and believed again: nobody uses the old slots any more.
  yield* store(inactive.generation, updated);
  memslots.fill(active, addrs);
  active.generation.value = updated;
}

/** Waits until no invalidation is between its start and its end, and returns with mn_invalidate_lock held, so that none can start. */
function* waitForInvalidations(memslots: Memslots): Steps<void> {
  const { mnInvalidateLock, mnActiveInvalidateCount, mnMemslotsUpdateWait } = memslots;
  yield* spinLock(mnInvalidateLock);
  if ((yield* load(mnActiveInvalidateCount)) === 0) return;
  do {
    yield* prepareToWait(mnMemslotsUpdateWait);
    yield* spinUnlock(mnInvalidateLock);
    yield* schedule(mnMemslotsUpdateWait);
    yield* spinLock(mnInvalidateLock);
  } while ((yield* load(mnActiveInvalidateCount)) !== 0);
  yield* finishWait(mnMemslotsUpdateWait);
}
