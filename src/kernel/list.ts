/**
 * struct list_head: doubly linked lists through the objects that are on them.
 *
 * A head, or a link inside an object, is two words in the heap: next and prev. A list is always protected by somebody's lock, so the accesses are
 * plain ones. An object is named by the address of its link.
 */
import { Cell, type World } from "../engine/index.ts";

function next(world: World, at: number): Cell {
  return new Cell<number>(world, at, 8, false);
}

function prev(world: World, at: number): Cell {
  return new Cell<number>(world, at + 8, 8, false);
}

/** INIT_LIST_HEAD(), of a head or of a link that is on no list. */
export function listInit(world: World, head: number): void {
  next(world, head).value = head;
  prev(world, head).value = head;
}

/** list_add(): behind the head, before all others. */
export function listAdd(world: World, link: number, head: number): void {
  const first = next(world, head).value;
  next(world, link).value = first;
  prev(world, link).value = head;
  prev(world, first).value = link;
  next(world, head).value = link;
}

/** list_add_tail(): behind all others. */
export function listAddTail(world: World, link: number, head: number): void {
  listAdd(world, link, prev(world, head).value);
}

/** list_del_init() */
export function listDel(world: World, link: number): void {
  const after = next(world, link).value;
  const before = prev(world, link).value;
  next(world, before).value = after;
  prev(world, after).value = before;
  listInit(world, link);
}

/** list_empty() */
export function isListEmpty(world: World, head: number): boolean {
  return next(world, head).value === head;
}

/** list_for_each_safe(): the links from the head on. The one at hand may be taken off; the next one must stay. */
export function* listEntries(world: World, head: number): Generator<number> {
  let at = next(world, head).value;
  while (at !== head) {
    const following = next(world, at).value;
    yield at;
    at = following;
  }
}

/** list_for_each_prev_safe() */
export function* listEntriesReverse(world: World, head: number): Generator<number> {
  let at = prev(world, head).value;
  while (at !== head) {
    const following = prev(world, at).value;
    yield at;
    at = following;
  }
}
