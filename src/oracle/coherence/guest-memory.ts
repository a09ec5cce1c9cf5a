/**
 * The guest's memory as the VMM has it, and what its words were before.
 *
 *     place      a host-virtual address of the VMM: two guest frames that are the same host memory have the same places
 *     word       eight bytes at a place that is a multiple of 8
 *     version    what a word was from one moment to the next
 *
 * A translation may be older than the tables, so the oracle of coherence needs to know what an entry was. Words are followed from the first time that
 * somebody asks for them: who stores to one asks before it does, so nothing is missed. Moments are counted; they have no length.
 */
import type { World } from "../../engine/index.ts";
import type { Kvm } from "../../kvm/kvm.ts";
import { KVM_MEMSLOT_INVALID } from "../../kvm/memslots.ts";
import { type Hva, hva, PAGE_SIZE } from "../../machine/index.ts";

export interface Word {
  readonly lo: number;
  readonly hi: number;
}

/** A word from the moment `from` up to, and not including, `to`. */
export interface Version extends Word {
  readonly from: number;
  readonly to: number;
}

export interface Change {
  readonly place: number;
  readonly old: Word;
  readonly new: Word;
}

/** A memslot, as plain numbers. */
export interface SlotNow {
  readonly id: number;
  readonly baseGfn: number;
  readonly npages: number;
  readonly hva: number;
  readonly flags: number;
  readonly dirtyBitmap: number;
}

const NEVER = Number.POSITIVE_INFINITY;

export class GuestMemory {
  readonly world: World;
  /** The present moment. */
  now = 0;
  private readonly kvm: Kvm;
  /** By place of the page, then by offset in it. */
  private readonly pages = new Map<number, Map<number, Version[]>>();
  private slotsFound: readonly SlotNow[] | null = null;

  constructor(kvm: Kvm) {
    this.kvm = kvm;
    this.world = kvm.world;
  }

  // --- where things are --------------------------------------------------------------------------------------------

  /** The memslots that the guest has. */
  slots(): readonly SlotNow[] {
    this.slotsFound ??= this.readSlots();
    return this.slotsFound;
  }

  /** Memslots may have changed. */
  forgetSlots(): void {
    this.slotsFound = null;
  }

  private readSlots(): readonly SlotNow[] {
    const { memslots } = this.kvm;
    return memslots
      .slotsOf(memslots.setAt(memslots.active.peek()))
      .map((slot) => ({
        id: slot.id.peek(),
        baseGfn: slot.base_gfn.peek(),
        npages: slot.npages.peek(),
        hva: slot.userspace_addr.peek(),
        flags: slot.flags.peek(),
        dirtyBitmap: slot.dirty_bitmap.peek(),
      }))
      .filter(({ flags }) => (flags & KVM_MEMSLOT_INVALID) === 0);
  }

  slotOf(gfn: number): SlotNow | null {
    return this.slots().find(({ baseGfn, npages }) => gfn >= baseGfn && gfn < baseGfn + npages) ?? null;
  }

  /** Where the VMM has a guest-physical address; null where there is no memory. */
  placeOf(gpa: number): number | null {
    const slot = this.slotOf(Math.floor(gpa / PAGE_SIZE));
    return slot === null ? null : slot.hva + gpa - slot.baseGfn * PAGE_SIZE;
  }

  /** The guest's frames of a place. */
  gfnsOf(place: number): number[] {
    return this.slots()
      .filter((slot) => place >= slot.hva && place < slot.hva + slot.npages * PAGE_SIZE)
      .map((slot) => slot.baseGfn + Math.floor((place - slot.hva) / PAGE_SIZE));
  }

  /** The host's frame at a place; null when there is none at the moment. */
  frameAt(place: number): number | null {
    return this.kvm.mm.frameAt(pageOf(place));
  }

  /** The VMM's own tables allow it to write there. */
  isWritableAt(place: number): boolean {
    return this.kvm.mm.isWritableAt(pageOf(place));
  }

  // --- what was there ----------------------------------------------------------------------------------------------

  /** The next moment begins. */
  tick(): number {
    return ++this.now;
  }

  /** Every version of a word, oldest first. It is followed from now on; before that it is taken to have been as it is. */
  versionsOf(place: number): readonly Version[] {
    const offset = place % PAGE_SIZE;
    const page = place - offset;
    let words = this.pages.get(page);
    if (words === undefined) {
      words = new Map();
      this.pages.set(page, words);
    }
    let versions = words.get(offset);
    if (versions === undefined) {
      const frame = this.frameAt(page);
      const word = frame === null ? { lo: 0, hi: 0 } : this.read(frame, offset);
      versions = [{ ...word, from: 0, to: NEVER }];
      words.set(offset, versions);
    }
    return versions;
  }

  current(place: number): Word {
    return this.versionsOf(place).at(-1) as Version;
  }

  /** Looks at every word that is followed: what has changed since the last look becomes a version that begins now. */
  look(): Change[] {
    const changes: Change[] = [];
    const { heap } = this.world;
    for (const [page, words] of this.pages) {
      const frame = this.frameAt(page);
      // A page that is out of memory has what it had.
      if (frame === null) continue;
      for (const [offset, versions] of words) {
        const last = versions[versions.length - 1] as Version;
        const lo = heap.read(frame * PAGE_SIZE + offset, 8) >>> 0;
        const hi = heap.high >>> 0;
        if (lo === last.lo && hi === last.hi) continue;
        changes.push({ place: page + offset, old: last, new: { lo, hi } });
      }
    }
    if (changes.length === 0) return changes;
    const now = this.tick();
    for (const { place, new: word } of changes) {
      const versions = this.versionsOf(place) as Version[];
      const last = versions.pop() as Version;
      versions.push({ ...last, to: now }, { ...word, from: now, to: NEVER });
    }
    return changes;
  }

  /** Pages whose contents somebody has thrown away: nothing is known of them any more. No table may have been there. */
  forget(isGone: (place: number) => boolean): void {
    for (const page of [...this.pages.keys()]) if (isGone(page)) this.pages.delete(page);
  }

  private read(frame: number, offset: number): Word {
    const { heap } = this.world;
    const lo = heap.read(frame * PAGE_SIZE + offset, 8);
    return { lo: lo >>> 0, hi: heap.high >>> 0 };
  }
}

function pageOf(place: number): Hva {
  return hva(place - (place % PAGE_SIZE));
}
