/**
 * Dirty completeness: a page that the guest writes after the log was fetched is in the next log, so a migration that copies what the logs name ends
 * with what the guest has.
 *
 * The VMM of a scenario fetches logs and copies the pages that they name, as a migration does. When all is over, every frame either has the
 * contents of its copy, or is in the log that would be fetched next.
 */
import { assert, Cell, load, type Steps, u64ToNumber, type World } from "../engine/index.ts";
import type { DirtyRing } from "../kvm/dirty-ring.ts";
import { gfnToHva, type KvmMemorySlot } from "../kvm/memslots.ts";
import type { Vm } from "../kvm/vm.ts";
import { type Gfn, PAGE_SIZE, type Pfn } from "../machine/index.ts";

/** What the migration has of each frame: its first word, by the frame's index in the slot. */
export type Copies = Readonly<Record<number, number>>;

/** Copies frames of a slot, as the VMM reads them. */
export function* copyFrames(vm: Vm, slot: KvmMemorySlot, frames: readonly number[]): Steps<Copies> {
  const copies: Record<number, number> = {};
  for (const index of frames)
    copies[index] = yield* load(wordAt(vm.world, hostFrame(vm, slot, index)), `copy page ${index}`);
  return copies;
}

/** @returns null when no write was lost, else which frame's is. @param copies what the last copy of each frame had */
export function dirtyLogProblem(vm: Vm, slot: KvmMemorySlot, copies: Copies): string | null {
  for (const [index, copied] of Object.entries(copies)) {
    const written = wordAt(vm.world, hostFrame(vm, slot, Number(index))).peek();
    if (written === copied || isLogged(vm, slot, Number(index))) continue;
    return `page ${index} has ${written}, its copy ${copied}, and it is in no log`;
  }
  return null;
}

/** The host's frame behind a page of the slot; the host does not move pages while a scenario of logging runs. */
function hostFrame(vm: Vm, slot: KvmMemorySlot, index: number): Pfn {
  const frame = vm.kvm.mm.frameAt(gfnToHva(slot, (slot.base_gfn.value + index) as Gfn));
  assert(frame !== null, "a logged page has no host page");
  return frame;
}

/** The first word of a frame. */
export function wordAt(world: World, frame: Pfn): Cell {
  return new Cell<number>(world, frame * PAGE_SIZE, 8, false);
}

/** Whether the next log has the page. */
export function isLogged(vm: Vm, slot: KvmMemorySlot, index: number): boolean {
  const bitmap = slot.dirty_bitmap.peek();
  if (bitmap === 0) return vm.vcpus.some(({ dirtyRing }) => dirtyRing !== null && isInRing(dirtyRing, slot, index));
  const word = new Cell<number>(vm.world, bitmap + 4 * Math.floor(index / 32), 4, false).peek();
  return ((word >>> (index % 32)) & 1) !== 0;
}

function isInRing(ring: DirtyRing, slot: KvmMemorySlot, index: number): boolean {
  const dirty = ring.fields.dirty_index.peek();
  for (let at = ring.fields.reset_index.peek(); at !== dirty; at = (at + 1) >>> 0) {
    const entry = ring.entry(at);
    if (entry.slot.peek() === slot.id.peek() && u64ToNumber(entry.offset.peek()) === index) return true;
  }
  return false;
}
