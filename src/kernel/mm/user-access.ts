/**
 * The kernel's accesses to the memory of the process that it runs for: __get_user(), __try_cmpxchg_user(), copy_to_user().
 *
 * They go through the process's own page tables. A reference on the page, held for the one access, stands for the TLB entry that the access
 * uses and that the host flushes before it frees the page. An access that faults brings the page in; an atomic one, made where nobody may
 * sleep, fails instead.
 */
import { Cell, compareExchange, load, type Steps, store, type U64, u64, type World } from "../../engine/index.ts";
import { type Hva, hva, PAGE_SIZE, type Pfn } from "../../machine/index.ts";
import { getUserPage, getUserPageFast } from "./gup.ts";
import type { Mm } from "./mm.ts";
import { putPage } from "./page.ts";

/** Bytes of one access; it is aligned to them. */
export type UserAccessSize = 1 | 2 | 4 | 8;

type Body<T> = (place: number) => Steps<T>;

/** Null: the process may not access the address that way, or (atomic) its page is not there. */
function* withPage<T>(mm: Mm, addr: Hva, write: boolean, atomic: boolean, body: Body<T>): Steps<T | null> {
  const offset = addr % PAGE_SIZE;
  const page = hva(addr - offset);
  const decided = mm.policy?.frameForUser(page, write) ?? null;
  if (decided !== null) return yield* body(decided * PAGE_SIZE + offset);
  const found = atomic ? yield* getUserPageFast(mm, page, write) : yield* getUserPage(mm, page, write);
  if (found === null) return null;
  const frame: Pfn = found.pfn;
  const result = yield* body(frame * PAGE_SIZE + offset);
  yield* putPage(mm.frames, frame);
  return result;
}

function wideCell(world: World, place: number): Cell<U64> {
  return new Cell<U64>(world, place, 8, true);
}

function narrowCell(world: World, place: number, size: UserAccessSize): Cell {
  return new Cell<number>(world, place, size, false);
}

/** __get_user(); atomic: __copy_from_user_inatomic(). */
export function* getUser(mm: Mm, addr: Hva, size: UserAccessSize, atomic = false): Steps<U64 | null> {
  return yield* withPage(mm, addr, false, atomic, function* (place): Steps<U64> {
    if (size === 8) return yield* load(wideCell(mm.world, place));
    return u64(0, yield* load(narrowCell(mm.world, place, size)));
  });
}

/** __try_cmpxchg_user(): the value found, which is the expected one if and only if it was replaced. */
export function* tryCmpxchgUser(mm: Mm, addr: Hva, size: 4 | 8, expected: U64, replacement: U64): Steps<U64 | null> {
  return yield* withPage(mm, addr, true, false, function* (place): Steps<U64> {
    if (size === 8) return yield* compareExchange(wideCell(mm.world, place), expected, replacement);
    return u64(0, yield* compareExchange(narrowCell(mm.world, place, 4), expected.lo >>> 0, replacement.lo >>> 0));
  });
}

/** __copy_to_user() of up to eight bytes inside one page; false when the process may not write there. */
export function* putUser(mm: Mm, addr: Hva, value: U64, size: UserAccessSize): Steps<boolean> {
  const done = yield* withPage(mm, addr, true, false, function* (place): Steps<true> {
    if (size === 8) yield* store(wideCell(mm.world, place), value);
    else yield* store(narrowCell(mm.world, place, size), (value.lo & (size === 4 ? -1 : 2 ** (8 * size) - 1)) >>> 0);
    return true;
  });
  return done !== null;
}
