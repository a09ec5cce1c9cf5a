/**
 * Walks down the shadow tables from a vCPU's root.
 *
 *     for_each_shadow_entry()              mmu_lock held for write: entries are read as they are
 *     for_each_shadow_entry_lockless()     by the vCPU's own thread, without it:
 *
 *         begin    interrupts off; mode = READING_SHADOW_PAGE_TABLES; full barrier
 *         end      mode = OUTSIDE_GUEST_MODE; interrupts on
 *
 *     Who frees shadow pages unlinks them first, then flushes: full barrier, read the mode, interrupt. Either it sees READING and waits until the
 *     interrupt can be taken, that is until the walk has ended; or the walk's loads come after its unlinking stores.
 *
 * A PAE root (three levels) has no page of its own: the walk begins at level 2 of the entry for the address's gigabyte. Stands for
 * shadow_walk_init(), shadow_walk_okay(), shadow_walk_next(), walk_shadow_page_lockless_begin() and _end() of 6.12 and 7.2.
 */
import { fence, loadEntry, type Steps, store, type U64, UsageError } from "../../engine/index.ts";
import {
  isPresent,
  maskInterrupts,
  PAGE_SIZE,
  PG_LEVEL_2M,
  PG_LEVEL_4K,
  tableIndex,
  unmaskInterrupts,
} from "../../machine/index.ts";
import { OUTSIDE_GUEST_MODE, READING_SHADOW_PAGE_TABLES } from "../requests.ts";
import { isLargePte, isShadowPresentPte, spteToPfn } from "../spte.ts";
import type { Vcpu } from "../vcpu.ts";
import { type ShadowPage, spteOf } from "./page.ts";
import type { ShadowMmu } from "./shadow-mmu.ts";
import type { Sptep } from "./spte-change.ts";

/** struct kvm_shadow_walk_iterator: where a walk is. */
export interface ShadowWalk {
  readonly frame: number;
  sp: ShadowPage;
  level: number;
  sptep: Sptep;
}

/** shadow_walk_init(): null when there is nothing to walk. */
export function shadowWalkInit(vcpu: Vcpu, shadow: ShadowMmu, root: number, addr: number): ShadowWalk | null {
  const { mmu } = vcpu;
  const frame = Math.floor(addr / PAGE_SIZE);
  let sp = shadow.pages.ofRoot(root);
  // By mmu->root_role, not by the page: who zaps it may be about to mark it invalid.
  let level: number = vcpu.isDirectMmu ? vcpu.vm.tdp.rootLevel : vcpu.guest.mode.levels;
  if (mmu.isPaeRoot(root)) {
    level = PG_LEVEL_2M;
    const entry = mmu.paeRootEntry(Math.floor(addr / 2 ** 30) % 4).value;
    if (!isPresent(entry)) return null;
    sp = shadow.pages.ofFrame(spteToPfn(entry));
  }
  if (sp === null) return null;
  return { frame, sp, level, sptep: entryFor(shadow, sp, frame, level) };
}

/** The page's entry on the way to a frame of the address space. */
function entryFor(shadow: ShadowMmu, sp: ShadowPage, frame: number, level: number): Sptep {
  const index = tableIndex(frame, level);
  if (index >= shadow.entriesEnd) {
    const mend = `give tableEntriesEnd more than ${shadow.entriesEnd}`;
    throw new UsageError(`the way to page 0x${frame.toString(16)} goes through entry ${index} of a table: ${mend}`);
  }
  return spteOf(sp, index);
}

/** shadow_walk_next(): false when the entry leads to no table. @param spte the entry as it was read */
export function shadowWalkNext(shadow: ShadowMmu, walk: ShadowWalk, spte: U64): boolean {
  if (walk.level === PG_LEVEL_4K || !isShadowPresentPte(spte) || isLargePte(spte)) return false;
  walk.sp = shadow.pages.ofFrame(spteToPfn(spte));
  walk.level--;
  walk.sptep = entryFor(shadow, walk.sp, walk.frame, walk.level);
  return true;
}

/** walk_shadow_page_lockless_begin() */
export function* walkShadowPageLocklessBegin(vcpu: Vcpu): Steps<void> {
  const { kvm, interrupts } = vcpu.vm;
  yield* maskInterrupts(interrupts, vcpu.cpu);
  if (kvm.lacks("lockless-walk-vs-free/mode")) return;
  yield* store(vcpu.mode, READING_SHADOW_PAGE_TABLES);
  // smp_store_mb(): the mode is visible before any entry is read.
  if (!kvm.lacks("lockless-walk-vs-free/fence")) yield* fence(vcpu.world);
}

/** walk_shadow_page_lockless_end() */
export function* walkShadowPageLocklessEnd(vcpu: Vcpu): Steps<void> {
  yield* store(vcpu.mode, OUTSIDE_GUEST_MODE);
  yield* unmaskInterrupts(vcpu.vm.interrupts, vcpu.cpu);
}

/** The last entry that a lockless walk gets to; null without a root. Between begin and end. */
export function* lastEntryLockless(
  vcpu: Vcpu,
  shadow: ShadowMmu,
  addr: number,
): Steps<{ readonly sptep: Sptep; readonly spte: U64; readonly level: number } | null> {
  const walk = shadowWalkInit(vcpu, shadow, vcpu.mmu.root.hpa.value, addr);
  if (walk === null) return null;
  for (;;) {
    const { sptep, level } = walk;
    const spte = yield* loadEntry(shadow.world, sptep);
    if (!shadowWalkNext(shadow, walk, spte)) return { sptep, spte, level };
  }
}

/** shadow_page_table_clear_flood(): the tables on the way are in use, so writes to them are no flood. */
export function* shadowPageTableClearFlood(vcpu: Vcpu, shadow: ShadowMmu, addr: number): Steps<void> {
  yield* walkShadowPageLocklessBegin(vcpu);
  const walk = shadowWalkInit(vcpu, shadow, vcpu.mmu.root.hpa.value, addr);
  for (let goesOn = walk !== null; walk !== null && goesOn; ) {
    const spte = yield* loadEntry(shadow.world, walk.sptep);
    yield* store(walk.sp.write_flooding_count, 0);
    goesOn = shadowWalkNext(shadow, walk, spte);
  }
  yield* walkShadowPageLocklessEnd(vcpu);
}
