/**
 * Where the workload's memory lies in the VMM's address space.
 *
 * Host addresses differ from run to run, so events that name them are compared as (memory, offset). The VMM says where memory N is in
 * a marker, `setup slot N gpa G size S flags F hva H`. Two kinds of memory need more:
 *
 *   alias_of   has no mapping of its own: its marker points into another memory, and addresses there are that other memory's.
 *   later      is mapped during set-up but gets no memslot then, and `slot_create` has no address in its marker. The mapping itself shows,
 *              though: the VMM reserves an address range and maps the memory over it with MAP_FIXED, and the kernel announces the
 *              end of what was there: an unmap notification (event 0) of exactly the memory's place, before the next marker.
 *
 * `hva_offset` needs nothing: the marker has the address with the offset in it.
 */
import type { EventLine } from "./run.ts";
import { CONTROL_SLOT, type Workload } from "./workload.ts";

/** One memory's place: `size` bytes from host address `hva`. */
export interface MemoryPlace {
  readonly memory: number;
  readonly hva: number;
  readonly size: number;
}

/** A memslot as the set-up's marker gives it. */
export interface SlotMarker {
  readonly slot: number;
  readonly gpa: number;
  readonly size: number;
  readonly flags: number;
  readonly hva: number;
  /** Order among all events of the trace; 0 when it is in none. */
  readonly counter: number;
}

/** Part of a host address range that lies in a memory, in bytes. */
export interface Piece {
  readonly memory: number;
  readonly offset: number;
  readonly length: number;
}

export interface HostLayout {
  /** In the order of the set-up; they do not overlap. */
  readonly places: readonly MemoryPlace[];
  /** How many memslots the set-up made. */
  readonly slotsMade: number;
}

export const EMPTY_LAYOUT: HostLayout = { places: [], slotsMade: 0 };

const SLOT = /^setup slot (\d+) gpa 0x([0-9a-f]+) size 0x([0-9a-f]+) flags (\d+) hva 0x([0-9a-f]+)\s*$/;

/** Reads a `setup slot` marker; null for any other line. */
export function parseSlotMarker(line: EventLine): SlotMarker | null {
  const m = line.event === "tracing_mark_write" ? SLOT.exec(line.text) : null;
  if (m === null) return null;
  const [, slot, gpa, size, flags, hva] = m as unknown as readonly string[];
  const hex = (digits: string | undefined) => Number.parseInt(digits ?? "", 16);
  return { slot: Number(slot), gpa: hex(gpa), size: hex(size), flags: Number(flags), hva: hex(hva), counter: 0 };
}

/** The layout after one more marker. */
export function withSlot(layout: HostLayout, slot: SlotMarker): HostLayout {
  const slotsMade = layout.slotsMade + 1;
  const isAlias = layout.places.some((place) => slot.hva >= place.hva && slot.hva < place.hva + place.size);
  if (isAlias) return { places: layout.places, slotsMade };
  return { places: [...layout.places, { memory: slot.slot, hva: slot.hva, size: slot.size }], slotsMade };
}

/**
 * The layout that a set-up leaves behind.
 *
 * @param workload tells which memory comes `later`; without it, only memory that got a memslot is placed
 */
export function layoutOf(setup: readonly EventLine[], workload?: Workload): HostLayout {
  let layout = EMPTY_LAYOUT;
  const waiting = workload === undefined ? [] : [{ ...CONTROL_SLOT, later: false, alias: null }, ...workload.memory];
  const later: MemoryPlace[] = [];
  let unmapped: { start: number; end: number }[] = [];
  const placeLater = () => {
    while (waiting[0]?.later === true) {
      const entry = waiting.shift() as (typeof waiting)[number];
      const at = unmapped.findIndex((range) => range.end - range.start === entry.size);
      const range = unmapped[at];
      if (range === undefined || entry.alias !== null) continue;
      later.push({ memory: entry.slot, hva: range.start, size: entry.size });
      unmapped = unmapped.slice(at + 1);
    }
  };
  for (const line of setup) {
    const slot = parseSlotMarker(line);
    if (slot !== null) {
      placeLater();
      if (waiting[0]?.slot === slot.slot) waiting.shift();
      layout = withSlot(layout, slot);
      unmapped = [];
    } else if (line.event === "mn_inv_start") {
      const m = /start=0x([0-9a-f]+) end=0x([0-9a-f]+) event=0\b/.exec(line.text);
      if (m !== null)
        unmapped.push({ start: Number.parseInt(m[1] as string, 16), end: Number.parseInt(m[2] as string, 16) });
    } else if (line.event === "tracing_mark_write") placeLater();
  }
  return { places: [...layout.places, ...later], slotsMade: layout.slotsMade };
}

/** The parts of a host range that lie in memory; none when it is the VMM's own. `end` exclusive. */
export function piecesOf(layout: HostLayout, start: number, end: number): readonly Piece[] {
  const pieces: Piece[] = [];
  for (const place of layout.places) {
    const from = Math.max(start, place.hva);
    const to = Math.min(end, place.hva + place.size);
    if (from < to) pieces.push({ memory: place.memory, offset: from - place.hva, length: to - from });
  }
  return pieces;
}
