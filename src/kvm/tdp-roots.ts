/**
 * The roots of the TDP MMU: who uses them, and how long they live.
 *
 *     made             a reference for the vCPU, and one that the TDP MMU keeps
 *     another vCPU     takes a reference of its own
 *     invalidated      new vCPUs do not find it; those that have it are asked to drop it        (role.invalid)
 *     zapped           the TDP MMU gives its reference back
 *     last reference   off the list, freed after an RCU grace period
 *
 * The list is changed under tdp_mmu_pages_lock, with mmu_lock held (for read is enough); it is walked under mmu_lock, or under RCU by who takes
 * references. Stands for the parts of tdp_mmu.c that deal with kvm->arch.tdp_mmu_roots, of 6.12 and 7.2.
 */
import { assertThat, compareExchange, fetchAdd, load, type Steps, store } from "../engine/index.ts";
import {
  assertHeld,
  assertHeldRead,
  assertHeldWrite,
  callRcu,
  rcuReadLock,
  rcuReadUnlock,
  spinLock,
  spinUnlock,
} from "../kernel/index.ts";
import { gfn, type Hpa } from "../machine/index.ts";
import type { KvmMmuPage } from "./mmu-page.ts";
import { ROLE_GUEST_MODE, roleIsInvalid, tdpRootRole } from "./role.ts";
import { spText, type TdpMmu } from "./tdp-mmu.ts";

/** kvm_tdp_mmu_alloc_root(): the root for this kind of vCPU, with a reference. mmu_lock held for read. */
export function* kvmTdpMmuAllocRoot(tdp: TdpMmu, guestMode = false): Steps<KvmMmuPage> {
  assertHeldRead(tdp.kvm.mmuLock);
  const base = tdpRootRole(tdp.roles, tdp.rootLevel, tdp.layout.adEnabled);
  const role = guestMode ? base | ROLE_GUEST_MODE : base;
  // Roots leave the list under mmu_lock held for read as well: RCU keeps those that the search stands at.
  yield* rcuReadLock(tdp.kvm.kernel.rcu);
  const found = yield* findRoot(tdp, role);
  yield* rcuReadUnlock(tdp.kvm.kernel.rcu);
  if (found !== null) return found;
  yield* spinLock(tdp.tdpMmuPagesLock);
  // Another vCPU may have made the same root while the lock was not held.
  let root = yield* findRoot(tdp, role);
  if (root === null) {
    root = tdp.pages.allocate(role, gfn(0), 0);
    tdp.emit({ name: "kvm_mmu_get_page", sp: spText(root), created: true });
    // One reference for the vCPU, one that the TDP MMU keeps until the root is invalidated.
    root.tdp_mmu_root_count.value = 2;
    // list_add_rcu(): the new one comes first, complete before it is seen.
    root.link.value = yield* load(tdp.roots);
    yield* store(tdp.roots, root.addr);
  }
  yield* spinUnlock(tdp.tdpMmuPagesLock);
  return root;
}

/** A valid root of that role, with a reference taken; null when there is none. Under RCU, or with tdp_mmu_pages_lock held. */
function* findRoot(tdp: TdpMmu, role: number): Steps<KvmMmuPage | null> {
  for (let addr = yield* load(tdp.roots); addr !== 0; ) {
    const root = tdp.pages.at(addr);
    if (root.role.value === role && (yield* kvmTdpMmuGetRoot(root))) return root;
    addr = yield* load(root.link);
  }
  return null;
}

/** kvm_tdp_mmu_get_root(): false when the last reference is gone. */
function* kvmTdpMmuGetRoot(root: KvmMmuPage): Steps<boolean> {
  for (;;) {
    const count = yield* load(root.tdp_mmu_root_count);
    if (count === 0) return false;
    if ((yield* compareExchange(root.tdp_mmu_root_count, count, count + 1)) === count) return true;
  }
}

/** kvm_tdp_mmu_put_root(): the last reference takes the root off the list. mmu_lock held. */
export function* kvmTdpMmuPutRoot(tdp: TdpMmu, root: KvmMmuPage): Steps<void> {
  assertHeld(tdp.kvm.mmuLock);
  const before = yield* fetchAdd(root.tdp_mmu_root_count, -1);
  assertThat(before > 0, "a TDP root's reference count drops below zero", "tdp-root-refcount");
  if (before > 1) return;
  // The TDP MMU's own reference is given back only by who has invalidated and zapped the root.
  assertThat(isInvalidRoot(tdp, root), "the last reference of a valid TDP root is dropped", "tdp-root-refcount");
  yield* spinLock(tdp.tdpMmuPagesLock);
  yield* listDelRcu(tdp, root);
  yield* spinUnlock(tdp.tdpMmuPagesLock);
  tdp.world.clock?.gauge("unlinked pages", 1);
  yield* callRcu(tdp.kvm.kernel.rcu, root.addr, tdp.freeSpRcuCallback);
}

/** list_del_rcu(): who stands at the root still gets from it to the rest. */
function* listDelRcu(tdp: TdpMmu, root: KvmMmuPage): Steps<void> {
  let before = tdp.roots;
  for (let addr = yield* load(before); addr !== root.addr; addr = yield* load(before)) before = tdp.pages.at(addr).link;
  yield* store(before, yield* load(root.link));
}

export function isInvalidRoot(tdp: TdpMmu, root: KvmMmuPage): boolean {
  return roleIsInvalid(tdp.roles, root.role.value);
}

/** for_each_tdp_mmu_root(): the roots on the list, invalid ones included. mmu_lock held for write, and kept. */
export function* allRoots(tdp: TdpMmu): Steps<KvmMmuPage[]> {
  assertHeldWrite(tdp.kvm.mmuLock);
  const roots: KvmMmuPage[] = [];
  for (let addr = yield* load(tdp.roots); addr !== 0; ) {
    const root = tdp.pages.at(addr);
    roots.push(root);
    addr = yield* load(root.link);
  }
  return roots;
}

/** for_each_valid_tdp_mmu_root_rcu(): the valid roots, for who holds no lock, in an RCU read-side section. */
export function* validRootsRcu(tdp: TdpMmu): Steps<KvmMmuPage[]> {
  const roots: KvmMmuPage[] = [];
  for (let addr = yield* load(tdp.roots); addr !== 0; ) {
    const root = tdp.pages.at(addr);
    if (((yield* load(root.role)) & tdp.roles.invalid) === 0) roots.push(root);
    addr = yield* load(root.link);
  }
  return roots;
}

/**
 * tdp_mmu_next_root(): the next root, with a reference, so that the walk may drop mmu_lock at it. The reference of `previous` is given back, after
 * the way on from it has been read. Null at the end of the list.
 */
export function* tdpMmuNextRoot(tdp: TdpMmu, previous: KvmMmuPage | null): Steps<KvmMmuPage | null> {
  const { rcu } = tdp.kvm.kernel;
  yield* rcuReadLock(rcu);
  let next: KvmMmuPage | null = null;
  for (let addr = yield* load(previous === null ? tdp.roots : previous.link); addr !== 0; ) {
    const root = tdp.pages.at(addr);
    if (yield* kvmTdpMmuGetRoot(root)) {
      next = root;
      break;
    }
    addr = yield* load(root.link);
  }
  yield* rcuReadUnlock(rcu);
  if (previous !== null) yield* kvmTdpMmuPutRoot(tdp, previous);
  return next;
}

/** Host-physical address of a root's table: what nCR3 is loaded with. */
export function rootHpa(root: KvmMmuPage): Hpa {
  return root.spt.value as Hpa;
}
