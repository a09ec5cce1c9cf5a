/**
 * Where a run without a recording puts the workload's memory in the VMM's address space, and how much modelled memory it takes.
 *
 * As the VMM of the recordings does it: for each memory a range is reserved below the one before, 4M larger than needed, and the memory is mapped over
 * it at an address aligned to 2M (1G for pages of 1G), plus its `hva_offset`.
 *
 *     low                                                                                             high
 *     | reserved | memory 1 | reserved || reserved | memory 0 | reserved || reserved | control slot | ...
 */
import { UsageError } from "../engine/index.ts";
import { KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY } from "../kvm/memslots.ts";
import { PAGE_SIZE } from "../machine/index.ts";
import type { HostLayout, MemoryPlace, SlotMarker } from "./host-layout.ts";
import { CONTROL_SLOT, type Memory, type Workload } from "./workload.ts";

const HUGE = 2 * 1024 * 1024;
const GIGANTIC = 512 * HUGE;
const SPARE = 2 * HUGE;

/** Where the control slot's reservation starts: high in a region of 1G, and not aligned to 2M. */
const TOP_RESERVATION = 0x7f00_3f90_1000;

/** A reservation, and the memory in it. */
export interface OwnPlace extends MemoryPlace {
  readonly reserved: { readonly start: number; readonly end: number };
}

export interface OwnLayout extends HostLayout {
  readonly places: readonly OwnPlace[];
}

export function ownLayout(workload: Workload): OwnLayout {
  const places: OwnPlace[] = [];
  let top = TOP_RESERVATION + CONTROL_SLOT.size + SPARE;
  const all: { slot: number; size: number; align: number; offset: number }[] = [
    { slot: CONTROL_SLOT.slot, size: CONTROL_SLOT.size, align: HUGE, offset: 0 },
  ];
  for (const memory of workload.memory) {
    if (memory.alias !== null) continue;
    const align = memory.backing === "hugetlb1g" ? GIGANTIC : HUGE;
    all.push({ slot: memory.slot, size: memory.size, align, offset: memory.hvaOffset });
  }
  for (const { slot, size, align, offset } of all) {
    const start = top - size - offset - Math.max(SPARE, 2 * align);
    const hva = Math.ceil(start / align) * align + offset;
    places.push({ memory: slot, hva, size, reserved: { start, end: top } });
    top = start;
  }
  return { places, slotsMade: 1 + workload.memory.filter((memory) => !memory.later).length };
}

/** The window of host addresses that holds all reservations, aligned to the largest page. */
export function ownWindow(layout: OwnLayout, align: number): { readonly base: number; readonly pages: number } {
  const first = Math.min(...layout.places.map(({ reserved }) => reserved.start));
  const last = Math.max(...layout.places.map(({ reserved }) => reserved.end));
  const base = Math.floor(first / align) * align;
  return { base, pages: Math.ceil((last - base) / align) * (align / PAGE_SIZE) };
}

/** The memslots that the set-up makes. */
export function ownSlots(workload: Workload, layout: HostLayout): SlotMarker[] {
  const hvaOf = (memory: Memory): number => {
    const owner = memory.alias?.of ?? memory.slot;
    const place = layout.places.find((each) => each.memory === owner) as MemoryPlace;
    return place.hva + (memory.alias?.offset ?? 0);
  };
  const controlPlace = layout.places.find(({ memory }) => memory === CONTROL_SLOT.slot) as MemoryPlace;
  const slots = workload.memory
    .filter((memory) => !memory.later)
    .map((memory) => ({
      slot: memory.slot,
      gpa: memory.gpa,
      size: memory.size,
      flags: flagsOf(memory),
      hva: hvaOf(memory),
      counter: 0,
    }));
  return [{ ...CONTROL_SLOT, flags: 0, hva: controlPlace.hva, counter: 0 }, ...slots];
}

function flagsOf(memory: Memory): number {
  return (memory.flags.dirtyLog ? KVM_MEM_LOG_DIRTY_PAGES : 0) | (memory.flags.readonly ? KVM_MEM_READONLY : 0);
}

/** For the kernel's own structures, page tables among them. */
const KERNEL_BYTES = 256 * 1024 * 1024;
const BYTES_MAX = 3.75 * 1024 ** 3;

/**
 * Bytes of modelled memory: reserved, and used only as far as touched. A frame takes twice its size, since each starts at a multiple of it.
 *
 * @param kernelBytes for the kernel's own structures
 * @throws UsageError when that is more than there can be
 */
export function ownBytes(workload: Workload, kernelBytes = KERNEL_BYTES): number {
  const isGigantic = (memory: Memory): boolean => memory.backing === "hugetlb1g";
  const memory = workload.memory.filter(({ alias }) => alias === null);
  const small = memory.filter((each) => !isGigantic(each)).reduce((sum, { size }) => sum + 2 * size, 0);
  const gigantic = memory.filter(isGigantic).reduce((sum, { size }) => sum + size, 0);
  const all = kernelBytes + small + (gigantic === 0 ? 0 : gigantic + GIGANTIC);
  if (all <= BYTES_MAX) return all;
  const asked = Math.round(memory.reduce((sum, { size }) => sum + size, 0) / 1024 ** 2);
  throw new UsageError(
    `${workload.file}: memory: ${asked} MiB are more than a run can hold; make the memories smaller`,
  );
}
