/**
 * Migration: a page moves to another frame, as compaction and NUMA balancing make it do.
 *
 *     start(); the entry says "under migration"; end()
 *     copy
 *     the entry maps the new frame
 *
 * The invalidation is over before the page is at its new place: who faults meanwhile waits for the entry. A page that somebody else holds stays
 * where it is. Stands for try_to_migrate_one() and remove_migration_pte() of 6.12 and 7.2, for small pages of one process.
 */
import { load, type Steps, store } from "../../engine/index.ts";
import { type Hva, hva, PAGE_SIZE } from "../../machine/index.ts";
import { readLock, readUnlock, spinLock, spinUnlock } from "../locks.ts";
import { isPresentPte, isWritablePte, makePte, migrationPte, pteFrame } from "./entry.ts";
import type { Mm } from "./mm.ts";
import { MMU_NOTIFY_CLEAR, type NotifierRange, notifyEnd, notifyStart } from "./notifier.ts";
import { copyRevokedPages, PG_EXCLUSIVE, PG_FILE, PG_KSM, putPage, revokeFrame } from "./page.ts";

/** Moves the anonymous page at an address; false when it stays. */
export function* migratePage(mm: Mm, addr: Hva): Steps<boolean> {
  // Linux holds the page's rmap lock and its own: here it is mmap_lock that keeps the mapping.
  yield* readLock(mm.mmapLock);
  const moved = yield* migrateLocked(mm, addr);
  yield* readUnlock(mm.mmapLock);
  return moved;
}

function* migrateLocked(mm: Mm, addr: Hva): Steps<boolean> {
  const { frames } = mm;
  const cell = mm.pteOf(addr);
  const range: NotifierRange = { start: addr, end: hva(addr + PAGE_SIZE), event: MMU_NOTIFY_CLEAR };
  yield* notifyStart(mm, range);
  yield* spinLock(mm.pageTableLock);
  const pte = yield* load(cell);
  const old = pteFrame(pte);
  const head = isPresentPte(pte) && !mm.isZeroPage(old) ? frames.headOf(old) : null;
  const isPlain = head !== null && frames.folioPages(old) === 1 && !frames.hasFlag(old, PG_KSM | PG_FILE);
  const isAlone = isPlain && (yield* load(head._refcount)) === head._mapcount.value;
  const waiting = migrationPte(old, isWritablePte(pte));
  if (isAlone) yield* store(cell, waiting);
  yield* spinUnlock(mm.pageTableLock);
  if (isAlone) yield* revokeFrame(frames, old, "migrated");
  yield* notifyEnd(mm, range);
  if (!isAlone) return false;
  const fresh = frames.allocate(`frame@${addr.toString(16)}`);
  copyRevokedPages(frames, old, fresh);
  yield* spinLock(mm.pageTableLock);
  const isMapped = (yield* load(cell)) === waiting;
  frames.countMapping(old, -1);
  if (isMapped) {
    frames.setFlag(fresh, PG_EXCLUSIVE, frames.hasFlag(old, PG_EXCLUSIVE));
    frames.countMapping(fresh, 1);
    yield* store(cell, makePte(fresh, isWritablePte(pte)));
  }
  yield* spinUnlock(mm.pageTableLock);
  yield* putPage(frames, old);
  // madvise(MADV_DONTNEED) may have emptied the entry meanwhile: then both are free.
  if (!isMapped) yield* putPage(frames, fresh);
  return isMapped;
}
