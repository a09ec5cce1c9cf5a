/**
 * The kernel's accesses to the memory of the process that it runs for: __get_user(), __try_cmpxchg_user(), copy_to_user().
 *
 * They go through the process's own page tables. A reference on the page, held for the one access, stands for the TLB entry that the access
 * uses and that the host flushes before it frees the page. An access that faults brings the page in; an atomic one, made where nobody may
 * sleep, fails instead.
 */
import {
  Cell,
  compareExchange,
  compareExchangeEntry,
  exchange,
  exchangeEntry,
  load,
  loadEntry,
  type Steps,
  store,
  storeEntry,
  type U64,
  u64,
  type World,
} from "../../engine/index.ts";
import { type Hva, hva, offsetInPage, PAGE_SIZE, type Pfn } from "../../machine/index.ts";
import { getUserPage, getUserPageFast } from "./gup.ts";
import type { Mm } from "./mm.ts";
import { putPage } from "./page.ts";
import { usePfn } from "./pfnmap.ts";

/** Bytes of one access; it is aligned to them. */
export type UserAccessSize = 1 | 2 | 4 | 8;

/** The page that an access goes to, and whether a reference on it is held. */
interface UsedPage {
  readonly frame: Pfn;
  readonly counted: boolean;
}

/** Null: the process may not access the address that way, or (atomic) its page is not there. */
function* usePage(mm: Mm, addr: Hva, write: boolean, atomic: boolean): Steps<UsedPage | null> {
  const page = hva(addr - offsetInPage(addr));
  const decided = mm.policy?.frameForUser(page, write) ?? null;
  if (decided !== null) return { frame: decided, counted: false };
  if (mm.hasPfnMaps) {
    const frame = yield* usePfn(mm, page, write);
    if (frame !== null) return { frame, counted: true };
  }
  const found = atomic ? yield* getUserPageFast(mm, page, write) : yield* getUserPage(mm, page, write);
  return found === null ? null : { frame: found.pfn, counted: true };
}

/** The access is over. */
function* unusePage(mm: Mm, { frame, counted }: UsedPage): Steps<void> {
  if (counted) yield* putPage(mm.frames, frame);
}

function placeOf({ frame }: UsedPage, addr: Hva): number {
  return frame * PAGE_SIZE + offsetInPage(addr);
}

function narrowCell(world: World, place: number, size: UserAccessSize): Cell {
  return new Cell<number>(world, place, size, false);
}

function* loadAt(world: World, place: number, size: UserAccessSize): Steps<U64> {
  if (size === 8) return yield* loadEntry(world, place);
  return u64(0, yield* load(narrowCell(world, place, size)));
}

/** __get_user(); atomic: __copy_from_user_inatomic(). */
export function* getUser(mm: Mm, addr: Hva, size: UserAccessSize, atomic = false): Steps<U64 | null> {
  const page = yield* usePage(mm, addr, false, atomic);
  if (page === null) return null;
  const value = yield* loadAt(mm.world, placeOf(page, addr), size);
  yield* unusePage(mm, page);
  return value;
}

/** __copy_from_user_inatomic() of `count` words in a row, inside one page. */
export function* getUserWords(mm: Mm, addr: Hva, size: 4 | 8, count: number): Steps<U64[] | null> {
  const page = yield* usePage(mm, addr, false, true);
  if (page === null) return null;
  const first = placeOf(page, addr);
  const words: U64[] = [];
  for (let i = 0; i < count; i++) words.push(yield* loadAt(mm.world, first + i * size, size));
  yield* unusePage(mm, page);
  return words;
}

/** __try_cmpxchg_user(): the value found, which is the expected one if and only if it was replaced. Of less than eight bytes the rest is zero. */
export function* tryCmpxchgUser(
  mm: Mm,
  addr: Hva,
  size: UserAccessSize,
  expected: U64,
  replacement: U64,
): Steps<U64 | null> {
  const page = yield* usePage(mm, addr, true, false);
  if (page === null) return null;
  const found = yield* compareExchangeAt(mm.world, placeOf(page, addr), size, expected, replacement);
  yield* unusePage(mm, page);
  return found;
}

/** xchg on an address of the process: the value that was there; of less than eight bytes the rest is zero. */
export function* exchangeUser(mm: Mm, addr: Hva, value: U64, size: UserAccessSize): Steps<U64 | null> {
  const page = yield* usePage(mm, addr, true, false);
  if (page === null) return null;
  const place = placeOf(page, addr);
  const found =
    size === 8
      ? yield* exchangeEntry(mm.world, place, value)
      : u64(0, yield* exchange(narrowCell(mm.world, place, size), value.lo >>> 0));
  yield* unusePage(mm, page);
  return found;
}

/** cmpxchg of a word at a physical address; the value found. Of less than eight bytes the rest is zero. */
export function* compareExchangeAt(
  world: World,
  place: number,
  size: UserAccessSize,
  expected: U64,
  replacement: U64,
): Steps<U64> {
  if (size === 8) return yield* compareExchangeEntry(world, place, expected, replacement);
  return u64(0, yield* compareExchange(narrowCell(world, place, size), expected.lo >>> 0, replacement.lo >>> 0));
}

/** __copy_to_user() of up to eight bytes inside one page; false when the process may not write there. */
export function* putUser(mm: Mm, addr: Hva, value: U64, size: UserAccessSize): Steps<boolean> {
  const page = yield* usePage(mm, addr, true, false);
  if (page === null) return false;
  const place = placeOf(page, addr);
  if (size === 8) yield* storeEntry(mm.world, place, value);
  else yield* store(narrowCell(mm.world, place, size), (value.lo & (size === 4 ? -1 : 2 ** (8 * size) - 1)) >>> 0);
  yield* unusePage(mm, page);
  return true;
}
